"""`python -m workers`."""

import sys

from broker.wire import stopping

stopping.obey(sys.argv[1:])

from workers.cli import main  # noqa: E402  SIGTERM may come while this imports

stopping.leave(main(sys.argv[1:]))
