"""`python -m http_edge`: see `cli`."""

import sys

from broker.runtime import signals

signals.obey(sys.argv[1:])

from http_edge.cli import main  # noqa: E402  SIGTERM may come while this imports

signals.leave(main(sys.argv[1:]))
