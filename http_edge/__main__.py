"""`python -m http_edge`: see `cli`."""

import sys

from broker.runtime import extras, signals

signals.obey(sys.argv[1:])

with extras.needed("http_edge"):
    from http_edge.cli import main  # SIGTERM may come while this imports

signals.leave(main(sys.argv[1:]))
