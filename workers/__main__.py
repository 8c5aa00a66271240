"""`python -m workers`."""

import sys

from broker.wire import stopping

stopping.obey(sys.argv[1:])

from workers.cli import main  # noqa: E402  SIGTERM may come while this imports
from workers.procs import adopt_orphans  # noqa: E402

# Of this process, not of whatever else calls `main`: it kills and reaps what it does not know.
adopt_orphans()
stopping.leave(main(sys.argv[1:]))
