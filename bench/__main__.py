"""`python -m bench`."""

import sys

from broker.runtime import extras, signals

with extras.needed("bench"):
    from bench.cli import main

if __name__ == "__main__":
    signals.leave(main(sys.argv[1:]))
