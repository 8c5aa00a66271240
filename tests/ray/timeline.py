"""The run of a pool that docs/images/pool.svg shows: `python -m tests.ray.timeline OUT.jsonl`, for `scripts/draw_pool.py`.

A burst of jobs, machines that come for it, one that dies, one that is taken with notice, others in their place.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import sys
import tempfile
from pathlib import Path

from tests.ray import conftest  # noqa: F401  (Ray's variables, before Ray)
from tests.ray.stage import Stage, until

FLAGS = ("--min-workers", "2", "--max-workers", "8", "--target-wait-s", "15", "--idle-s", "15")
JOBS, JOB_S, NOTICE_S = 100, 4.0, 30.0


def main() -> None:
    """Run it, keep its log, say what became of the jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as home:
        stage = Stage(Path(home))
        try:
            jobs = _run(stage)
            shutil.copyfile(Path(home) / "w" / "launcher" / "pool.jsonl", out)
        finally:
            stage.close()
    for attempts, count in sorted(collections.Counter(job["attempts"] for job in jobs).items()):
        sys.stdout.write(f"attempts {attempts}: {count} of {len(jobs)} jobs\n")


def _run(stage: Stage) -> list[dict[str, object]]:
    assert stage.launch(*FLAGS).returncode == 0
    stage.until_workers(2, "idle")
    # What jobs take is learned from those that have ended.
    stage.succeeded(*[stage.post(JOB_S) for _ in range(2)])
    jobs = [stage.post(JOB_S) for _ in range(JOBS)]
    _without_place(stage, 4)
    for _ in range(2):
        stage.add_node()
    _serving(stage, 8)
    stage.remove_node(stage.nodes[-1])
    _without_place(stage, 2)
    stage.add_node()
    _serving(stage, 8)
    # Some time later, so that the two can be told apart in the picture.
    until(lambda: stage.queued() <= JOBS // 2, "half of the jobs to have begun")
    going = stage.nodes[0]
    stage.give_notice(going, within_s=NOTICE_S)
    until(lambda: not stage.names_on(going), "the machine without workers")
    stage.remove_node(going)
    stage.add_node()
    ended = stage.succeeded(*jobs)
    until(lambda: stage.phases() == {"idle": 2}, "two workers at the end")
    return ended


def _without_place(stage: Stage, count: int) -> None:
    until(lambda: len(stage.lacking()) == count, f"{count} workers without a machine")


def _serving(stage: Stage, count: int) -> None:
    until(lambda: len(stage.workers("busy", "idle")) == count, f"{count} workers")


if __name__ == "__main__":
    main()
