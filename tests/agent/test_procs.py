"""Ends of process trees, and what a container allows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from workers.procs import kill_group
from workers.settings import ensure_temporary_directory, usable_cores

_PARENT = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_grandchild_in_a_session_of_its_own_is_killed_too():
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, process_group=0) as parent:
        assert parent.stdout is not None
        grandchild = psutil.Process(int(parent.stdout.readline()))
        kill_group(parent.pid)
        parent.wait(10)
        psutil.wait_procs([grandchild], timeout=10)
        assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "rubbish"}, None),
    ],
)
def test_cores_are_no_more_than_a_containers_quota(tmp_path: Path, files: dict[str, str], most: int | None):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == (most or usable_cores(tmp_path / "none"))


def test_without_a_temporary_directory_there_is_one_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.setenv("TMPDIR", "")
    ensure_temporary_directory(tmp_path)
    assert tempfile.gettempdir() == str(tmp_path / "tmp")
    assert (tmp_path / "tmp").is_dir()
