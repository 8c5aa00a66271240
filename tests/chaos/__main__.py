"""`python -m tests.chaos`: break everything under load, and judge. Exit code 0: every promise held; 1: one broke; 2: bad option."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import report
from tests.chaos.faults import kinds
from tests.chaos.soak import Options, Soak
from tests.support.object_stores import NoStore


def main(argv: Sequence[str]) -> int:
    """Run one soak; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults happen (default: 60)")
    parser.add_argument("--seed", type=int, help="of the faults and the clients (default: drawn, and printed)")
    parser.add_argument("--workers", type=int, default=3, help="CPU workers (default: 3)")
    parser.add_argument(
        "--model",
        choices=("fake", "demo"),
        default="fake",
        help="demo: a model that draws, whose pictures are compared",
    )
    parser.add_argument("--clients", type=int, default=12, help="clients at once (default: 12)")
    parser.add_argument("--edges", type=int, default=2, help="edges (default: 2)")
    parser.add_argument("--ipc", action="store_true", help="workers over a unix socket (default: tcp with CURVE keys)")
    parser.add_argument(
        "--depot",
        choices=("local", "edge", "s3"),
        default="local",
        help="edge: the workers share no disk with the rest, and send their files to the first edge; s3: their results to an object store"
        " (SeaweedFS's weed, which is killed too, or moto_server, on the PATH)",
    )
    parser.add_argument("--apart", action="store_true", help="no fault on top of another, to measure recoveries")
    parser.add_argument(
        "--only", default="", help=f"kinds of faults, separated by commas: {', '.join(kinds(store=True))}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep logs, journal and history there")
    asked = parser.parse_args(argv)
    only = tuple(kind.strip() for kind in asked.only.split(",") if kind.strip())
    if unknown := set(only) - set(kinds(store=asked.depot == "s3")):
        parser.error(f"--only: {', '.join(sorted(unknown))} is no kind of fault")
    options = Options(
        seconds=asked.seconds,
        seed=random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed,
        workers=asked.workers,
        clients=asked.clients,
        edges=asked.edges,
        tcp=not asked.ipc,
        apart=asked.apart,
        only=only,
        model=asked.model,
        depot=asked.depot,
    )
    try:
        soak = Soak(options, asked.keep)
    except NoStore as error:
        parser.error(f"--depot: {error}")
    # Whoever stops the soak must not leave a service behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = asyncio.run(soak.run())
    print(report.text_of(found))
    if asked.json:
        asked.json.write_bytes(report.json_of(found))
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
