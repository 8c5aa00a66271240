"""The service beside a bare diffusers loop: the same model, prompts, seeds and encoder, on the same device, one after the other.

Both draw one clip first that does not count. The service gets all prompts at once; its time runs from the first job's start to the last
one's end, by the broker's clock. The idle gap is what lies between one job's end and the next one's start. How much of decoding and
saving was hidden behind the next job's work follows from the engine's own seconds by phase: what they sum to beyond the time from start
to start.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench import plot
from bench.desk import Desk, spec_of
from bench.errors import BadPlan, BenchError
from bench.procs import clean_environ, cores, temporary_home
from bench.report import Flush, Metric, Report, flush_of, progress
from bench.service import Service, demo_model
from bench.stats import Summary, summarise
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec

BAR = 1.0
#: The service's own encoder settings (workers/engine/artefacts.py).
CRF, PRESET = "18", "veryfast"
_CHILD_S = 3_600.0


class EnginePlan(Struct, frozen=True, kw_only=True):
    """What to draw. Sizes of 0: the model's defaults."""

    jobs: Annotated[int, Meta(description="clips that count", ge=2, le=1_000)] = 8
    model: Annotated[str, Meta(description="a diffusers directory (default: the demo model)")] = ""
    random: Annotated[str, Meta(description="random weights in place of a model: wan-1.3b or wan-14b; GPU only")] = ""
    gpus: Annotated[str, Meta(description="what the one worker runs on: a GPU's number, or cpu:1")] = "cpu:1"
    steps: Annotated[int, Meta(description="denoising steps; 0: the model's", ge=0, le=1_000)] = 0
    directory: Annotated[str, Meta(description="where journal, clips and random weights are put")] = ""


class Served(Struct, frozen=True, kw_only=True):
    """The service's run, seconds: first start to last end, between jobs, and the hidden share of decoding and saving."""

    took_s: float
    gaps: list[float]
    hidden: float
    stages: dict[str, float]


def run(plan: EnginePlan) -> Report:
    """Bare loop, then service. Raises `BenchError`."""
    on_gpu = not plan.gpus.startswith("cpu")
    if plan.random and not on_gpu:
        raise BadPlan(f"--random: {plan.random!r} is for GPUs; name one with --gpus, such as --gpus 0")
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        model = _model(plan, home)
        service = Service(home, gpus=plan.gpus, model=str(model))
        service.start("broker", "workers")
        try:
            specs, served = asyncio.run(_serve(plan, service))
        finally:
            service.stop()
        progress(f"{plan.jobs} clips in a bare loop")
        bare_s = bare_loop(model, specs, home, on_gpu)
    return report_of(plan, served, bare_s, flush)


def _model(plan: EnginePlan, home: Path) -> Path:
    if not plan.random:
        return Path(plan.model).absolute() if plan.model else demo_model()
    progress(f"drawing weights: {plan.random}")
    out = home / plan.random
    command = [sys.executable, "-m", "bench.random_model", plan.random, str(out), str(demo_model() / "tokenizer")]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, timeout=_CHILD_S, check=False)
    if done.returncode:
        raise BenchError(f"no random model: {_last_line(done.stderr)}")
    return out


async def _serve(plan: EnginePlan, service: Service) -> tuple[list[JobSpec], Served]:
    async with Desk(service.settings.front_endpoint) as desk:
        card = (await service.idle(desk.client)).workers[0].models[0]
        fields: dict[str, Any] = {"num_inference_steps": plan.steps} if plan.steps else {}
        specs = [spec_of(card, seed=seed, **fields) for seed in range(plan.jobs + 1)]
        progress(f"{plan.jobs} clips through the service")
        await desk.final(await desk.submit(specs[0], card))
        ids = [await desk.submit(spec, card) for spec in specs[1:]]
        views = []
        for job_id in ids:
            _, view = await desk.final(job_id)
            if view.state != "succeeded":
                raise BenchError(f"a clip {view.state}: {view.failure and view.failure.message}")
            views.append(view)
    return specs, served(views)


def served(views: Sequence[m.JobView]) -> Served:
    """From the final views of jobs that one worker ran."""
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
        hidden=min(1.0, hidden / tails) if tails else 0.0,
        stages=stages,
    )


def bare_loop(model: Path, specs: Sequence[JobSpec], home: Path, on_gpu: bool) -> float:
    """Seconds for all specs but the first. Raises `BenchError`."""
    out = home / "bare"
    out.mkdir()
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
        [sys.executable, "-m", "bench.bare_loop"],
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


def report_of(plan: EnginePlan, measured: Served, bare_s: float, flush: Flush) -> Report:
    """Clips a second of both, their ratio, the gaps."""
    ours, theirs = plan.jobs / measured.took_s, plan.jobs / bare_s
    gaps: Summary | None = summarise(measured.gaps)
    p50, worst = (None, None) if gaps is None else (gaps.p50 * 1e3, gaps.max * 1e3)
    metrics = [
        Metric("service_per_s", "clips through the service", ours, "1/s", f"{plan.jobs} clips"),
        Metric("bare_per_s", "clips in a bare diffusers loop", theirs, "1/s", "same seeds, encoder, precision"),
        Metric("ratio", "service over the bare loop", ours / theirs, "x", f"bar: {BAR:g}"),
        Metric("gap_p50_ms", "idle between two queued jobs, p50", p50, "ms", "bar: 1 ms of broker time"),
        Metric("gap_max_ms", "idle between two queued jobs, longest", worst, "ms"),
        Metric("hidden_pct", "decoding and saving hidden behind the next job", measured.hidden * 100, "%"),
        *(Metric(f"{name}_s", f"mean seconds of {name}", seconds, "s") for name, seconds in measured.stages.items()),
        *flush.metrics(),
    ]
    return Report(
        bench="engine",
        title=f"engine: {plan.random or Path(plan.model).name or 'demo'} on {plan.gpus}, beside a bare diffusers loop",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.bars("clips a second", "1/s", {"service": ours, "bare loop": theirs}),
            plot.bars("mean seconds by phase", "s", measured.stages),
        ],
        warnings=["on a CPU all phases share the same cores: nothing can be won by overlapping them"]
        if plan.gpus.startswith("cpu")
        else [],
    )
