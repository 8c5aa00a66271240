"""`python -m broker`."""

import sys

from broker.runtime import extras, signals

signals.obey(sys.argv[1:])

with extras.needed("broker"):
    from broker.cli import main  # SIGTERM may come while this imports

signals.leave(main(sys.argv[1:]))
