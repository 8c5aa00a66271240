"""The heartbeat file: when it is written, and what a probe makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from workers.supervisor.heartbeat_file import BEAT_S, HeartbeatFile, WorkerBeat, fault_of, main

IDLE = (WorkerBeat("gpu-0", 11, ready=True), WorkerBeat("gpu-1", 12, ready=False))
LOADING = (WorkerBeat("gpu-0", 11, ready=False),)


def test_it_beats_in_time_and_at_once_when_a_worker_changes(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    file = HeartbeatFile(str(path))
    file.beat(IDLE, 100.0)
    path.unlink()
    file.beat(IDLE, 100.0 + BEAT_S / 2)
    assert not path.exists()
    file.beat(LOADING, 100.0 + BEAT_S / 2)
    path.unlink()
    file.beat(LOADING, 100.0 + 2 * BEAT_S)
    assert path.exists()
    assert file.due_at == 100.0 + 3 * BEAT_S
    file.remove()
    assert os.listdir(tmp_path) == []


def test_a_probe_tells_alive_from_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "beat"
    asked = ["--heartbeat-file", str(path)]
    assert main(asked, {}) == 1
    assert "does not exist" in capsys.readouterr().err
    file = HeartbeatFile(str(path))
    file.beat(LOADING, 1.0)
    assert main(asked, {}) == 0
    assert main([*asked, "--ready"], {}) == 1
    assert "none of 1 workers has its model in memory" in capsys.readouterr().err
    file.beat(IDLE, 1.0)
    assert main(["--ready"], {"ZOETROPE_HEARTBEAT_FILE": str(path)}) == 0


def test_an_old_beat_is_a_dead_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    HeartbeatFile(str(path)).beat(IDLE, 1.0)
    written = path.stat().st_mtime
    assert fault_of(path, written + 10, max_age_s=30, ready=False) == ""
    assert "31 s old, at most 30 s is alive" in fault_of(path, written + 31.4, max_age_s=30, ready=False)
    path.write_bytes(b"{")
    assert "cannot be read" in fault_of(path, written, max_age_s=30, ready=False)


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = HeartbeatFile(str(tmp_path / "missing" / "beat"))
    for at in (0.0, 10.0, 20.0):
        file.beat(IDLE, at)
    assert [record.action for record in caplog.records] == ["heartbeat_file"]  # type: ignore[attr-defined]


_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""

_CHILD = """
import signal
from workers.supervisor.parent_death import die_with_parent
die_with_parent()
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_process_ends_with_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PARENT, _CHILD], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_until(gone, what="the end of a process whose parent has ended")
