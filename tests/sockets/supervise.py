"""A supervisor over workers with scripted engines: `python -m tests.sockets.supervise HOME COUNT`."""

import sys
from pathlib import Path

from tests.sockets.workers_side import config
from workers import logs
from workers.procs import adopt_orphans
from workers.supervisor import Supervisor


def main() -> int:
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    logs.setup("workers", "info")
    adopt_orphans()
    supervisor = Supervisor([config(home, f"cpu-{index}") for index in range(count)])
    code = supervisor.run()
    sys.stderr.write(f"{supervisor.fault}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
