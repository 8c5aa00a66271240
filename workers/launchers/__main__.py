"""`python -m workers --launcher NAME`, in a process of its own."""

import sys

from broker.runtime import extras

with extras.needed("workers --launcher"):
    from workers.launchers.cli import main

sys.exit(main(sys.argv[1:]))
