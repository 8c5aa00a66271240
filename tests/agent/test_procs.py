"""Ends of process trees, and a directory for temporary files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from workers.settings import ensure_temporary_directory
from workers.supervisor.process_groups import kill_group

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
        parent.wait(60)
        psutil.wait_procs([grandchild], timeout=60)
        assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_without_a_temporary_directory_there_is_one_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.setenv("TMPDIR", "")
    ensure_temporary_directory(tmp_path)
    assert tempfile.gettempdir() == str(tmp_path / "tmp")
    assert (tmp_path / "tmp").is_dir()
