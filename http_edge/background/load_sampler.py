"""Takes the samples of `load_history`."""

from __future__ import annotations

import asyncio

from http_edge.base.errors import EdgeError
from http_edge.jobs.load_history import PERIOD_S
from http_edge.jobs.service import JobService


class LoadSampler:
    """Task that asks for the pool now and then."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the caller cancels the task."""
        return [asyncio.create_task(self._run())]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.sample()

    async def sample(self) -> None:
        """Take a sample; none while the broker does not answer, which leaves a gap in the times."""
        try:
            # Whoever asked a moment ago has asked for this, too.
            self._calls.load.add(await self._calls.pool(PERIOD_S / 10))
        except EdgeError:
            return
