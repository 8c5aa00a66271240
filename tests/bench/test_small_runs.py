"""Measurements that need a real broker, small: they count right, and leave nothing behind."""

import pytest

from bench import cli
from bench.harness.driver import padded_spec
from bench.harness.restart import Crash
from bench.report.errors import BenchError
from bench.suites import scale


def test_a_crowd_works_through_a_queue(tmp_path):
    plan = scale.ScalePlan(workers=3, queued=900, hold_s=0.05, seconds=1.0, probes=2, directory=str(tmp_path))
    found = {metric.key: metric.value for metric in scale.run(plan).metrics}
    assert found["workers_joined"] == 3
    assert found["jobs_per_s"] > 0
    assert found["beats_per_s"] > 0
    assert found["heartbeat_us"] > 0
    assert found["dispatch_p99_ms"] > 0
    assert found["crowd_p99_ms"] > 0
    assert found["probe_late_p99_ms"] >= 0
    assert found["queued_mb"] >= found["empty_mb"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_broker_loses_no_job_and_publishes_none_twice(tmp_path):
    outcome = Crash(tmp_path, 60, 2, padded_spec(200)).run()
    assert (outcome.lost, outcome.published_twice) == (0, 0)
    assert 0 < outcome.queued < 60
    assert outcome.serving_s > 0
    assert outcome.granted_s > 0


def test_the_page_is_written_with_its_pictures(tmp_path, capsys):
    page = tmp_path / "benchmarks.md"
    assert cli.main(["all", "--quick", "--only", "pool", "--out", str(page)]) == 0
    assert "makespan over the lower bound" in page.read_text()
    assert (tmp_path / "benchmarks" / "pool.png").read_bytes().startswith(b"\x89PNG")
    assert "wait_ours_s" in (tmp_path / "benchmarks" / "pool.json").read_text()
    assert "Where the broker's time goes" in page.read_text()


def test_more_workers_than_there_are_descriptors_for_is_an_error(monkeypatch):
    monkeypatch.setattr(scale, "raise_file_limit", lambda: 1_024)
    with pytest.raises(BenchError, match=r"workers = 1000: .* for 462 of them"):
        scale.run(scale.ScalePlan(workers=1_000))
