"""A worker's side of an edge's depot, timed.

Reads a JSON object from stdin (`bench.suites.depot.Order`), puts the file so often through the worker's own client, each time under another
name, and prints the seconds of every put, and of every question whether the file is there.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import msgspec

from bench.suites.depot import Order, Puts
from broker.depot import tokens
from workers.depot.depot import DepotFile
from workers.depot.http_depot import HttpDepot


def main() -> int:
    """Put and print."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    depot = HttpDepot(order.url, order.worker)
    depot.key = tokens.key_of(tokens.read_secrets(Path(order.home))[0], order.worker)
    path = Path(order.path)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    put_s, asked_s = [], []
    for number in range(order.repeats):
        key = tokens.artefact_key(order.job_id, order.fence, f"clip-{number}.mp4")
        file = DepotFile(key=key, path=path, size=len(data), sha256=sha256)
        begun = time.perf_counter()
        depot.put(file, lambda: False, again=False)
        put_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        depot.put(file, lambda: False, again=True)
        asked_s.append(time.perf_counter() - begun)
    sys.stdout.buffer.write(msgspec.json.encode(Puts(put_s=put_s, asked_s=asked_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
