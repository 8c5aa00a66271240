"""Counts that must not grow: see `bench.report.gate`. `UPDATE_BENCH_BASELINE=1` (make bench-baseline) takes a new baseline instead."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bench.report import gate
from bench.suites import footprint
from tests.bench import edge_calls

UPDATE = "UPDATE_BENCH_BASELINE"


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, watched in (("job", False), ("watched_job", True)):
        directory: Path = tmp_path_factory.mktemp(name)
        measured = footprint.measure(directory, watched)
        found |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(measured).items()}
    for name, every, follow in (("step", False, False), ("followed_step", False, True), ("every_step", True, False)):
        cost = footprint.measure_steps(tmp_path_factory.mktemp(name), every=every, follow=follow)
        found |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(cost).items()}
    return found | edge_calls.measure(tmp_path_factory.mktemp("edge"))


def test_nothing_costs_more_than_it_did(counts):
    if os.environ.get(UPDATE):
        gate.write({name: value for name, value in counts.items() if not name.endswith((".blocks", ".tracked"))})
    found = gate.findings(counts, gate.read(), gate.this_python())
    assert not found, "\n".join([*found, gate.HOW_TO_UPDATE])


def test_a_job_is_two_commits_however_many_messages_it_takes(counts):
    # Submit and result.
    assert (counts["job.commits"], counts["watched_job.commits"]) == (2.0, 2.0)
    assert (counts["job.rows"], counts["watched_job.rows"]) == (2.0, 2.0)
    # Submit, Accepted, Run, Finished, ResultAck; a watcher hears of queued-and-assigned, succeeded.
    assert (counts["job.messages"], counts["watched_job.messages"]) == (5.0, 7.0)


def test_a_step_that_nobody_follows_is_told_to_nobody(counts):
    assert (counts["step.messages"], counts["followed_step.messages"], counts["every_step.messages"]) == (0.0, 1.0, 1.0)


def baseline(**counts: float) -> gate.Baseline:
    return gate.Baseline(python="3.11", counts=counts)


@pytest.mark.parametrize(
    ("name", "known", "value", "words"),
    [
        ("job.messages", 6.0, 7.0, "job.messages grew from 6 to 7"),
        ("job.commits", 2.0, 1.0, "job.commits shrank from 2 to 1"),
        ("job.calls", 100.0, 104.0, "job.calls grew from 100 to 104"),
        ("job.calls", 100.0, 90.0, "job.calls shrank from 100 to 90"),
        ("job.blocks", 0.0, 2.0, "job.blocks: each job leaves 2 behind"),
        ("edge.status.ratio", 4.0, 4.5, "edge.status.ratio grew from 4 to 4.5"),
    ],
)
def test_a_difference_is_said(name, known, value, words):
    (found,) = gate.findings({name: value}, baseline(**{name: known}), "3.11")
    assert found.startswith(words)


def test_what_is_within_its_tolerance_is_not():
    known = baseline(**{"job.calls": 100.0, "job.messages": 6.0})
    assert gate.findings({"job.calls": 102.0, "job.messages": 6.0, "job.tracked": 0.2}, known, "3.11") == []


def test_calls_of_another_python_are_not_compared():
    assert gate.findings({"job.calls": 900.0}, baseline(**{"job.calls": 100.0}), "3.13") == []


def test_a_count_without_a_baseline_asks_for_one():
    assert gate.findings({"job.new": 1.0}, baseline(), "3.11") == ["job.new is 1 and has no baseline yet"]


def test_a_baseline_is_read_as_it_was_written(tmp_path):
    gate.write({"job.messages": 6.0}, tmp_path / "baseline.json")
    assert gate.read(tmp_path / "baseline.json") == gate.Baseline(
        python=gate.this_python(), counts={"job.messages": 6.0}
    )
