"""A supervisor over workers with scripted engines: `python -m tests.sockets.supervise HOME COUNT`."""

import sys
from pathlib import Path

from broker.runtime import log_context
from tests.sockets.workers_side import config
from workers.supervisor.process_groups import adopt_orphans
from workers.supervisor.supervisor import Supervisor


def main() -> int:
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    log_context.setup("workers", "info")
    adopt_orphans()
    supervisor = Supervisor([config(home, f"cpu-{index}") for index in range(count)])
    code = supervisor.run()
    sys.stderr.write(f"{supervisor.fault}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
