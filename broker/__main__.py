"""`python -m broker`."""

import sys

from broker.runtime import signals

signals.obey(sys.argv[1:])

from broker.cli import main  # noqa: E402  SIGTERM may come while this imports

signals.leave(main(sys.argv[1:]))
