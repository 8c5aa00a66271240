"""Two supervisors with workers of one name, and a real broker between them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.harness.process import Process, clean_environ
from broker.client.client import BrokerClient
from tests.sockets.workers_side import short_home
from tests.support.waiting import wait_until


class Rival(Process):
    """A supervisor of one worker, cpu-0, and what it logs."""

    def __init__(self, home: Path, number: int) -> None:
        super().__init__("tests.sockets.supervise", str(home), "1", log=home / f"log-{number}", group=False)

    def count(self, action: str) -> int:
        return self.logged().count(action)

    def agents_so_far(self) -> list[int]:
        """Process ids of its agents, those that are gone included."""
        lines = [line for line in self.logged().splitlines() if "agent started" in line]
        return [int(line.partition("pid=")[2].split()[0]) for line in lines]


class Scene:
    """The broker, and supervisors as they are started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._front = f"ipc://{home}/front.sock"
        self._rivals: list[Rival] = []
        self._broker = Process(
            "broker",
            "--home",
            str(home / "home"),
            "--run-dir",
            str(home),
            log=home / "broker.log",
            environ=clean_environ(ZOETROPE_RESERVE_MB="0"),
        )

    def rival(self) -> Rival:
        made = Rival(self.home, len(self._rivals))
        self._rivals.append(made)
        return made

    async def _ask(self) -> int:
        async with BrokerClient(self._front) as client:
            workers = (await client.worker_requests.pool()).workers
            return next((view.pid for view in workers if view.name == "cpu-0" and view.state == "idle"), 0)

    def holder(self) -> int:
        """Process id of the agent that holds the name and is ready for a job; 0 when there is none."""
        return asyncio.run(self._ask())

    def held_by(self, rival: Rival, *, but: int = 0) -> int:
        """Wait until an agent of this supervisor, another than `but`, has the name."""

        def found() -> int:
            pid = self.holder()
            return pid if pid in rival.agents_so_far() and pid != but else 0

        return wait_until(found, 60, "the worker to be registered")

    def close(self) -> None:
        for process in (*self._rivals, self._broker):
            process.end()


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
    wait_until(lambda: first.count("name_taken") >= 3, 60, "the first to look again and again")
    assert scene.holder() == holder
    assert second.count("name_taken") == 0
    second.end(signal.SIGTERM, 10.0)
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
    wait_until(lambda: first.count("name_taken") >= taken + 3, 60, "the first to look again and again")
    assert first.count("engine_started") == before == 1
