"""Every promise holds in thousands of made-up worlds; each seed that ever broke one is run for good."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.simulation.many import run_many
from tests.simulation.plan import FAULTS
from tests.simulation.receiver import MANNERS
from tests.simulation.runner import run_seed

#: What CI can afford in two minutes on two processors.
SEEDS = 2000


def first_seed() -> int:
    """Where the seeds of this version begin: each version looks at worlds that none before has seen."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    major, minor, patch = map(int, tomllib.loads(project.read_text())["project"]["version"].split(".")[:3])
    return ((major * 100 + minor) * 100 + patch) * SEEDS


#: Seed -> what it once showed. A change of `plan` gives a seed another story: what must stay caught is a mutation as well.
REGRESSIONS = {
    13: "a job whose engine ended before it began was handed back for ever",
    97: "a Hello that crossed a grant on the same connection took the grant back",
    207: "a job whose back-off and deadline ended in one pass raised out of the broker, and out of every later start",
    787: "an attempt that had stopped was adopted again by the heartbeat that crossed its acknowledgement",
    201645: "a job that was set aside and released was adopted by what its worker still said, and counted as lost",
}

#: What must have happened somewhere, or the worlds are too kind to show anything.
REACHED = (
    "a fresh id was taken",
    "agent stalled",
    "broker lost power",
    "broker killed: after commit",
    "broker killed: before commit",
    "broker killed: before send",
    "broker killed: raised epoch",
    "broker killed: receive",
    "broker killed: stopped",
    "broker stalled",
    "cancel: already_final",
    "cancel: cancelled",
    "cancel: requested",
    "job cancelled",
    "job deleted",
    "job failed: engine_error",
    "job failed: expired",
    "job failed: invalid_input",
    "job failed: out_of_memory",
    "job failed: quarantined",
    "job succeeded",
    "ended before a heartbeat told of it",
    "loras: loaded",
    "loras: there already",
    "overlap: begins beside a tail",
    "overlap: cancelled in its tail",
    "overlap: asks before the one before is answered",
    "overlap: asks beside a tail",
    "overlap: cancelled while it waited",
    "overlap: cancelled while it was prepared",
    "overlap: crashes under both",
    "overlap: handed back",
    "overlap: prepared",
    "overlap: prepared beside a tail",
    "overlap: waits",
    "overlap: waits to be alone",
    "overlap: went wrong in its tail",
    "commit: done",
    "parked",
    "pause: done",
    "pause: once more",
    "pause: refused",
    "pause: requested",
    "checkpoint: gone on from",
    "checkpoint: gone on from a newer one than the broker knew of",
    "checkpoint: lost or torn",
    "depot: a result outlives its agent",
    "depot: a result of a dead agent counts",
    "depot: gone on from another machine's checkpoint",
    "depot: parked",
    "depot: parked, and away",
    "preempted: for a promise",
    "preempted: for a short one",
    "preempted: waits for longer than it may",
    "promise: broken",
    "promise: given",
    "rejected: alias_taken",
    "rejected: busy",
    "rejected: deadline",
    "rejected: id_conflict",
    "rejected: promise",
    "rejected: queue_full",
    "rejected: shutting_down",
    "set aside: fail done",
    "set aside: release done",
    *(f"fault: {kind}" for kind in FAULTS),
    *(f"planted: {where}" for where in ("cancelled", "dispatched", "due", "restored", "started", "submitted")),
    *(f"webhook: {manner}" for manner in MANNERS),
)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_seed_that_once_broke_a_promise_keeps_it(seed: int) -> None:
    assert run_seed(seed).broken == ""


def test_thousands_of_worlds_keep_every_promise() -> None:
    tally = run_many(first_seed(), SEEDS, os.cpu_count() or 1, lambda _: None)
    shown = [
        f"seed {seed}: {text[:300]}\n  python -m tests.simulation --seed {seed} --trace"
        for seed, text in sorted(tally.broken.items())
    ]
    assert not shown, "\n".join(shown)
    assert tally.seeds == SEEDS
    assert [what for what in REACHED if not tally.counts[what]] == []
    print(f"{tally.seeds} seeds, {tally.seeds / tally.seconds:.0f} seeds/s")  # noqa: T201


def test_a_seed_is_one_story() -> None:
    """Replayed in another process, with another order of sets, line by line the same."""
    here = run_seed(5, tracing=True).lines
    command = [sys.executable, "-m", "tests.simulation", "--seed", "5", "--trace"]
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.splitlines()
    assert len(here) > 200
    assert there[:-1] == here
