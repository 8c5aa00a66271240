"""A short run of the fuzzer on the same inputs each time, and inputs that were found once."""

from __future__ import annotations

import pytest

from broker.wire import codec
from broker.wire import messages as m
from tests.fuzz.cli import explain
from tests.fuzz.fuzzer import fuzz
from tests.fuzz.targets import TARGETS, Feature, Frames, Target

RUNS = 2000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_bytes_do_more_than_the_declared_error(target: Target) -> None:
    report = fuzz(target, seed=1, runs=RUNS if target.name != "core" else RUNS // 20)
    assert report.finding is None, explain(report.finding)
    assert report.features > 1, "the fuzzer gets nowhere"


def test_the_fuzzer_finds_and_shrinks_what_is_wrong() -> None:
    """A decoder that lets one error through, behind a field that must be right first."""

    from_edge = next(target for target in TARGETS if target.name == "from_edge")

    def run(frames: Frames) -> Feature:
        feature = from_edge.run(frames)
        if feature[0] == "ListJobs" and codec.from_edge(frames[0])[-1].limit < 2:
            raise ZeroDivisionError
        return feature

    sample = [codec.encode(m.ListJobs(req=1, limit=7, after="job-1"))]
    report = fuzz(Target("broken", (sample,), run), seed=1, runs=30_000)
    assert report.finding is not None
    (found,) = codec.from_edge(codec.single(report.finding.frames))
    assert isinstance(found, m.ListJobs)
    assert found.limit < 2
    assert len(report.finding.frames[0]) <= len(sample[0])
