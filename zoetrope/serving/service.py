"""`zoetrope serve`: one broker, one pool of workers and one or several edges in the foreground.

With one service the edge shows the whole pool. With several, each edge has its own port and shows one worker only.
Ends when any process ends or on Ctrl-C, takes all processes with it, and prints last why it ended.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from honcho.printer import Message, Printer

from zoetrope.serving import process_tree

#: Of several services, unless another is named.
FIRST_PORT = 8000

_DESCRIPTION = """\
Run the whole service in the foreground: broker, workers and the HTTP edge. Ctrl-C stops it, and hands back what is being drawn. Every other
option is a setting: zoetrope.toml, or a variable ZOETROPE_*. Exit codes: 130 after Ctrl-C, 143 after SIGTERM, else that of the first
process that ended.
"""

#: honcho's own name among its processes, and what it prints of one that ended.
_SYSTEM = "system"
_ENDED = re.compile(r"(\S+) stopped \(rc=(-?\d+)\)")
_STOPPED_BY_SIGNAL = re.compile(r"SIG(TERM|INT) received")


class EndingPrinter(Printer):  # type: ignore[misc]  # honcho has no types
    """honcho's printer, which also keeps the last line of every process until one ends by itself: that line is why all of them end."""

    def __init__(self, output: TextIO) -> None:
        super().__init__(output)
        self._last_lines: dict[str, str] = {}
        self._over = False
        #: Why the service ends; "" while it runs, when it was stopped by a signal, and when the first process ended with 0.
        self.reason = ""

    def write(self, message: Message) -> None:
        try:
            super().write(message)
        except OSError as error:
            # No reason to leave the services alone. A full disk may have room again; a terminal or reader that is gone stays so.
            if error.errno in (errno.EIO, errno.EPIPE):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.output.fileno())
        data = message.data
        text = (data.decode("utf-8", "replace") if isinstance(data, bytes) else data).strip()
        if message.name != _SYSTEM:
            if text:
                self._last_lines[message.name] = text
            return
        ended = _ENDED.fullmatch(text)
        if ended is not None and not self._over and ended[2] != "0":
            last_line = self._last_lines.get(ended[1], "it said nothing")
            self.reason = f"stopped: {ended[1]} {_how(int(ended[2]))}: {last_line}"
        self._over = self._over or ended is not None or _STOPPED_BY_SIGNAL.fullmatch(text) is not None


def _how(code: int) -> str:
    """Describe a process's end by its exit code; honcho gives the number of a signal below 0, a shell adds 128 to it."""
    number = -code if code < 0 else code - 128
    if number in (item.value for item in signal.Signals):
        name = signal.Signals(number).name
        hint = ", as by kill -9 or for want of memory" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}; its last line"
    return f"ended with code {code}"


def commands(
    services: int, port: int | None, gpus: str, model: str, output_roots: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Name and command line of every process. `services` 1: the whole pool behind `port`; None, "", (): from the settings."""
    # The start directory, where relative paths lead, stays one of them.
    roots = ["--output-roots", ",".join([".", *output_roots])] if output_roots else []
    result = {
        "broker": ["-m", "broker"],
        "workers": ["-m", "workers", *(["--gpus", gpus] if gpus else []), *(["--model", model] if model else [])],
    }
    if services == 1:
        result["edge"] = ["-m", "http_edge", *([] if port is None else ["--port", str(port)]), *roots]
    else:
        device = "cpu" if gpus.startswith("cpu") else "gpu"
        ports = [str((FIRST_PORT if port is None else port) + number) for number in range(services)]
        for number, own in enumerate(ports):
            result[f"edge-{own}"] = ["-m", "http_edge", "--port", own, "--worker", f"{device}-{number}", *roots]
        # Each edge is ready with any worker; together they are with one each.
        result["ready"] = ["-m", "zoetrope.serving.ready", str(services), *ports]
    return {name: [sys.executable, *line] for name, line in result.items()}


def port_number(text: str) -> int:
    """A TCP port. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port, 1 to 65535")
    return int(text)


def main(argv: Sequence[str]) -> int:
    """Run the service; returns the exit status of the first process that ended; 130 after Ctrl-C, 143 after SIGTERM."""
    options = argparse.ArgumentParser(prog="zoetrope serve", description=_DESCRIPTION, allow_abbrev=False)
    options.add_argument(
        "--port",
        "--start_port",
        dest="port",
        type=port_number,
        default=None,
        help=f"first port (default: settings decide; {FIRST_PORT} for several services)",
    )
    options.add_argument("--services", type=int, default=1, help="edges on consecutive ports, one worker each")
    options.add_argument(
        "--gpus", default="", help="0-7, 0,2, auto, cpu, cpu:2; 0-7/2: groups of two (default: settings decide)"
    )
    options.add_argument("--model", default="", help="model directory (default: settings decide)")
    options.add_argument(
        "--output-root",
        dest="output_roots",
        metavar="DIR",
        action="append",
        default=[],
        help="directory below which clients may name absolute paths to save to; may be given several times (default: settings decide)",
    )
    arguments = options.parse_args(argv)
    if arguments.services < 1 or (arguments.port or FIRST_PORT) + arguments.services - 1 > 65_535:
        options.error(
            f"--services {arguments.services} from port {arguments.port or FIRST_PORT} does not fit into 1 to 65535"
        )
    return run(commands(arguments.services, arguments.port, arguments.gpus, arguments.model, arguments.output_roots))


def run(processes: Mapping[str, Sequence[str]]) -> int:
    """Run these command lines by their names until one ends, or a signal ends all; the exit status, as `main`."""
    printer = EndingPrinter(sys.stdout)
    manager = process_tree.TiedManager(printer)
    process_tree.stop_on_hangup()
    for name, line in processes.items():
        manager.add_process(name, "exec " + shlex.join(line), env={**os.environ, "PYTHONUNBUFFERED": "1"})
    manager.loop()
    if printer.reason:
        sys.stderr.write(printer.reason + "\n")
    return int(manager.returncode or 0)
