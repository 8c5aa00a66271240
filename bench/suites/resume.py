"""`kill -9` at random moments of a picture's drawing: what is drawn again, and whether it becomes the same picture to the last bit.

Many times the process that draws alone (`renders`), and some times each process of the service. For that, two real services with the demo
model, one that writes checkpoints and one that writes none, draw the same jobs in turn: that is what checkpoints cost, and the pictures
that all others are compared with. Then engine, agent, supervisor or broker of the first is killed in each of many further jobs, and
started again at once where nothing else does so. With two workers the other one goes on with the job while the engine of the first is
loaded anew, and each has a supervisor of its own, whose death costs one engine: so hundreds of kills take no longer than they must. Moment
and victim of each job depend on `seed` and its number alone: parts of a run (`part`) can be measured one by one, and their counts added.
Further jobs are parked in an engine alone, for what that takes (`parking`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
import numpy as np
import psutil
from msgspec import Meta, Struct
from PIL import Image

from bench.harness.job_client import JobClient, spec_of
from bench.harness.process import children
from bench.harness.procs import cores, temporary_home
from bench.harness.service import Service, demo_model
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Metric, Report, progress
from bench.suites import parking, renders
from broker.client.errors import BrokerError
from broker.wire import messages as m
from broker.wire.job_files import CHECKPOINTS
from broker.wire.jobspec import ModelCard
from broker.wire.terms import FINAL_NAMES

_LOOK_S = 0.02
_PATIENCE_S = 900.0
#: Pictures to compare with: each seed is drawn by every so many jobs.
_SEEDS = 3
#: The service's own default: what checkpoints cost is measured with it.
_USUAL_CHECKPOINT_S = 10.0
#: Kills come until this share of a job's usual time after its start: a late one hits its decoding.
_LATEST = 1.0

_SERVED_WARNINGS = (
    "a step counts as drawn when it had been reported to the broker, up to a quarter of a second late",
    "broker: its workers go on without it, so that nothing is begun again",
)

VICTIMS = ("engine", "agent", "supervisor", "broker")

_RESUMED = re.compile(r"after step (\d+) of")


class ResumePlan(Struct, frozen=True, kw_only=True):
    """How many jobs, of which size."""

    renders: Annotated[int, Meta(description="pictures whose drawing process alone is killed", ge=0, le=100_000)] = 100
    render_steps: Annotated[int, Meta(description="denoising steps of these", ge=2, le=200)] = 32
    render_side: Annotated[int, Meta(description="width and height of these", ge=32, le=512)] = 64
    long_pairs: Annotated[
        int, Meta(description="long pictures drawn with checkpoints and without, for their price", ge=0, le=100)
    ] = 3
    long_steps: Annotated[int, Meta(description="denoising steps of these", ge=2, le=200)] = 60
    long_side: Annotated[int, Meta(description="width and height of these", ge=32, le=512)] = 256
    parks: Annotated[int, Meta(description="jobs that are parked and go on, for their price", ge=0, le=1_000)] = 12
    kills: Annotated[
        int, Meta(description="jobs in which a process of the service is killed; 0: no service", ge=0, le=100_000)
    ] = 40
    part: Annotated[
        str, Meta(description="the kills of this part of all, as 2/10", pattern=r"^[1-9][0-9]{0,2}/[1-9][0-9]{0,2}$")
    ] = "1/1"
    workers: Annotated[int, Meta(description="workers of the service whose processes are killed", ge=1, le=16)] = 2
    pairs: Annotated[
        int, Meta(description="undisturbed jobs of each service; 0: no service without checkpoints", ge=0, le=1_000)
    ] = 6
    steps: Annotated[int, Meta(description="denoising steps of a job", ge=2, le=200)] = 100
    side: Annotated[int, Meta(description="width and height of a picture", ge=32, le=512)] = 128
    checkpoint_s: Annotated[float, Meta(description="seconds between two checkpoints", ge=0.01, le=60.0)] = 0.25
    seed: Annotated[int, Meta(description="draws victims and moments", ge=0, le=2**31)] = 0
    directory: Annotated[str, Meta(description="where the services keep their files")] = ""


class Interrupted(Struct, frozen=True, kw_only=True):
    """What became of a job in which a process was killed."""

    number: int
    victim: str
    state: str
    #: Whether its pixels are those of the undisturbed job.
    same: bool
    #: Whether it was still denoised when the process was killed, and the last step that was shown then.
    denoising: bool
    step: int
    #: (seconds, step) whenever another step was shown before that.
    shown: tuple[tuple[float, int], ...] = ()
    attempts: int
    #: After which step it went on; 0: it began anew, or needed not to.
    resumed: int
    #: Bytes of its largest checkpoint at that moment.
    kept_bytes: int
    #: Seconds from the kill to its end.
    took_s: float

    @property
    def repeated(self) -> int:
        """Steps that were drawn twice, as far as they were shown."""
        return max(0, self.step - self.resumed) if self.attempts > 1 and self.denoising else 0

    @property
    def repeated_s(self) -> float:
        """Seconds from the showing of the step that it went on after to that of the last one before the kill."""
        since = [at for at, step in self.shown if step >= self.resumed]
        return self.shown[-1][0] - since[0] if since and self.repeated else 0.0

    @property
    def left_out(self) -> bool:
        """Whether it was begun anew although a checkpoint lay there."""
        return self.attempts > 1 and self.denoising and bool(self.kept_bytes) and not self.resumed


class Undisturbed(Struct, frozen=True, kw_only=True):
    """Denoising seconds of each job, by service, and the pixels by seed."""

    with_s: list[float]
    without_s: list[float]
    usual_s: float
    pixels: dict[int, Any]


class Drawer:
    """Has one service draw pictures."""

    def __init__(self, service: Service, desk: JobClient, card: ModelCard, plan: ResumePlan) -> None:
        self.service = service
        self._desk = desk
        self._card = card
        self._plan = plan
        self._artefacts = Path(service.settings.home) / "artefacts"

    async def submit(self, seed: int) -> str:
        """Hand in the picture of this seed; its job's id."""
        spec = spec_of(
            self._card,
            output="image",
            num_frames=1,
            width=self._plan.side,
            height=self._plan.side,
            num_inference_steps=self._plan.steps,
            seed=seed,
        )
        return await self._desk.submit(spec, self._card)

    async def view(self, job_id: str) -> m.JobView:
        """The broker's view of the job, polled until a broker answers."""
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            with contextlib.suppress(BrokerError):
                view = await self._desk.client.get(job_id)
                if view is not None:
                    return view
            await asyncio.sleep(_LOOK_S)
        raise BenchError(f"no answer about job {job_id} within {_PATIENCE_S:.0f} s: {self.service.last_lines()}")

    async def watched(self, job_id: str, seconds: float) -> tuple[m.JobView, tuple[tuple[float, int], ...]]:
        """The job so many seconds later, and when it was at which step of its denoising."""
        until = time.monotonic() + seconds
        shown: list[tuple[float, int]] = []
        while True:
            view, now = await self.view(job_id), time.monotonic()
            if view.phase == "denoise" and (not shown or view.step > shown[-1][1]):
                shown.append((now, view.step))
            if now >= until:
                return view, tuple(shown)
            await asyncio.sleep(min(_LOOK_S, until - now))

    async def reached(self, job_id: str, *states: str) -> m.JobView:
        """The job, once it is in one of these states or final."""
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            view = await self.view(job_id)
            if view.state in (*states, *FINAL_NAMES):
                return view
            await asyncio.sleep(_LOOK_S)
        raise BenchError(f"job {job_id} was not final after {_PATIENCE_S:.0f} s: {self.service.last_lines()}")

    def pixels(self, view: m.JobView) -> Any:
        """The picture of a job that succeeded, height x width x 3; None of another."""
        if view.state != "succeeded" or view.result is None:
            return None
        with Image.open(self._artefacts / view.id / str(view.fence) / view.result.artefacts[0].name) as image:
            return np.asarray(image)

    def kept_bytes(self, job_id: str) -> int:
        """Bytes of the largest checkpoint of a job; 0 when it has none."""
        sizes = [0]
        for path in (self._artefacts / CHECKPOINTS / job_id).glob("*.safetensors"):
            with contextlib.suppress(OSError):  # gone meanwhile
                sizes.append(path.stat().st_size)
        return max(sizes)

    def kill(self, victim: str, pid: int) -> None:
        """SIGKILL to the agent `pid` (0: to all), its engine or its supervisor, or to the broker; the last two are started again."""
        agents = [(name, agent) for name, agent in self.service.agents() if agent.pid == pid or not pid]
        match victim:
            case "broker":
                self._replace("broker")
            case "supervisor":
                for name in {name for name, _ in agents} or self.service.supervisors:
                    self._replace(name)
            case _:
                for _, agent in agents:
                    for process in children(agent.pid, "workers.engine.loop") if victim == "engine" else [agent]:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()

    def _replace(self, name: str) -> None:
        self.service.kill(name)
        self.service.start(name)

    async def agent_of(self, worker: str) -> int:
        """Process id of this worker's agent; 0: it is not known."""
        with contextlib.suppress(BrokerError):
            pool = await self._desk.client.worker_requests.pool()
            return next((one.pid for one in pool.workers if one.name == worker), 0)
        return 0


async def undisturbed(keeping: Drawer, plain: Drawer | None, pairs: int) -> Undisturbed:
    """The same pictures by both services in turn, one of each seed at least. Raises `BenchError` when they are not the same."""
    seconds: dict[Drawer | None, list[float]] = {keeping: [], plain: []}
    runs: list[float] = []
    pixels: dict[int, Any] = {}
    pairs = max(pairs, _SEEDS)
    for number in range(pairs):
        progress(f"undisturbed jobs, {number + 1} of {pairs}")
        both = (keeping, plain) if number % 2 else (plain, keeping)
        for drawer in (one for one in both if one is not None):
            view = await drawer.reached(await drawer.submit(number % _SEEDS))
            drawn = drawer.pixels(view)
            if drawn is None or view.result is None:
                raise BenchError(f"an undisturbed job ended as {view.state}")
            if not np.array_equal(drawn, pixels.setdefault(number % _SEEDS, drawn)):
                raise BenchError("two undisturbed jobs with the same seed drew different pictures")
            seconds[drawer].append(view.result.stage_durations.get("denoise", 0.0))
            runs.append(view.run_s)
    return Undisturbed(with_s=seconds[keeping], without_s=seconds[plain], usual_s=median(runs), pixels=pixels)


async def interrupted(
    drawer: Drawer, number: int, victim: str, seed: int, after_s: float, expected: Any
) -> Interrupted:
    """Kill the victim so long after the job's start, and record what becomes of the job."""
    job_id = await drawer.submit(seed)
    await drawer.reached(job_id, "running")
    view, shown = await drawer.watched(job_id, after_s)
    pid = await drawer.agent_of(view.worker)
    before = await drawer.view(job_id)
    kept_bytes = drawer.kept_bytes(job_id)
    begun = time.monotonic()
    drawer.kill(victim, pid)
    view = await drawer.reached(job_id)
    used = view.result.used if view.result is not None else {}
    found = _RESUMED.match(used.get("resumed", ""))
    drawn = drawer.pixels(view)
    return Interrupted(
        number=number,
        victim=victim,
        state=view.state,
        same=drawn is not None and np.array_equal(drawn, expected),
        denoising=before.state == "running" and before.phase == "denoise",
        step=shown[-1][1] if shown and before.phase == "denoise" else 0,
        shown=shown,
        attempts=view.attempts,
        resumed=int(found[1]) if found is not None else 0,
        kept_bytes=kept_bytes,
        took_s=time.monotonic() - begun,
    )


async def measure(plan: ResumePlan, keeping: Service, plain: Service | None) -> tuple[Undisturbed, list[Interrupted]]:
    """Draw, kill and compare. Raises `BenchError`."""
    async with JobClient(keeping.settings.front_endpoint) as desk:
        card = (await keeping.idle(desk.client)).workers[0].models[0]
        drawer = Drawer(keeping, desk, card, plan)
        if plain is None:
            calm = await undisturbed(drawer, None, plan.pairs)
        else:
            async with JobClient(plain.settings.front_endpoint) as other:
                await plain.idle(other.client)
                calm = await undisturbed(drawer, Drawer(plain, other, card, plan), plan.pairs)
            plain.stop()
        found: list[Interrupted] = []
        numbers = numbers_of(plan)
        for number in numbers:
            draw = random.Random(f"{plan.seed} {number}")
            victim, seed = VICTIMS[number % len(VICTIMS)], draw.randrange(_SEEDS)
            progress(f"kill -9 of the {victim}, {len(found) + 1} of {len(numbers)}; {_outcome(found)}")
            await keeping.idle(desk.client)
            after_s = draw.uniform(0.0, _LATEST * calm.usual_s)
            found.append(await interrupted(drawer, number, victim, seed, after_s, calm.pixels[seed]))
        return calm, found


def numbers_of(plan: ResumePlan) -> range:
    """The numbers of the jobs of this part. Raises `BenchError` for a part beyond the last."""
    part, parts = map(int, plan.part.split("/"))
    if part > parts:
        raise BenchError(f"--part {plan.part}: there is no part {part} of {parts}")
    return range(plan.kills * (part - 1) // parts, plan.kills * part // parts)


def _outcome(found: Sequence[Interrupted]) -> str:
    succeeded, same = sum(one.state == "succeeded" for one in found), sum(one.same for one in found)
    return f"{succeeded} succeeded, {same} with the same pixels"


def run(plan: ResumePlan) -> Report:
    """Kill and compare. Raises `BenchError`."""
    order = order_of(plan)
    drawn = renders.run(order) if plan.renders or plan.long_pairs else renders.Drawn(renders=[], pairs=[])
    parks = parking.run(parking.Order(model=str(demo_model()), parks=plan.parks, seed=plan.seed)) if plan.parks else []
    calm, found = serve(plan) if plan.kills else (None, [])
    return report_of(plan, calm, found, drawn, parks)


def order_of(plan: ResumePlan) -> renders.Order:
    """What is drawn without a service."""
    return renders.Order(
        model=str(demo_model()),
        renders=plan.renders,
        at_once=len(cores()),
        steps=plan.render_steps,
        side=plan.render_side,
        checkpoint_s=plan.checkpoint_s,
        seeds=_SEEDS,
        seed=plan.seed,
        pairs=plan.long_pairs,
        pair_steps=plan.long_steps,
        pair_side=plan.long_side,
        pair_checkpoint_s=_USUAL_CHECKPOINT_S,
    )


def serve(plan: ResumePlan) -> tuple[Undisturbed, list[Interrupted]]:
    """Kill processes of a service. Raises `BenchError`."""
    with temporary_home(plan.directory) as home:
        keeping = _service(home / "keeping", plan.workers, plan.checkpoint_s)
        plain = _service(home / "plain", 1, 0.0) if plan.pairs else None
        services = [keeping] if plain is None else [keeping, plain]
        try:
            for service in services:
                service.start("broker", *service.supervisors)
            return asyncio.run(measure(plan, keeping, plain))
        finally:
            for service in services:
                service.stop()


def _service(home: Path, workers: int, checkpoint_s: float) -> Service:
    home.mkdir()
    options = ("--checkpoint-s", f"{checkpoint_s:g}")
    return Service(home, gpus="cpu:1", model=str(demo_model()), workers_options=options, supervisors=workers)


def report_of(
    plan: ResumePlan,
    calm: Undisturbed | None,
    found: Sequence[Interrupted],
    drawn: renders.Drawn,
    parks: Sequence[parking.Park] = (),
) -> Report:
    """Counts of all pictures that were interrupted, by what was killed; what checkpoints cost the others, and parking."""
    repeats = {
        victim: float(sum(one.repeated for one in found if one.victim == victim and one.attempts > 1))
        for victim in VICTIMS
    }
    return Report(
        bench="resume",
        title="resume: kill -9 of a process in the middle of a job",
        settings=msgspec.to_builtins(plan),
        metrics=[
            *renders.metrics_of(drawn, order_of(plan)),
            *parking.metrics_of(parks),
            *(_served_metrics(plan, calm, found) if calm is not None else []),
        ],
        panels=[plot.bars("steps that were drawn twice", "steps", repeats)] if found else [],
        warnings=[
            *renders.warnings_of(drawn.renders),
            "the demo model on the CPU; pictures are compared pixel by pixel with those of undisturbed jobs",
            "engines that are killed alone are forks with one thread; with the service they are processes of their own",
            *(_SERVED_WARNINGS if found else ()),
            *_dear(found, plan),
        ],
    )


def _served_metrics(plan: ResumePlan, calm: Undisturbed, found: Sequence[Interrupted]) -> list[Metric]:
    hit = [one for one in found if one.attempts > 1 and one.denoising]
    drawn, repeated = sum(one.step for one in hit), [one.repeated for one in hit]
    repeated_s = [one.repeated_s for one in hit]
    ratios = [one / other for one, other in zip(calm.with_s, calm.without_s, strict=False) if other]
    step_s = median(calm.with_s) / plan.steps
    interval = f"a checkpoint each {plan.checkpoint_s:g} s, a step {step_s * 1e3:.0f} ms by the undisturbed jobs"
    metrics = [
        Metric("kills", "jobs in which a process was killed", len(found), "", _counts(found)),
        Metric("not_succeeded", "of these, not succeeded", sum(one.state != "succeeded" for one in found), "", "bar: 0"),
        Metric("different", "of these, other pixels than undisturbed", sum(not one.same for one in found), "", "bar: 0"),
        Metric("begun_again", "killed while it was denoised, and begun again", len(hit), "", _counts(hit)),
        Metric("resumed", "of these, gone on from a checkpoint", sum(one.resumed > 0 for one in hit)),
        Metric("left_out", "of these, begun anew beside a checkpoint", sum(one.left_out for one in hit), "", "bar: 0"),
        Metric("steps_drawn", "of these, steps that were shown before the kill", drawn),
        Metric("steps_repeated", "of these, steps that were drawn twice", sum(repeated), "", "without checkpoints: all"),
        Metric("repeated_p50_s", "steps drawn twice at a kill, p50", median(repeated_s or [0.0]), "s", interval),
        Metric("repeated_max_s", "steps drawn twice at a kill, most", max(repeated_s, default=0.0), "s"),
        Metric(
            "served_over_interval",
            "kills after which more than an interval was drawn twice",
            sum(seconds > plan.checkpoint_s for seconds in repeated_s),
            "",
            "bar: 0; as the steps were shown",
        ),
        Metric("again_p50_s", "from the kill to the end of the job, p50", median(one.took_s for one in found), "s"),
        Metric("checkpoint_bytes", "largest checkpoint", max(one.kept_bytes for one in found), "bytes"),
        Metric("denoise_p50_s", "denoising of an undisturbed job, p50", median(calm.with_s), "s", f"{plan.steps} steps"),
    ]  # fmt: skip
    if ratios:
        metrics += [
            Metric("denoise_plain_p50_s", "the same without checkpoints, p50", median(calm.without_s), "s"),
            Metric("overhead_ratio", "the one over the other, median of pairs", median(ratios), "x"),
        ]
    return metrics


def _dear(found: Sequence[Interrupted], plan: ResumePlan) -> list[str]:
    """The kills after which more than an interval was drawn twice, or a checkpoint was left out."""
    return [
        f"kill {one.number}, of the {one.victim}: gone on after step {one.resumed} of the {one.step} that were shown,"
        f" {one.repeated_s:.2f} s before; {one.kept_bytes:,} bytes of a checkpoint lay there"
        for one in found
        if one.repeated_s > plan.checkpoint_s or one.left_out
    ]


def _counts(found: Sequence[Interrupted]) -> str:
    """How often each process was killed."""
    return ", ".join(f"{victim} {sum(one.victim == victim for one in found)}" for victim in VICTIMS)
