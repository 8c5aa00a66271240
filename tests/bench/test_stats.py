import os

import pytest

from bench.report import stats


def test_percentile_is_linear_between_ranks():
    assert stats.percentile([10.0, 20.0, 30.0, 40.0], 0.5) == 25.0
    assert stats.percentile([10.0, 20.0, 30.0], 1.0) == 30.0
    assert stats.percentile([10.0, 20.0, 30.0], 0.0) == 10.0
    assert stats.percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_percentile_refuses_nonsense(values, share):
    with pytest.raises(ValueError):
        stats.percentile(values, share)


def test_summary_sorts_first():
    summary = stats.summarise([3.0, 1.0, 2.0])
    assert summary is not None
    assert (summary.count, summary.mean, summary.p50, summary.max) == (3, 2.0, 2.0, 3.0)
    assert summary.p90 <= summary.p95 <= summary.p99 <= summary.max


def test_summary_of_nothing_is_none():
    assert stats.summarise([]) is None


def test_probe_leaves_nothing_behind(tmp_path):
    summary = stats.probe_fdatasync(tmp_path, count=5)
    assert summary.count == 5
    assert summary.p50 > 0
    assert list(tmp_path.iterdir()) == []


def test_probe_of_a_missing_directory(tmp_path):
    with pytest.raises(OSError):
        stats.probe_fdatasync(tmp_path / "none")


def test_filesystem_of_proc():
    if not os.path.ismount("/proc"):
        pytest.skip("no /proc here")
    assert stats.filesystem(stats.Path("/proc/self")) == "proc"
