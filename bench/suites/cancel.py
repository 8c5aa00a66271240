"""Time from a cancel to a free worker, by phase of the job: real processes, the demo model, one CPU worker.

Each sample is a job of its own that is cancelled at a drawn moment of one phase. Where the phases of a job lie is taken from the same
job let run to its end just before (the engine's own figures), so a sample near the edge of a short phase may have hit its neighbour.
The clock runs from the cancel's submission to the event that the job is cancelled, which is also when its worker can take the next one.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench.harness.job_client import JobClient, spec_of
from bench.harness.procs import temporary_home
from bench.harness.service import Service, demo_model
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Flush, Metric, Report, flush_of, progress
from bench.report.stats import Summary, summarise
from broker.wire.jobspec import JobSpec, ModelCard

#: Seconds that a job stays in the queue behind another before it is cancelled there.
_QUEUED_S = 0.05
#: A cancel that came after its job's end makes the next one come earlier by this factor.
_EARLIER = 0.95
#: The bar: one denoising step and this much.
BAR_S = 0.050


class CancelPlan(Struct, frozen=True, kw_only=True):
    """What to cancel, and how often."""

    samples: Annotated[int, Meta(description="cancels in each phase", ge=1, le=1_000)] = 20
    cold: Annotated[int, Meta(description="cancels of a job whose model is being loaded", ge=0, le=60)] = 10
    deaf: Annotated[int, Meta(description="cancels that an engine ignores until it is killed", ge=0, le=100)] = 3
    seed: Annotated[int, Meta(description="draws the moments", ge=0, le=2**31)] = 0
    directory: Annotated[str, Meta(description="where the journal is put")] = ""


class Aim(Struct, frozen=True, kw_only=True):
    """Kind of sample: the job, and the phase of it that is aimed at. No phase: it is cancelled while it waits for a worker."""

    name: str
    label: str
    phase: str
    fields: dict[str, Any]


#: Wide phases: a cancel is to hit the one it was aimed at.
AIMS = (
    Aim(name="queued", label="queued", phase="", fields={}),
    Aim(
        name="text_encoding",
        label="text encoding",
        phase="encode",
        fields={
            "prompt": "a red circle moving right " * 300,
            "max_sequence_length": 512,
            "num_inference_steps": 20,
        },
    ),
    Aim(name="short_steps", label="denoising, short steps", phase="denoise", fields={"num_inference_steps": 100}),
    Aim(
        name="long_steps",
        label="denoising, inside a long step",
        phase="denoise",
        fields={"width": 128, "height": 128, "num_frames": 33, "num_inference_steps": 6},
    ),
    Aim(
        name="decode",
        label="VAE decode",
        phase="decode",
        fields={"width": 128, "height": 128, "num_frames": 33, "num_inference_steps": 1},
    ),
    Aim(
        name="saving",
        label="saving",
        phase="save",
        fields={"width": 128, "height": 128, "num_frames": 17, "num_inference_steps": 1},
    ),
)


class Timeline(Struct, frozen=True, kw_only=True):
    """Begin and end of a phase, seconds after the job's start, and the seconds of a denoising step."""

    begin: float
    end: float
    step_s: float


def timeline(durations: dict[str, float], phase: str, steps: int) -> Timeline:
    """Build the timeline from the engine's seconds by phase; the phases follow one another."""
    at = 0.0
    for name in ("load", "warm_up", "encode", "denoise", "decode", "save"):
        length = durations.get(name, 0.0)
        if name == phase:
            return Timeline(begin=at, end=at + length, step_s=durations.get("denoise", 0.0) / steps)
        at += length
    raise ValueError(f"no phase {phase!r}")


class Outcome(Struct, frozen=True, kw_only=True):
    """The latencies of one aim, seconds; `late` cancels found the job done already."""

    label: str
    name: str
    latencies: list[float]
    late: int = 0
    step_s: float = 0.0


class Bench:
    """The samples of one plan, on a service that is up."""

    def __init__(self, plan: CancelPlan, desk: JobClient, card: ModelCard) -> None:
        self._plan = plan
        self._desk = desk
        self._card = card
        self._random = random.Random(plan.seed)

    async def queued(self, aim: Aim) -> Outcome:
        """The one worker is kept busy while others are cancelled before they reach it."""
        latencies = []
        blocker = await self._desk.submit(spec_of(self._card, num_inference_steps=200), self._card)
        for _ in range(self._plan.samples):
            job_id = await self._desk.submit(spec_of(self._card), self._card)
            await asyncio.sleep(_QUEUED_S)
            latency = await self._cancel(job_id)
            latencies += [] if latency is None else [latency]
        await self._cancel(blocker)
        return Outcome(name=aim.name, label=aim.label, latencies=latencies, late=self._plan.samples - len(latencies))

    async def running(self, aim: Aim) -> Outcome:
        """Cancel inside one phase of a running job."""
        spec = spec_of(self._card, **aim.fields)
        where = timeline({}, aim.phase, 1)
        for _ in range(2):  # a size that is drawn for the first time takes longer
            where = timeline(await self._durations(spec), aim.phase, spec.num_inference_steps)
        return await self._sample(aim, spec, where, self._plan.samples)

    async def _durations(self, spec: JobSpec) -> dict[str, float]:
        """Seconds by phase of a job that is let run."""
        _, view = await self._desk.final(await self._desk.submit(spec, self._card))
        if view.result is None:
            raise BenchError(f"a job of the demo model ended {view.state}: {view.failure and view.failure.message}")
        return view.result.stage_durations

    async def _sample(self, aim: Aim, spec: JobSpec, where: Timeline, samples: int, model: str = "") -> Outcome:
        latencies: list[float] = []
        early = 1.0
        for number in range(samples):
            named = msgspec.structs.replace(spec, model=f"{model}-{number}") if model else spec
            job_id = await self._desk.submit(named, self._card)
            started, _ = await self._desk.reached(job_id, "running")
            moment = started + early * self._random.uniform(where.begin, where.end)
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            latency = await self._cancel(job_id)
            latencies += [] if latency is None else [latency]
            # This machine has become faster since the timeline was taken.
            early *= _EARLIER if latency is None else 1.0
        late = samples - len(latencies)
        return Outcome(name=aim.name, label=aim.label, latencies=latencies, late=late, step_s=where.step_s)

    async def loading(self) -> Outcome:
        """Each sample requests a model that is not in memory yet."""
        spec = spec_of(self._card)
        durations = await self._durations(spec_of(self._card, model="cold"))
        where = timeline(durations, "load", spec.num_inference_steps)
        aim = Aim(name="loading", label="loading the model", phase="load", fields={})
        return await self._sample(aim, spec, where, self._plan.cold, model="cold")

    async def _cancel(self, job_id: str) -> float | None:
        """Seconds to the cancelled event; None when the job had ended before."""
        begun = time.monotonic()
        outcome, _ = await self._desk.client.cancel(job_id)
        ended, view = await self._desk.final(job_id)
        return ended - begun if outcome != "already_final" and view.state == "cancelled" else None


async def measure(plan: CancelPlan, service: Service) -> list[Outcome]:
    """All phases of the demo model."""
    async with JobClient(service.settings.front_endpoint) as desk:
        pool = await service.idle(desk.client)
        bench = Bench(plan, desk, pool.workers[0].models[0])
        outcomes = []
        for aim in AIMS:
            progress(f"{plan.samples} cancels: {aim.label}")
            outcomes.append(await (bench.running(aim) if aim.phase else bench.queued(aim)))
        if plan.cold:
            progress(f"{plan.cold} cancels: loading the model")
            outcomes.insert(1, await bench.loading())
        return outcomes


async def measure_deaf(plan: CancelPlan, service: Service) -> Outcome:
    """An engine that computes on: it is killed after the grace (two steps and 2 s)."""
    extra = {"fake": "ignore_cancel", "fake_step_s": 0.1, "fake_at": 0}
    latencies = []
    async with JobClient(service.settings.front_endpoint) as desk:
        for number in range(plan.deaf):
            progress(f"cancel {number + 1} of {plan.deaf} that the engine ignores")
            card = (await service.idle(desk.client)).workers[0].models[0]
            job_id = await desk.submit(spec_of(card, num_inference_steps=600, extra=extra), card)
            await desk.reached(job_id, "running")
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            await desk.client.cancel(job_id)
            ended, _ = await desk.final(job_id)
            latencies.append(ended - begun)
    label = "an engine that ignores it, killed after the grace"
    return Outcome(name="ignored", label=label, latencies=latencies, step_s=0.1)


def run(plan: CancelPlan) -> Report:
    """Start a service, cancel, stop it; then again with the fake engine. Raises `BenchError`."""
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        _many_models(home, plan.cold)
        outcomes = _with(Service(home, model="demo", workers_options=_cold_names(plan.cold)), plan)
        if plan.deaf:
            fake = home / "fake"
            fake.mkdir()
            service = Service(fake, model="fake")
            service.start("broker", "workers")
            try:
                outcomes.append(asyncio.run(measure_deaf(plan, service)))
            finally:
                service.stop()
    return report_of(plan, outcomes, flush)


def _with(service: Service, plan: CancelPlan) -> list[Outcome]:
    service.start("broker", "workers")
    try:
        return asyncio.run(measure(plan, service))
    finally:
        service.stop()


def _many_models(home: Path, count: int) -> None:
    """The demo model under many names: each is loaded by the first job that requests it."""
    names = ["cold", *(f"cold-{number}" for number in range(count))] if count else []
    tables = [f'[models.{name}]\npath = "{demo_model()}"\n' for name in names]
    (home / "zoetrope.toml").write_text("".join(tables), encoding="utf-8")


def _cold_names(count: int) -> list[str]:
    names = ["cold", *(f"cold-{number}" for number in range(count))] if count else []
    return ["--models", ",".join(names)] if names else []


def report_of(plan: CancelPlan, outcomes: list[Outcome], flush: Flush) -> Report:
    """p50 and p99 by phase, beside the bar where there is one."""
    metrics: list[Metric] = []
    for outcome in outcomes:
        summary = summarise(outcome.latencies)
        note = f"{len(outcome.latencies)} cancels"
        if outcome.late:
            note += f", {outcome.late} more came after the job's end"
        metrics.append(_metric(outcome, summary, "p50", note))
        metrics.append(_metric(outcome, summary, "p99", ""))
        if outcome.step_s and outcome.name not in ("loading", "ignored"):
            label = f"{outcome.label}, one denoising step + 50 ms"
            metrics.append(Metric(f"{outcome.name}_bar_ms", label, (outcome.step_s + BAR_S) * 1e3, "ms", "the bar"))
    metrics += flush.metrics()
    series = {outcome.label: [value * 1e3 for value in outcome.latencies] for outcome in outcomes}
    return Report(
        bench="cancel",
        title="cancel: from the request to a free worker, demo model on one CPU worker",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[plot.distribution("cancel to free worker", "milliseconds", series, log_x=True)],
        warnings=["phases are aimed at by the timeline of the same job let run: edges of short phases are not sharp"],
    )


def _metric(outcome: Outcome, summary: Summary | None, part: str, note: str) -> Metric:
    value = None if summary is None else getattr(summary, part) * 1e3
    return Metric(f"{outcome.name}_{part}_ms", f"{outcome.label}, {part}", value, "ms", note)
