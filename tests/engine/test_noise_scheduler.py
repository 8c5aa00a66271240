"""How a job takes its steps: presets of distilled models, samplers, a shift of its own."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import numpy as np
import pytest
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.sampling import Sampler
from tests.engine.conftest import spec_for
from tests.engine.families import build_wan
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.base import complete
from workers.engine.errors import InvalidInput
from workers.engine.memory import ProcessMemory
from workers.engine.noise_scheduler import sampled, scheduler_for
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.samplers import KINDS, PRESETS


class Pipe:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def flow(**options: Any) -> Any:
    return FlowMatchEulerDiscreteScheduler(**options)


def by_size() -> Any:
    """As Flux, Qwen-Image and LTX have it."""
    return flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift_terminal=0.1)


def unipc() -> Any:
    """As Wan has it."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def noise() -> Any:
    """As SDXL has it."""
    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, timestep_spacing="leading"
    )


def times_of(own: Any, sampler: Sampler, how: str) -> tuple[list[float], list[float]]:
    """(timesteps, noise levels) when a pipeline asks for the sampler's steps: "count" alone, or with "sigmas" and a shift by size."""
    made, steps = scheduler_for(own, sampler) if sampler.changes_scheduler else own, sampler.own_steps or 6
    if how == "count":
        made.set_timesteps(steps, device="cpu")
    else:
        made.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=0.9, device="cpu")
    return made.timesteps.tolist(), made.sigmas.tolist() if hasattr(made, "sigmas") else []


_LIGHTX2V = [1000, 937.5, 833.333, 625]
_LTX = [1000, 993.7, 987.5, 981.2, 975, 909.4, 725]
_LTX2 = [1000, 993.75, 987.5, 981.25, 975, 909.375, 725, 421.875]

#: (preset, scheduler of the model, how its pipeline asks, timesteps that the model was distilled for).
SCHEDULES: list[tuple[str, Any, str, list[float]]] = [
    ("wan-lightx2v-4step", unipc, "count", _LIGHTX2V),
    ("wan-lightx2v-4step", lambda: flow(shift=8.0), "count", _LIGHTX2V),
    ("wan-self-forcing-4step", unipc, "count", _LIGHTX2V),
    ("wan-causvid", unipc, "count", [1000, 960, 888.889, 727.273]),
    ("hunyuanvideo15-lightx2v-4step", lambda: flow(shift=7.0), "sigmas", _LIGHTX2V),
    ("fastwan-3step", unipc, "count", [1000, 757, 522]),
    ("qwen-lightning-4step", by_size, "sigmas", [1000, 900, 750, 500]),
    ("qwen-lightning-8step", by_size, "sigmas", [1000, 954.545, 900, 833.333, 750, 642.857, 500, 300]),
    ("flux-schnell", lambda: flow(shift=1.0), "sigmas", [1000, 750, 500, 250]),
    ("z-image-turbo", lambda: flow(shift=3.0), "sigmas", [1000, 954.545, 900, 833.333, 750, 642.857, 500, 300]),
    ("ltx-distilled", by_size, "sigmas", _LTX),
    ("ltx2-distilled", by_size, "sigmas", _LTX2),
    ("sdxl-turbo", noise, "count", [999]),
    ("sdxl-lightning-4step", noise, "count", [999, 749, 499, 249]),
    ("sdxl-lightning-8step", noise, "count", [999, 874, 749, 624, 499, 374, 249, 124]),
    ("hyper-sd-4step", noise, "count", [999, 749, 499, 249]),
    ("hyper-sd-8step", noise, "count", [999, 874, 749, 624, 499, 374, 249, 124]),
    # At the noise levels of the models' own schedulers.
    ("sd3-turbo", lambda: flow(shift=3.0), "count", [1000, 857.692, 602.151, 8.929]),
    ("flux-turbo-8step", lambda: flow(shift=1.0), "sigmas", [1000, 875, 750, 625, 500, 375, 250, 125]),
    ("flux2-klein-4step", lambda: flow(shift=1.0), "sigmas", [1000, 750, 500, 250]),
    ("krea2-turbo", lambda: flow(shift=1.0), "sigmas", [1000, 875, 750, 625, 500, 375, 250, 125]),
    ("lcm-4step", noise, "count", [999, 759, 499, 259]),
]


@pytest.mark.parametrize(("preset", "own", "how", "times"), SCHEDULES, ids=[row[0] for row in SCHEDULES])
def test_a_preset_visits_the_times_its_model_was_distilled_for(
    preset: str, own: Any, how: str, times: list[float]
) -> None:
    seen, levels = times_of(own(), PRESETS[preset].sampler, how)
    assert seen == pytest.approx(times, abs=0.01)
    if own is not noise:
        assert levels == pytest.approx([*(time / 1000 for time in times), 0.0], abs=1e-5)


def test_every_preset_is_held_to_its_times() -> None:
    assert {name for name, *_ in SCHEDULES} == set(PRESETS)


def test_diffusers_own_schedule_of_that_shift_ends_elsewhere() -> None:
    """Why a preset says where the steps are."""
    scheduler = flow(shift=5.0)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist()[-1] < 100


@pytest.mark.parametrize(
    ("own", "how"), [(unipc, "count"), (lambda: flow(shift=3.0), "count"), (by_size, "sigmas"), (noise, "count")]
)
def test_every_solver_takes_the_place_of_every_other_of_its_kind(own: Any, how: str) -> None:
    first = 1000 if own is not noise else 831
    for name, kind in KINDS.items():
        if kind.flow if own is not noise else kind.noise:
            times, _ = times_of(own(), Sampler(kind=name), how)
            assert times == sorted(times, reverse=True), name
            assert times[0] >= first - 2, name


def test_a_table_says_of_every_solver_what_its_class_takes() -> None:
    for name, kind in KINDS.items():
        if kind.flow and name != "heun":  # its steps are set here
            takes = inspect.signature(getattr(diffusers, kind.flow).set_timesteps).parameters
            assert kind.sigmas == ("sigmas" in takes), name
        if kind.noise:
            takes = inspect.signature(getattr(diffusers, kind.noise).set_timesteps).parameters
            assert kind.timesteps == ("timesteps" in takes), name


# ---------------------------------------------------------------- through a pipeline


def with_sampler(card: ModelCard, sampler: Sampler, **changes: Any) -> tuple[ModelCard, JobSpec]:
    """A card with the sampler as its preset "own", and a job that asks for it."""
    card = msgspec.structs.replace(card, presets={"own": sampler})
    fields = {"num_inference_steps": sampler.own_steps or 4, "guidance_scale": 1.0, "num_frames": 5, **changes}
    return card, spec_for(card, preset="own", **fields)


def seen_by(model: Any, act: Any) -> list[float]:
    """Timesteps with which the model is called."""
    seen: list[float] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(float(kwargs["timestep"].flatten()[0]))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        act()
    finally:
        handle.remove()
    return seen


def test_the_model_is_called_once_at_each_time_of_the_preset(
    video_engine: VideoEngine, demo_card: ModelCard, monitor: Monitor, tmp_path: Path
) -> None:
    card, spec = with_sampler(demo_card, PRESETS["wan-lightx2v-4step"].sampler)
    pipe = video_engine.pipelines.get(card)
    own = pipe.scheduler
    seen = seen_by(pipe.transformer, lambda: complete(video_engine.generate(card, spec, tmp_path, monitor, "normal")))
    assert seen == pytest.approx(_LIGHTX2V, abs=0.01)
    assert pipe.scheduler is own
    assert monitor.used == {"preset": "own", "sampler": "euler, 4 steps at 1000 937.5 833.3 625"}


@pytest.mark.parametrize("kind", ["lcm", "heun", "dpm++_2m_sde"])
def test_one_seed_draws_one_picture_whatever_noise_the_steps_add(
    video_engine: VideoEngine, demo_card: ModelCard, slot: Slot, tmp_path: Path, kind: str
) -> None:
    card, spec = with_sampler(demo_card, Sampler(kind=kind, shift=3.0, steps=3), num_outputs=1, width=64, height=64)

    def frames(spec: JobSpec, place: str) -> Any:
        (tmp_path / place).mkdir()
        monitor = Monitor(slot, 1, 1, ProcessMemory())
        return written(lambda: complete(video_engine.generate(card, spec, tmp_path / place, monitor, "normal")))

    first, again = frames(spec, "a"), frames(spec, "b")
    other = frames(msgspec.structs.replace(spec, seed=8), "c")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_steps_that_look_twice_are_counted_and_a_cancel_among_them_leaves_nothing(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    card, spec = with_sampler(demo_card, Sampler(kind="heun", shift=3.0, steps=3), width=64, height=64)
    pipe = video_engine.pipelines.get(card)
    own = pipe.scheduler
    with pytest.raises(Cancelled):
        video_engine.generate(card, spec, tmp_path, Monitor(CancelAt.at("denoise", 3), 1, 1, ProcessMemory()), "normal")
    assert pipe.scheduler is own
    recorder = Recorder.recording()
    video_engine.generate(card, spec, tmp_path, Monitor(recorder, 1, 1, ProcessMemory()), "normal")
    assert [row for row in recorder.seen if row[0] == "denoise"][1:] == [("denoise", step, 5) for step in range(1, 6)]


@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_of_two_experts_the_first_takes_the_first_two_of_four_steps(
    device: Any, tmp_path: Path, monitor: Monitor, boundary: float
) -> None:
    pipe = build_wan.BUILDERS["WanPipeline, two experts"]()
    card = ModelCard(name="two", engine="video", output="video")
    sampler = msgspec.structs.replace(PRESETS["wan-lightx2v-4step"].sampler, boundary=boundary)
    before = pipe.config.boundary_ratio
    spec = spec_for(card)
    seen: dict[str, list[float]] = {}

    def draw() -> None:
        pipe(
            prompt="a red circle",
            height=16,
            width=16,
            num_frames=5,
            num_inference_steps=4,
            guidance_scale=1.0,
            output_type="latent",
        )

    with sampled(pipe, sampler, spec, monitor):
        seen["first"] = seen_by(pipe.transformer, lambda: seen.update(second=seen_by(pipe.transformer_2, draw)))
    assert seen == {"first": pytest.approx(_LIGHTX2V[:2], abs=0.01), "second": pytest.approx(_LIGHTX2V[2:], abs=0.01)}
    assert pipe.config.boundary_ratio == before


# ---------------------------------------------------------------- a shift of the job's own


def shifted(pipe: Any, spec: JobSpec, monitor: Monitor) -> Any:
    return sampled(pipe, Sampler(), spec, monitor)


@pytest.mark.parametrize("own", [lambda: flow(shift=1.0), unipc])
def test_a_larger_shift_spends_more_steps_in_the_noise(own: Any, demo_card: ModelCard, monitor: Monitor) -> None:
    scheduler = own()
    pipe = Pipe(scheduler)
    pipe.scheduler.set_timesteps(8)
    before = float(pipe.scheduler.sigmas[4])

    with shifted(pipe, spec_for(demo_card, extra={"flow_shift": 12}), monitor):
        pipe.scheduler.set_timesteps(8)
        assert float(pipe.scheduler.sigmas[4]) > before + 0.1

    assert pipe.scheduler is scheduler


def test_without_one_nothing_changes(demo_card: ModelCard, monitor: Monitor) -> None:
    scheduler = flow(shift=1.0)
    pipe = Pipe(scheduler)
    with shifted(pipe, spec_for(demo_card), monitor):
        assert pipe.scheduler is scheduler


def test_a_schedule_shifted_by_the_size_keeps_its_own(demo_card: ModelCard, monitor: Monitor) -> None:
    scheduler = by_size()
    pipe = Pipe(scheduler)
    with shifted(pipe, spec_for(demo_card, extra={"flow_shift": 3.0}), monitor):
        assert pipe.scheduler is scheduler
    assert monitor.warnings == ("extra.flow_shift: the scheduler of this model takes no shift; it was not used",)


@pytest.mark.parametrize("value", [0, -1, "3", True, 1e9])
def test_nonsense_is_refused(demo_card: ModelCard, value: Any, monitor: Monitor) -> None:
    with (
        pytest.raises(InvalidInput, match="flow_shift"),
        shifted(Pipe(None), spec_for(demo_card, extra={"flow_shift": value}), monitor),
    ):
        pass


def test_a_shift_beside_a_sampler_without_a_fixed_one_is_taken(demo_card: ModelCard, monitor: Monitor) -> None:
    pipe = Pipe(unipc())
    with sampled(pipe, Sampler(kind="euler", shift=3.0), spec_for(demo_card, extra={"flow_shift": 5}), monitor):
        pipe.scheduler.set_timesteps(4)
        assert pipe.scheduler.timesteps.tolist() == pytest.approx(_LIGHTX2V, abs=0.01)


def test_a_shift_that_contradicts_an_exact_schedule_is_refused(demo_card: ModelCard, monitor: Monitor) -> None:
    spec = spec_for(demo_card, extra={"flow_shift": 3.0})
    with (
        pytest.raises(
            InvalidInput, match="flow_shift: 3 contradicts the sampler of this job, whose schedule is fixed at 5"
        ),
        sampled(Pipe(unipc()), PRESETS["wan-lightx2v-4step"].sampler, spec, monitor),
    ):
        pass
