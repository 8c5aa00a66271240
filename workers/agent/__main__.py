"""`python -m workers.agent`."""

import sys

from workers.agent import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
