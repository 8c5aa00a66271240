"""`zoetrope serve`, in a process of its own."""

import sys

from broker.runtime import extras

with extras.needed("zoetrope serve"):
    from zoetrope.serving.service import main

sys.exit(main(sys.argv[1:]))
