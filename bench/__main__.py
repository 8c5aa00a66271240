"""`python -m bench`."""

import sys

from bench.cli import main
from broker.runtime import signals

if __name__ == "__main__":
    signals.leave(main(sys.argv[1:]))
