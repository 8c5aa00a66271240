"""A service of one's own under load, and what kills its processes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from types import TracebackType

import psutil

from bench.harness.procs import temporary_home
from bench.harness.service import Service
from broker.client.client import BrokerClient


@contextlib.contextmanager
def own_service(model: str, gpus: str) -> Iterator[Service]:
    """A service with this model in a home that is gone afterwards; up when the context begins. Raises `BenchError`."""
    with temporary_home("") as home:
        service = Service(home, gpus=gpus, model=model)
        try:
            service.start("broker", "workers", "edge")
            asyncio.run(_ready(service))
            yield service
        finally:
            service.stop()


async def _ready(service: Service) -> None:
    async with BrokerClient(service.settings.front_endpoint) as client:
        await service.idle(client)
    await service.answers()


class Faults:
    """Kills an engine and an agent in turn, every `every_s` seconds, while its context lasts."""

    def __init__(self, service: Service, every_s: float) -> None:
        self._service = service
        self._every_s = every_s
        self.kills = 0

    async def __aenter__(self) -> Faults:
        self._task = asyncio.create_task(self._kill())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _kill(self) -> None:
        workers = self._service.processes["workers"]
        for find in itertools.cycle((workers.engines, workers.agents)):
            await asyncio.sleep(self._every_s)
            for victim in find()[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    self.kills += 1
