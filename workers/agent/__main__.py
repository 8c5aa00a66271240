"""`python -m workers.agent`."""

import sys

from broker.runtime import signals

signals.obey(sys.argv[1:])

from workers.agent.cli import main  # noqa: E402  SIGTERM may come while this imports
from workers.supervisor.process_groups import adopt_orphans  # noqa: E402

# Of this process, not of whatever else calls `main`: it kills and reaps children that are not its own.
adopt_orphans()
signals.leave(main(sys.argv[1:]))
