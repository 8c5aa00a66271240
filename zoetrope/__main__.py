"""`python -m zoetrope`: the command."""

import sys

from zoetrope.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
