"""Many seeds on all processors: each child runs its share and says a line of JSON now and then."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct, field

from tests.simulation.runner import run_seed

#: Seeds between two lines of a child.
_CHUNK = 20


class Tally(Struct):
    """What has come out so far."""

    seeds: int = 0
    #: Seed -> what was broken.
    broken: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def run_chunk(first: int, stop: int) -> Iterator[dict[str, object]]:
    """In a child: run these seeds, a line a chunk."""
    for start in range(first, stop, _CHUNK):
        counts: Counter[str] = Counter()
        broken = {}
        seeds = range(start, min(stop, start + _CHUNK))
        for seed in seeds:
            outcome = run_seed(seed)
            counts.update(outcome.counts)
            if outcome.broken:
                broken[seed] = outcome.broken
        yield {"seeds": len(seeds), "broken": broken, "counts": counts}


def run_many(first: int, count: int, processes: int, progress: Callable[[Tally], None]) -> Tally:
    """Run `count` seeds from `first` on; `progress` is called with what there is so far."""
    tally = Tally()
    started = time.monotonic()

    def follow(start: int, stop: int) -> None:
        command = [sys.executable, "-m", "tests.simulation", "--child", str(start), str(stop)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                part = json.loads(line)
                tally.seeds += part["seeds"]
                tally.broken.update({int(seed): text for seed, text in part["broken"].items()})
                tally.counts.update(part["counts"])
                tally.seconds = time.monotonic() - started
                progress(tally)
        if child.returncode:
            tally.broken[start] = f"the child for the seeds {start} to {stop} ended with {child.returncode}"

    share = -(-count // processes)
    parts = [(start, min(first + count, start + share)) for start in range(first, first + count, share)]
    with ThreadPoolExecutor(processes) as pool:
        for done in [pool.submit(follow, *part) for part in parts]:
            done.result()
    return tally
