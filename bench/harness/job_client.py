"""A client of the broker that submits jobs and records when each event of them came."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

from bench.report.errors import BenchError
from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, ModelCard, cost_units, encode_spec
from broker.wire.terms import FINAL_NAMES

#: No job of a measurement takes so long but one that hangs.
PATIENCE_S = 300.0


class ObservedJob:
    """Job as its events have shown it: its newest view, and monotonic times of the first event of each state."""

    def __init__(self) -> None:
        self.view: m.JobView | None = None
        self.times: dict[str, float] = {}
        self.changed = asyncio.Event()


class JobClient:
    """An asynchronous context: connected and watching inside it."""

    def __init__(self, endpoint: str, timeout_s: float = 30.0) -> None:
        self.client = BrokerClient(endpoint, timeout_s=timeout_s, on_event=self._on_event)
        self._jobs: dict[str, ObservedJob] = {}
        self._count = 0

    async def __aenter__(self) -> JobClient:
        await self.client.start()
        try:
            await self.client.watch()
        except BrokerError as error:
            await self.client.close()
            raise BenchError(f"no events from the broker: {error.message}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def submit(self, spec: JobSpec, card: ModelCard) -> str:
        """Hand in a job; its id."""
        self._count += 1
        job_id = f"bench-{self._count}"
        self._jobs[job_id] = ObservedJob()
        units, body = cost_units(spec, card), encode_spec(spec)
        await self.client.submit(
            m.Submit(req=0, job_id=job_id, submission=m.Submission(model=spec.model, units=units), body=body)
        )
        return job_id

    async def reached(self, job_id: str, *states: str) -> tuple[float, m.JobView]:
        """(when the first event of these states came, monotonic; the newest view). Raises `BenchError` when it never is."""
        outcome = self._jobs[job_id]
        states_left = set(states) | set(FINAL_NAMES)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not states_left & set(outcome.times):
                    outcome.changed.clear()
                    await outcome.changed.wait()
        except TimeoutError:
            raise BenchError(f"job {job_id} was not {' or '.join(states)} within {PATIENCE_S:.0f} s") from None
        assert outcome.view is not None
        return min(outcome.times[state] for state in states_left & set(outcome.times)), outcome.view

    async def final(self, job_id: str) -> tuple[float, m.JobView]:
        """(when the event of its end came, its last view)."""
        return await self.reached(job_id)

    def _on_event(self, view: m.JobView) -> None:
        outcome = self._jobs.get(view.id)
        if outcome is None:
            return
        outcome.view = view
        outcome.times.setdefault(view.state, time.monotonic())
        outcome.changed.set()


def spec_of(card: ModelCard, model: str = "", **fields: Any) -> JobSpec:
    """Build the model's default spec, with these fields changed."""
    default = card.defaults
    values: dict[str, Any] = {
        "model": model or card.name,
        "output": card.output,
        "prompt": "a red circle moving right on a black background",
        "width": default.width,
        "height": default.height,
        "num_frames": default.num_frames if card.output == "video" else 1,
        "fps": default.fps,
        "num_inference_steps": default.num_inference_steps,
        "guidance_scale": default.guidance_scale,
        "max_sequence_length": default.max_sequence_length,
        "negative_prompt": default.negative_prompt,
        "seed": 1,
        **fields,
    }
    return JobSpec(**values)
