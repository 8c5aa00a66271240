"""`python -m tests.simulation`: run seeds, replay one, or show that broken rules are noticed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.simulation import hunting, mutations
from tests.simulation.many import Tally, run_chunk, run_many
from tests.simulation.runner import run_seed
from tests.support.replay import replay

DESCRIPTION = """Real broker core, router and journal, and real agent cores, in a made-up world: one seed draws the faults, the work
and every delay. Exit code 1 when a rule was broken, with the command that shows how."""

REPLAY = "python -m tests.simulation --seed {seed} --trace"

_PROGRESS_S = 5.0


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=DESCRIPTION)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happened")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run (default %(default)s)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (default %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="(default: one a processor)")
    parser.add_argument("--mutations", nargs="*", metavar="NAME", help="break rules, all or these, one at a time")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="a broker's <home>/stimuli-*.msgpack: does it fail here"
    )
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.replay is not None:
        raised = replay(options.replay)
        print(raised or "nothing is raised")
        return 1 if raised else 0
    logging.disable(logging.CRITICAL)
    if options.child:
        for part in run_chunk(*options.child):
            print(json.dumps(part), flush=True)
        return 0
    if options.mutations is not None:
        return _mutate(options.mutations)
    if options.seed is not None:
        return _one(options.seed, trace=options.trace)
    return _many(options.first, options.seeds, options.processes)


def _one(seed: int, *, trace: bool) -> int:
    outcome = run_seed(seed, tracing=trace)
    for line in outcome.lines:
        print(line)
    print(f"seed {seed}: {outcome.broken or 'holds'}")
    return 1 if outcome.broken else 0


def _many(first: int, count: int, processes: int) -> int:
    shown = time.monotonic()

    def progress(tally: Tally) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _PROGRESS_S:
            shown = time.monotonic()
            print(f"{tally.seeds} of {count} seeds, {_rate(tally)}, {len(tally.broken)} broken", flush=True)

    tally = run_many(first, count, max(1, processes), progress)
    for what, times in sorted(tally.counts.items()):
        print(f"{times:10}  {what}")
    for seed, broken in sorted(tally.broken.items()):
        print(f"seed {seed}: {broken[:500]}\n    {REPLAY.format(seed=seed)}")
    print(f"{tally.seeds} seeds, {_rate(tally)}, {len(tally.broken)} broken")
    return 1 if tally.broken else 0


def _rate(tally: Tally) -> str:
    return f"{tally.seeds / max(tally.seconds, 1e-9):.0f} seeds/s"


def _mutate(names: list[str]) -> int:
    unknown = set(names) - {mutation.name for mutation in mutations.ALL}
    if unknown:
        print(f"no mutation is called {sorted(unknown)}", file=sys.stderr)
        return 2
    missed = 0
    for mutation in mutations.ALL:
        if names and mutation.name not in names:
            continue
        caught = hunting.hunt(mutation, mutation.first)
        missed += caught is None
        verdict = "NOT CAUGHT" if caught is None else f"seed {caught.seed} | {caught.broken[:140]}"
        print(f"| {mutation.name} | {mutation.rule} | {verdict} |", flush=True)
    return 1 if missed else 0
