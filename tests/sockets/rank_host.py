"""A rank host whose engines are scripted: `python -m tests.sockets.rank_host ARGUMENTS`, those of `python -m workers.rank`."""

import sys

from tests.sockets.workers_side import ENGINE
from workers.rank.cli import main
from workers.supervisor.process_groups import adopt_orphans

if __name__ == "__main__":
    adopt_orphans()
    sys.exit(main(sys.argv[1:], engine_command=ENGINE))
