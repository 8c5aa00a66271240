"""The service beside a bare diffusers loop: the same model, prompts, seeds and encoder, on the same device, one after the other.

Both draw clips first that do not count: one the bare loop, two the service, which measures what a job takes before it lets two overlap.
The service gets all prompts at once; its time runs from the first job's start to the last one's end, by the broker's clock. The idle gap
is the time in which no job is under way; the hand-over is from a job's last denoising step to the next one's start. How much of
decoding and saving was hidden behind the next job's work follows from the engine's own seconds by phase: what they sum to beyond the time
from start to start. Rounds alternate, so that a machine that slows down does so for both.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench.harness.job_client import JobClient, spec_of
from bench.harness.process import clean_environ
from bench.harness.procs import cores, temporary_home
from bench.harness.service import Service, demo_model
from bench.report import plot
from bench.report.errors import BadPlan, BenchError
from bench.report.report import Flush, Metric, Report, flush_of, progress
from bench.report.stats import median, summarise
from bench.suites import idle, speed
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec

BAR = 1.0
#: The service's own encoder settings (workers/engine/artefacts.py).
CRF, PRESET = "21", "veryfast"
_CHILD_S = 3_600.0
#: From the engine's request for a job to the grant, but for the flush of the disk.
_MESSAGES_S = 0.007


class EnginePlan(Struct, frozen=True, kw_only=True):
    """What to draw. Sizes of 0: the model's defaults."""

    jobs: Annotated[int, Meta(description="clips that count, in each round", ge=2, le=1_000)] = 8
    rounds: Annotated[int, Meta(description="how often both are run, in turn", ge=1, le=100)] = 3
    model: Annotated[str, Meta(description="a diffusers directory (default: the demo model)")] = ""
    random: Annotated[str, Meta(description="random weights in place of a model: wan-1.3b or wan-14b; GPU only")] = ""
    gpus: Annotated[str, Meta(description="what the one worker runs on: a GPU's number, or cpu:1")] = "cpu:1"
    steps: Annotated[int, Meta(description="denoising steps; 0: the model's", ge=0, le=1_000)] = 0
    directory: Annotated[str, Meta(description="where journal, clips and random weights are put")] = ""
    speed: Annotated[
        str,
        Meta(
            description="instead: ways to make the model quicker side by side in one process, comma-separated (plain, attention, bf16-vae, "
            "compile, lossless, cache-safe, cache-fast, compile-cache, taylorseer-safe, taylorseer-fast, "
            "dbcache-fast, fp8, fp8-dynamic, int8, 4-step), or all"
        ),
    ] = ""
    size: Annotated[str, Meta(description="with --speed: WIDTHxHEIGHTxFRAMES (default: the model's)")] = ""


class Served(Struct, frozen=True, kw_only=True):
    """Run of the service, seconds: first start to last end, between jobs, and the hidden share of decoding and saving."""

    took_s: float
    gaps: list[float]
    hand_overs: list[float]
    hidden: float
    stages: dict[str, float]


def run(plan: EnginePlan) -> Report:
    """Service and bare loop, in turn. Raises `BenchError`."""
    on_gpu = not plan.gpus.startswith("cpu")
    if plan.random and not on_gpu:
        raise BadPlan(f"--random: {plan.random!r} is for GPUs; name one with --gpus, such as --gpus 0")
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        model = _model(plan, home)
        if plan.speed:
            return speed.report_of(plan.speed, speed.run(model, plan.speed, plan.size, plan.steps, on_gpu=on_gpu), plan)
        runs = []
        for number in range(plan.rounds):
            progress(f"round {number + 1} of {plan.rounds}: {plan.jobs} clips through the service")
            service = Service(_directory(home, f"service-{number}"), gpus=plan.gpus, model=str(model))
            service.start("broker", "workers")
            try:
                specs, one = asyncio.run(_serve(plan, service))
            finally:
                service.stop()
            progress(f"round {number + 1} of {plan.rounds}: the same in a bare loop")
            runs.append((one, bare_loop(model, specs, _directory(home, f"bare-{number}"), on_gpu)))
        progress("the device's idle time between jobs")
        # A job is given before the last step of the one before, or when that can be handed over, so its start does not show how long it
        # took to come.
        brought_s = flush.times.p50 + _MESSAGES_S
        order = idle.Order(
            model=str(model),
            device="cuda" if on_gpu else "cpu",
            threads=0 if on_gpu else len(cores()),
            jobs=plan.jobs,
            after_s=brought_s,
        )
        return report_of(plan, runs, flush, idle.run(order))


def _directory(home: Path, name: str) -> Path:
    made = home / name
    made.mkdir()
    return made


def _model(plan: EnginePlan, home: Path) -> Path:
    if not plan.random:
        return Path(plan.model).absolute() if plan.model else demo_model()
    progress(f"drawing weights: {plan.random}")
    out = home / plan.random
    command = [
        sys.executable,
        "-m",
        "bench.suites.random_model",
        plan.random,
        str(out),
        str(demo_model() / "tokenizer"),
        *(["cuda"] if not plan.gpus.startswith("cpu") else []),
    ]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, timeout=_CHILD_S, check=False)
    if done.returncode:
        raise BenchError(f"no random model: {_last_line(done.stderr)}")
    return out


async def _serve(plan: EnginePlan, service: Service) -> tuple[list[JobSpec], Served]:
    async with JobClient(service.settings.front_endpoint) as desk:
        card = (await service.idle(desk.client)).workers[0].models[0]
        fields: dict[str, Any] = {"num_inference_steps": plan.steps} if plan.steps else {}
        # Each has a prompt of its own: the service does not encode one twice.
        specs = [
            spec_of(card, seed=seed, prompt=prompt, **fields)
            for seed, prompt in enumerate(itertools.islice(prompts(), plan.jobs + 1))
        ]
        for _ in range(2):
            await desk.final(await desk.submit(specs[0], card))
        ids = [await desk.submit(spec, card) for spec in specs[1:]]
        views = []
        for job_id in ids:
            _, view = await desk.final(job_id)
            if view.state != "succeeded":
                raise BenchError(f"a clip {view.state}: {view.failure and view.failure.message}")
            views.append(view)
    return specs, served(views)


def prompts() -> Iterator[str]:
    """All different, in words of the demo model's vocabulary."""
    for take in itertools.count(1):
        for colour, shape in itertools.product(("red", "blue", "green", "yellow"), ("circle", "square", "star")):
            yield f"a {colour} {shape} moving right on a black background" + (f", take {take}" if take > 1 else "")


def served(views: Sequence[m.JobView]) -> Served:
    """Build the figures from the final views of jobs that one worker ran."""
    ordered = sorted(views, key=lambda view: view.started_at)
    pairs = list(itertools.pairwise(ordered))
    tails = hidden = 0.0
    stages: dict[str, float] = {}
    for view in ordered:
        for name, seconds in (view.result.stage_durations if view.result else {}).items():
            stages[name] = stages.get(name, 0.0) + seconds / len(ordered)
    for one, following in pairs:
        durations = one.result.stage_durations if one.result else {}
        tails += durations.get("decode", 0.0) + durations.get("save", 0.0)
        hidden += max(0.0, sum(durations.values()) - (following.started_at - one.started_at))
    return Served(
        took_s=ordered[-1].finished_at - ordered[0].started_at,
        gaps=[max(0.0, following.started_at - one.finished_at) for one, following in pairs],
        hand_overs=[max(0.0, following.started_at - one.started_at - _front_s(one)) for one, following in pairs],
        hidden=min(1.0, hidden / tails) if tails else 0.0,
        stages=stages,
    )


def _front_s(view: m.JobView) -> float:
    """Seconds until the last denoising step was done."""
    durations = view.result.stage_durations if view.result else {}
    return sum(durations.get(phase, 0.0) for phase in ("load", "warm_up", "encode", "denoise"))


def bare_loop(model: Path, specs: Sequence[JobSpec], out: Path, on_gpu: bool) -> float:
    """Seconds for all specs but the first. Raises `BenchError`."""
    order: dict[str, Any] = {
        "model": str(model),
        "device": "cuda" if on_gpu else "cpu",
        "threads": 0 if on_gpu else len(cores()),
        "crf": CRF,
        "preset": PRESET,
        "out": str(out),
        "jobs": [{**msgspec.structs.asdict(spec), "image": None, "extra": None, "echo": None} for spec in specs],
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.suites.bare_loop"],
        input=msgspec.json.encode(order),
        # As in an engine: threads that spin while they wait take the cores from those that work.
        env={**clean_environ(), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        timeout=_CHILD_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the bare loop failed: {_last_line(done.stderr)}")
    ends = msgspec.json.decode(done.stdout)["ends"]
    return float(ends[-1] - ends[0])


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:300]


def report_of(
    plan: EnginePlan, runs: Sequence[tuple[Served, float]], flush: Flush, idle_ms: Sequence[float] = ()
) -> Report:
    """Clips a second of both, their ratio, the gaps. `runs`: the service's run and the bare loop's seconds, by round.

    `idle_ms`: of hand-overs in an engine, the time in which no model computed.
    """
    ours = median([plan.jobs / one.took_s for one, _ in runs])
    theirs = median([plan.jobs / bare_s for _, bare_s in runs])
    ratios = sorted(bare_s / one.took_s for one, bare_s in runs)
    stages = {name: median([one.stages.get(name, 0.0) for one, _ in runs]) for name in runs[0][0].stages}
    gaps = summarise(gap for one, _ in runs for gap in one.gaps)
    hand_overs = summarise(gap for one, _ in runs for gap in one.hand_overs)
    assert gaps is not None
    assert hand_overs is not None
    metrics = [
        Metric("service_per_s", "clips through the service", ours, "1/s", f"{plan.jobs} clips, median of {len(runs)}"),
        Metric(
            "bare_per_s", "clips in a bare diffusers loop", theirs, "1/s", "same prompts, seeds, encoder, precision"
        ),
        Metric("ratio", "service over the bare loop", median(ratios), "x", f"{ratios[0]:.3f} to {ratios[-1]:.3f}"),
        Metric("on_gpu", "drawn on a GPU", int(not plan.gpus.startswith("cpu")), shown=False),
        Metric("gap_p50_ms", "nothing under way between two queued jobs, p50", gaps.p50 * 1e3, "ms", "bar: 1 ms"),
        Metric("gap_max_ms", "nothing under way between two queued jobs, longest", gaps.max * 1e3, "ms"),
        Metric("hand_over_p50_ms", "from a job's last step to the next job's start, p50", hand_overs.p50 * 1e3, "ms"),
        Metric(
            "hand_over_max_ms", "from a job's last step to the next job's start, longest", hand_overs.max * 1e3, "ms"
        ),
        *_idle_metrics(idle_ms),
        Metric(
            "hidden_pct",
            "decoding and saving hidden behind the next job",
            median([one.hidden for one, _ in runs]) * 100,
            "%",
        ),
        *(Metric(f"{name}_s", f"mean seconds of {name}", seconds, "s") for name, seconds in stages.items()),
        *flush.metrics(),
    ]
    return Report(
        bench="engine",
        title=f"engine: {plan.random or Path(plan.model).name or 'demo'} on {plan.gpus}, beside a bare diffusers loop",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.bars("clips a second", "1/s", {"service": ours, "bare loop": theirs}),
            plot.bars("mean seconds by phase", "s", stages),
        ],
        warnings=["on a CPU all phases share the same cores: overlapping them wins only what one alone cannot use"]
        if plan.gpus.startswith("cpu")
        else [],
    )


def _idle_metrics(idle_ms: Sequence[float]) -> list[Metric]:
    of = summarise(idle_ms)
    if of is None:
        return []
    return [
        Metric("idle_p50_ms", "of that, no model computes, p50", of.p50, "ms", "bar: 2 ms"),
        Metric("idle_max_ms", "of that, no model computes, longest", of.max, "ms"),
    ]
