"""`python -m workers`."""

import sys

from broker.runtime import extras, signals

signals.obey(sys.argv[1:])

with extras.needed("workers"):
    from workers.cli import main  # SIGTERM may come while this imports
    from workers.supervisor.process_groups import adopt_orphans

# Of this process, not of whatever else calls `main`: it kills and reaps children that are not its own.
adopt_orphans()
signals.leave(main(sys.argv[1:]))
