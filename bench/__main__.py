"""`python -m bench`."""

import sys

from bench.cli import main
from broker.wire import stopping

if __name__ == "__main__":
    stopping.leave(main(sys.argv[1:]))
