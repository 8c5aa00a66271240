"""Run one broker, one pool of workers and one or several edges in the foreground: what the two start scripts share.

With one service the edge shows the whole pool. With several, each edge has its own port and shows one worker only.
Ends when any process ends or on Ctrl-C, and takes all processes with it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from honcho.manager import Manager
from honcho.printer import Printer

READY = Path(__file__).with_name("_ready.py")


def commands(services: int, port: int, gpus: str, model: str) -> dict[str, list[str]]:
    """Name and command line of every process. `services` 1: the whole pool behind `port`."""
    ports = [str(port + number) for number in range(services)]
    result = {
        "broker": ["-m", "broker"],
        "workers": ["-m", "workers", *(["--gpus", gpus] if gpus else []), *(["--model", model] if model else [])],
    }
    if services == 1:
        result["edge"] = ["-m", "http_edge", "--port", ports[0]]
    else:
        device = "cpu" if gpus.startswith("cpu") else "gpu"
        for number, own in enumerate(ports):
            result[f"edge-{own}"] = ["-m", "http_edge", "--port", own, "--worker", f"{device}-{number}"]
    # One service is ready with its first worker, several with one worker each.
    result["ready"] = [str(READY), str(services), *ports]
    return {name: [sys.executable, *line] for name, line in result.items()}


def port_number(text: str) -> int:
    """A TCP port. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port, 1 to 65535")
    return int(text)


def main() -> int:
    """The exit status of the first process that ended; 130 after Ctrl-C, 143 after SIGTERM."""
    options = argparse.ArgumentParser(description="Run the whole service in the foreground.", allow_abbrev=False)
    options.add_argument("--port", "--start_port", dest="port", type=port_number, default=8000, help="first port")
    options.add_argument("--services", type=int, default=1, help="edges on consecutive ports, one worker each")
    options.add_argument("--gpus", default="", help="0-7, 0,2, auto, cpu, cpu:2 (default: settings decide)")
    options.add_argument("--model", default="", help="model directory (default: settings decide)")
    arguments = options.parse_args()
    if arguments.services < 1 or arguments.port + arguments.services - 1 > 65_535:
        options.error(f"--services {arguments.services} from port {arguments.port} does not fit into 1 to 65535")
    manager = Manager(Printer(sys.stdout))
    for name, line in commands(arguments.services, arguments.port, arguments.gpus, arguments.model).items():
        manager.add_process(name, "exec " + shlex.join(line), env={**os.environ, "PYTHONUNBUFFERED": "1"})
    manager.loop()
    return int(manager.returncode or 0)


if __name__ == "__main__":
    sys.exit(main())
