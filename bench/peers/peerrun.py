"""Measuring a peer in one mode, in a process of its own with a time limit, so that no peer can hang or litter the run.

`python -m bench.peers.peerrun ORDER` (JSON) measures and prints a line of JSON per part; `measure` is the caller's side.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from bench.harness.process import clean_environ
from bench.harness.procs import pinned
from bench.peers import scenarios
from bench.peers.peerkit import MARK_VARIABLE, WORKERS, Done, PeerAdapter, Unavailable, driver_cores, kill_marked
from bench.peers.scenarios import SLOTS, Crash, Latency, Rate, Sizes, Survival, Waits
from bench.report.errors import BenchError

#: The longest that a part may take beside the time of its sizes, its servers' start included; a repeat of part a may take this much more.
_LIMIT_S, _REPEAT_S = 90.0, 30.0
#: Parts that share an adapter: c needs other workers, e none at first. They are made in this order.
GROUPS = ("ab", "c", "d", "e")


class Order(Struct, frozen=True, kw_only=True):
    """Order to a child to measure: `adapter` is MODULE:CLASS."""

    adapter: str
    mode: str
    parts: str
    room: str
    sizes: Sizes


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of one part, or the reason why there are none: `missing`, or `same` as elsewhere; `about` is the first line."""

    part: str
    about: str = ""
    missing: str = ""
    same: str = ""
    rate: Rate | None = None
    latency: Latency | None = None
    waits: Waits | None = None
    crashes: list[Crash] = msgspec.field(default_factory=list)
    survival: Survival | None = None


def limit_of(sizes: Sizes) -> float:
    """Seconds of silence after which a peer has hung."""
    return _LIMIT_S + _REPEAT_S * sizes.repeats + 2 * sizes.patience_s + 2 * sizes.seconds


def measure(order: Order, limit_s: float | None = None) -> list[Line]:
    """A line for each part of a group; a child that fails, or is silent for `limit_s`, gives the rest of its parts a reason."""
    limit_s = limit_of(order.sizes) if limit_s is None else limit_s
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    environ = {**clean_environ(), MARK_VARIABLE: mark}
    command = [sys.executable, "-m", "bench.peers.peerrun", msgspec.json.encode(order).decode()]
    log = Path(order.room) / "child.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environ, cwd=order.room, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    lines: list[Line] = []
    reason = ""
    try:
        for line in _lines(process, limit_s):
            lines.append(line)
    except TimeoutError:
        reason = f"gave up after {limit_s:.0f} s"
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_marked(mark, psutil.Process(process.pid))
        process.wait()
    measured = {line.part for line in lines}
    missing = [part for part in order.parts if part not in measured]
    last_line = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]
    return lines + [Line(part=part, missing=reason or f"failed: {last_line}") for part in missing]


def _lines(process: subprocess.Popen[bytes], limit_s: float) -> Iterator[Line]:
    """Yield the child's lines. Raises `TimeoutError` when it is silent for too long."""
    assert process.stdout is not None
    with process.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        buffered = b""
        while True:
            if not selector.select(limit_s):
                raise TimeoutError
            some = os.read(pipe.fileno(), 65536)
            if not some:
                return
            *whole, buffered = (buffered + some).split(b"\n")
            for text in whole:
                line = msgspec.json.decode(text, type=Line)
                if line.part == "end":
                    return
                yield line


def child(order: Order, emit: Callable[[Line], None]) -> None:
    """Measure the parts of one group."""
    done = Done(Path(tempfile.mkdtemp(prefix="d", dir=order.room)) / "s")
    module, _, name = order.adapter.partition(":")
    made: PeerAdapter | None = None
    try:
        with pinned(driver_cores()):
            made = getattr(importlib.import_module(module), name)(order.mode, Path(order.room), done)
            adapter: PeerAdapter = made
            emit(Line(part="about", about=adapter.versions))
            for part in order.parts:
                emit(_part(adapter, done, order, part))
    except Unavailable as error:
        for part in order.parts:
            emit(Line(part=part, missing=str(error)))
    finally:
        if made is not None:
            made.close()
        done.close()


def _part(adapter: PeerAdapter, done: Done, order: Order, part: str) -> Line:
    sizes = order.sizes
    try:
        if part == order.parts[0]:
            adapter.start_server()
            if part != "e":
                adapter.start_workers(SLOTS if part == "c" else WORKERS)
        match part:
            case "a":
                return Line(part=part, rate=scenarios.rate(adapter, done, sizes))
            case "b":
                return Line(part=part, latency=scenarios.latency(adapter, done, sizes))
            case "c":
                return Line(part=part, waits=scenarios.waits(adapter, done, sizes))
            case "d":
                return Line(part=part, crashes=scenarios.crashes(adapter, done, sizes))
            case _:
                return Line(part=part, survival=scenarios.survival(adapter, done, sizes))
    except BenchError as error:
        return Line(part=part, missing=f"failed: {error}")


def main(text: str) -> int:
    """Measure and print. Exit status: 0, or 1 when something failed that is no peer's answer."""
    # What libraries print on standard output must not get between the lines.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def emit(line: Line) -> None:
        out.write(msgspec.json.encode(line) + b"\n")

    try:
        child(msgspec.json.decode(text, type=Order), emit)
    except Exception as error:  # the outermost loop of a process: a peer's library may raise anything
        traceback.print_exc()
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)
        return 1
    emit(Line(part="end"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
