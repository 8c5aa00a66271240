"""`python -m http_edge`: see `cli`."""

import sys

from http_edge.cli import main

sys.exit(main(sys.argv[1:]))
