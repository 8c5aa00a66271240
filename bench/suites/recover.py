"""`kill -9` of each process of a service: how long until a job starts again, or a request is answered again.

A real service with one fake-engine worker. The broker and the edge are started again at once, as a supervisor would; an agent and an
engine are replaced by the service itself. The broker is also killed over a long queue with simulated workers (`restart`), where every
job is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import httpx
import msgspec
from msgspec import Meta, Struct

from bench.harness.driver import padded_spec
from bench.harness.job_client import JobClient, spec_of
from bench.harness.procs import temporary_home
from bench.harness.restart import KILL_AT, Crash, Outcome
from bench.harness.service import Service
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Flush, Metric, Report, flush_of, progress
from bench.report.stats import summarise
from broker.client.errors import BrokerError
from broker.wire.jobspec import ModelCard
from broker.wire.terms import FINAL_NAMES

_PAUSE_S = 0.005
_PATIENCE_S = 60.0
#: Slow enough to be killed in the middle, short enough to end soon after.
_STEPS, _STEP_S = 40, 0.05


class RecoverPlan(Struct, frozen=True, kw_only=True):
    """How often each process is killed."""

    repeats: Annotated[int, Meta(description="kills of each process", ge=1, le=100)] = 3
    queued: Annotated[int, Meta(description="jobs in the long queue; 0: leave that out", ge=0, le=1_000_000)] = 10_000
    workers: Annotated[int, Meta(description="simulated workers at the long queue", ge=1, le=200)] = 8
    directory: Annotated[str, Meta(description="where the journal is put")] = ""


class Killer:
    """Kills processes of a service that is up, one at a time."""

    def __init__(self, service: Service, desk: JobClient, card: ModelCard, http: httpx.AsyncClient) -> None:
        self._service = service
        self._desk = desk
        self._card = card
        self._http = http

    async def engine(self) -> float:
        """Kill the engine; return the seconds until the same job's next start."""
        return await self._again(self._service.processes["workers"].engines()[0].kill)

    async def agent(self) -> float:
        """Kill the agent; return the seconds until the same job's next start."""
        return await self._again(self._service.processes["workers"].agents()[0].kill)

    async def broker(self) -> float:
        """Kill the broker with one job running and one waiting; return the seconds until the first answer about a job."""
        running = await self._slow_job()
        waiting = await self._slow_job(wait=False)
        begun = time.time()
        self._service.kill("broker")
        self._service.start("broker")
        await self._desk_answers(running)
        answered = time.time()
        for job_id in (running, waiting):
            await self._until(job_id, lambda state, _: state in FINAL_NAMES)
        return answered - begun

    async def edge(self) -> float:
        """Kill the edge; return the seconds until the first answer about a job."""
        job_id = await self._slow_job()
        begun = time.time()
        self._service.kill("edge")
        self._service.start("edge")
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await self._http.get(f"/v1/jobs/{job_id}")).status_code == 200:
                    break
            _give_up_after(begun)
            await asyncio.sleep(_PAUSE_S)
        answered = time.time()
        await self._until(job_id, lambda state, _: state in FINAL_NAMES)
        return answered - begun

    async def _again(self, kill: Callable[[], None]) -> float:
        job_id = await self._slow_job()
        begun = time.time()
        kill()
        await self._until(job_id, lambda state, attempts: attempts >= 2)
        view = await self._desk.client.get(job_id)
        assert view is not None
        # The broker's clock is this machine's.
        restarted = [move.at for move in view.history if move.target == "running"][1]
        await self._until(job_id, lambda state, _: state in FINAL_NAMES)
        return restarted - begun

    async def _slow_job(self, wait: bool = True) -> str:
        """A job that runs for some seconds; returns while it does."""
        await self._service.idle(self._desk.client, 1 if wait else 0)
        extra = {"fake": "slow", "fake_step_s": _STEP_S}
        spec = spec_of(self._card, num_inference_steps=_STEPS, extra=extra, width=64, height=64, num_frames=5)
        job_id = await self._desk.submit(spec, self._card)
        if wait:
            await self._until(job_id, lambda state, _: state == "running")
            await asyncio.sleep(4 * _STEP_S)
        return job_id

    async def _desk_answers(self, job_id: str) -> None:
        while True:
            with contextlib.suppress(BrokerError):
                if await self._desk.client.get(job_id) is not None:
                    return

    async def _until(self, job_id: str, true: Callable[[str, int], bool]) -> None:
        """Poll the broker until it is so: events may be lost when it dies."""
        begun = time.time()
        while True:
            with contextlib.suppress(BrokerError):
                view = await self._desk.client.get(job_id)
                if view is not None and true(view.state, view.attempts):
                    return
            _give_up_after(begun)
            await asyncio.sleep(_PAUSE_S)


def _give_up_after(begun: float) -> None:
    if time.time() - begun > _PATIENCE_S:
        raise BenchError(f"the service had not recovered after {_PATIENCE_S:.0f} s")


async def measure(plan: RecoverPlan, service: Service) -> dict[str, list[float]]:
    """Seconds by process killed."""
    async with (
        JobClient(service.settings.front_endpoint) as desk,
        httpx.AsyncClient(base_url=service.url, timeout=5, trust_env=False) as http,
    ):
        pool = await service.idle(desk.client)
        killer = Killer(service, desk, pool.workers[0].models[0], http)
        kills: dict[str, Callable[[], Awaitable[float]]] = {
            "engine": killer.engine,
            "agent": killer.agent,
            "broker": killer.broker,
            "edge": killer.edge,
        }
        times: dict[str, list[float]] = {}
        for name, kill in kills.items():
            for number in range(plan.repeats):
                progress(f"kill -9 of the {name}, {number + 1} of {plan.repeats}")
                times.setdefault(name, []).append(await kill())
        return times


def run(plan: RecoverPlan) -> Report:
    """Kill and count. Raises `BenchError`."""
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        service = Service(home, model="fake")
        service.start("broker", "workers", "edge")
        try:
            times = asyncio.run(measure(plan, service))
        finally:
            service.stop()
        outcome = None
        if plan.queued:
            progress(f"kill -9 of the broker with {plan.queued:,} jobs")
            queue_home = home / "queue"
            queue_home.mkdir()
            outcome = Crash(queue_home, round(plan.queued / (1 - KILL_AT)), plan.workers, padded_spec(600)).run()
    return report_of(plan, times, outcome, flush)


_LABELS = {
    "engine": "engine killed: its job runs again",
    "agent": "agent killed: its job runs again",
    "broker": "broker killed and started: answers again",
    "edge": "edge killed and started: answers again",
}


def report_of(plan: RecoverPlan, times: dict[str, list[float]], outcome: Outcome | None, flush: Flush) -> Report:
    """Medians and worst of each kill; the count of the long queue."""
    metrics = []
    for name, values in times.items():
        summary = summarise(values)
        assert summary is not None
        note = f"worst of {summary.count}: {summary.max:.2f} s"
        metrics.append(Metric(f"{name}_p50_s", _LABELS[name], summary.p50, "s", note))
    if outcome is not None:
        metrics += [
            Metric("queue_queued", "jobs queued when the broker was killed", outcome.queued),
            Metric("queue_serving_s", "broker with that queue: answers again", outcome.serving_s, "s", "bar: 2 s"),
            Metric("queue_granted_s", "the same: the next job is given out", outcome.granted_s, "s"),
            Metric("queue_lost", "accepted jobs that were lost", outcome.lost, "", "bar: 0"),
            Metric("queue_published_twice", "jobs published twice", outcome.published_twice, "", "bar: 0"),
            Metric("queue_started_twice", "jobs started twice", outcome.started_twice, "", "allowed: the answer was on its way"),
        ]  # fmt: skip
    return Report(
        bench="recover",
        title="recover: kill -9 of each process of a service",
        settings=msgspec.to_builtins(plan),
        metrics=metrics + flush.metrics(),
        panels=[
            plot.bars("until it works again, median", "s", {name: sorted(v)[len(v) // 2] for name, v in times.items()})
        ],
        warnings=[
            "an engine's restart waits for a back-off of a second by design; starting Python is part of every figure"
        ],
    )
