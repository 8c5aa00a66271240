"""Client-chosen paths are filled though nobody asks for the job: on its event, at start, and after a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.jobspec import JobSpec, encode_spec
from broker.wire.messages import JobView
from broker.wire.submission import Submission
from http_edge.background.export_worker import ExportWorker
from http_edge.base.settings import EdgeSettings
from http_edge.jobs.hub import Hub
from http_edge.jobs.service import JobService
from http_edge.media.exports import Exports, Source
from tests.testing.fake_broker import NO_IMAGES, FakeBroker

SPEC = JobSpec(
    model="demo", output="video", prompt="x", width=64, height=64, num_inference_steps=1, seed=1, save_to="/films/a.mp4"
)


class NotedExports(Exports):
    """Remembers what it was asked to fill, and lets a test wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.filled: list[tuple[str, str]] = []
        self._loop = loop
        self._news = asyncio.Event()

    def fill(self, target_text: str, source: Source) -> str:
        self.filled.append((source.job, target_text))
        self._loop.call_soon_threadsafe(self._news.set)
        return ""

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.filled) < count:
                await self._news.wait()
                self._news.clear()


class Shop:
    """The savers over a fake broker that holds finished jobs."""

    def __init__(self, home: Path) -> None:
        self.broker = FakeBroker(home / "artefacts")
        self.hub = Hub()
        self.exports = NotedExports(asyncio.get_running_loop())
        settings = EdgeSettings(home=str(home))
        calls = JobService(settings, self.broker, self.hub, NO_IMAGES, self.exports)  # type: ignore[arg-type]
        self.broker.on_event = self.hub.on_event
        self.savers = ExportWorker(calls)

    def put(self, job_id: str, spec: JobSpec = SPEC) -> None:
        self.broker.jobs[job_id] = JobView(
            id=job_id,
            state="running",
            submission=Submission(model="demo"),
            revision=1,
            submitted_at=1.0,
            body=encode_spec(spec),
        )


def run(test: Callable[[Shop], Coroutine[Any, Any, None]], home: Path) -> None:
    async def main() -> None:
        shop = Shop(home)
        tasks: list[asyncio.Task[None]] = []
        start, shop.savers.start = shop.savers.start, lambda: tasks.extend(start()) or tasks  # type: ignore[method-assign]
        try:
            await test(shop)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_on_the_event_of_a_success(tmp_path: Path) -> None:
    async def scenario(shop: Shop) -> None:
        shop.savers.start()
        shop.put("a")
        shop.put("plain", msgspec.structs.replace(SPEC, save_to=""))
        shop.broker.succeed("plain")
        shop.broker.succeed("a")
        await shop.exports.wait_for(1)
        assert set(shop.exports.filled) == {("a", "/films/a.mp4")}

    run(scenario, tmp_path)


def test_what_finished_while_no_edge_ran_is_filled_at_start(tmp_path: Path) -> None:
    async def scenario(shop: Shop) -> None:
        for number in range(120):
            shop.put(f"job-{number}")
            shop.broker.succeed(f"job-{number}")
        shop.savers.start()
        await shop.exports.wait_for(120)
        assert len(set(shop.exports.filled)) == 120

    run(scenario, tmp_path)


def test_what_finished_during_a_gap_is_filled_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.background.export_worker._RETRY_S", 0.0)

    async def scenario(shop: Shop) -> None:
        shop.broker.down = True
        shop.savers.start()
        shop.broker.on_event = lambda view: None
        shop.put("a")
        shop.broker.succeed("a")
        shop.broker.down = False
        shop.hub.on_gap()
        await shop.exports.wait_for(1)
        assert set(shop.exports.filled) == {("a", "/films/a.mp4")}

    run(scenario, tmp_path)
