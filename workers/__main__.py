"""`python -m workers`."""

import sys

from workers import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
