"""SIGTERM in every phase of a start: each process ends at once, with code 0, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until
from tests.testing.service import Service


def obeys_sigterm(service: Service, name: str) -> bool:
    """Whether the process has a handler of its own; before that it has done nothing and the system ends it."""
    status = Path(f"/proc/{service.processes[name].pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def there_is(path: str) -> Callable[[Service, str], bool]:
    return lambda service, _: (service.home / "z" / path).exists()


def it_said(word: str) -> Callable[[Service, str], bool]:
    return lambda service, name: word in (service.home / f"{name}.log").read_text()


PHASES = [
    ("broker", "first of all", obeys_sigterm),
    ("broker", "home", there_is("broker.lock")),
    ("broker", "journal", there_is("jobs.sqlite")),
    ("broker", "one socket", there_is("run/front.sock")),
    ("broker", "both sockets", there_is("run/back.sock")),
    ("broker", "serving", it_said(" serving ")),
    ("edge", "first of all", obeys_sigterm),
    ("edge", "home", there_is("run")),
    ("edge", "its server starts", it_said("Started server process")),
    ("edge", "its application starts", it_said("Waiting for application startup")),
    ("edge", "serving", it_said("listening on")),
    ("workers", "first of all", obeys_sigterm),
    ("workers", "home", there_is("run")),
    ("workers", "an agent starts", lambda service, _: bool(service.agents())),
    ("workers", "an engine starts", lambda service, _: bool(service.engines())),
    ("workers", "an engine is ready", it_said("engine_ready")),
]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to see when a process obeys")
@pytest.mark.parametrize(("name", "phase", "reached"), PHASES, ids=[f"{name}, {phase}" for name, phase, _ in PHASES])
def test_sigterm_while_it_starts_ends_it_cleanly(short_dir, name, phase, reached):
    service = Service(short_dir)
    try:
        service.start(name)
        process = service.processes[name]
        wait_until(lambda: reached(service, name) or process.poll() is not None, 60, f"{name}: {phase}")
        everybody = service.everybody()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, service.tail()
        _, alive = psutil.wait_procs(everybody, timeout=60)
        assert alive == []
        assert "Traceback" not in service.tail()
        files = [path for path in service.home.rglob("*") if not path.is_dir()]
        assert [path for path in files if path.is_socket() or path.suffix in (".part", ".tmp")] == []
    finally:
        service.close()


def test_a_second_sigterm_while_it_stops_changes_nothing(start_service):
    service = start_service(workers=1, gpus="cpu:1")
    for name in ("edge", "workers", "broker"):
        process = service.processes[name]
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        assert process.returncode == 0, (name, service.tail())


@pytest.mark.parametrize("name", ["edge", "broker"])
@pytest.mark.parametrize("function", ["socketpair", "_real_close"])
def test_sigterm_while_its_event_loop_is_made_or_closed_ends_it_cleanly(short_dir, name, function):
    """The loop makes a pair of sockets when it begins and closes it when it ends."""
    service = Service(short_dir)
    serves = it_said("listening on" if name == "edge" else " serving ")
    try:
        service.start(name, through=(str(Path(__file__).with_name("signalled.py")), function))
        process = service.processes[name]
        wait_until(lambda: serves(service, name) or process.poll() is not None, 60, f"{name} serves or has ended")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, service.tail()
        assert "Traceback" not in service.tail()
    finally:
        service.close()
