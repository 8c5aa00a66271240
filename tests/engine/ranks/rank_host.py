"""Rank host whose engines are those of `process`: `python -m tests.engine.ranks.rank_host`, with arguments of `python -m workers.rank`."""

import sys

from workers.rank.cli import main
from workers.supervisor.process_groups import adopt_orphans

if __name__ == "__main__":
    adopt_orphans()
    sys.exit(main(sys.argv[1:], engine_command=(sys.executable, "-m", "tests.engine.ranks.process")))
