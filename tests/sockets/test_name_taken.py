"""Two supervisors with workers of one name, and a real broker between them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.client.client import BrokerClient
from tests.sockets.workers_side import ROOT, environ, short_home
from tests.support.waiting import wait_until


class Rival:
    """A supervisor of one worker, cpu-0, and what it logs."""

    def __init__(self, home: Path, number: int) -> None:
        self._log = home / f"log-{number}"
        command = [sys.executable, "-m", "tests.sockets.supervise", str(home), "1"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ(), stderr=log)

    def count(self, action: str) -> int:
        return self._log.read_text().count(action)

    def agents(self) -> list[int]:
        """Process ids of its agents so far."""
        lines = [line for line in self._log.read_text().splitlines() if "agent started" in line]
        return [int(line.partition("pid=")[2].split()[0]) for line in lines]

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10.0)


class Scene:
    """The broker, and supervisors as they are started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._front = f"ipc://{home}/front.sock"
        self._rivals: list[Rival] = []
        command = [sys.executable, "-m", "broker", "--home", str(home / "home"), "--run-dir", str(home)]
        with (home / "broker.log").open("wb") as log:
            self._broker = subprocess.Popen(command, cwd=ROOT, env=environ(ZOETROPE_RESERVE_MB="0"), stderr=log)

    def rival(self) -> Rival:
        made = Rival(self.home, len(self._rivals))
        self._rivals.append(made)
        return made

    async def _ask(self) -> int:
        async with BrokerClient(self._front) as client:
            workers = (await client.pool()).workers
            return next((view.pid for view in workers if view.name == "cpu-0" and view.state == "idle"), 0)

    def holder(self) -> int:
        """Process id of the agent that holds the name and is ready for a job; 0 when there is none."""
        return asyncio.run(self._ask())

    def held_by(self, rival: Rival, *, but: int = 0) -> int:
        """Wait until an agent of this supervisor, another than `but`, has the name."""

        def found() -> int:
            pid = self.holder()
            return pid if pid in rival.agents() and pid != but else 0

        return wait_until(found, 30.0, "the worker to be registered")

    def close(self) -> None:
        for process in (*(rival.process for rival in self._rivals), self._broker):
            process.kill()
            process.wait()


@contextmanager
def opened() -> Iterator[Scene]:
    with short_home() as home:
        made = Scene(home)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with opened() as made:
        yield made


def test_a_worker_whose_name_was_taken_is_back_when_the_other_has_gone_and_yields_no_more(scene: Scene) -> None:
    first = scene.rival()
    scene.held_by(first)
    second = scene.rival()
    holder = scene.held_by(second)
    wait_until(lambda: first.count("name_taken") >= 3, 30.0, "the first to look again and again")
    assert scene.holder() == holder
    assert second.count("name_taken") == 0
    second.end()
    back = scene.held_by(first)
    looks = first.count("name_taken")
    os.kill(back, signal.SIGKILL)
    scene.held_by(first, but=back)
    assert first.count("name_taken") == looks


def test_a_worker_that_waits_for_its_name_starts_no_engine(scene: Scene) -> None:
    first = scene.rival()
    scene.held_by(first)
    scene.held_by(scene.rival())
    before = first.count("engine_started")
    taken = first.count("name_taken")
    wait_until(lambda: first.count("name_taken") >= taken + 3, 30.0, "the first to look again and again")
    assert first.count("engine_started") == before == 1
