"""Choice of a job's scheduler: by its preset or its model's sampler, or with a shift of its own (`extra.flow_shift`).

The scheduler is replaced while the job is drawn, by one whose class has the noise levels (`_Exact`): most pipelines call `set_timesteps`
with a number of steps alone, and diffusers' flow schedulers then end elsewhere than where a distilled model was trained. Where steps add
noise, it comes from the job's generator: many pipelines do not pass theirs on, and a seed would draw another picture each time.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import msgspec
import numpy as np
import torch

from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.sampling import Sampler
from workers.engine.errors import InvalidInput
from workers.engine.progress import Monitor
from workers.models.pipeline_classes import FLOW_SHIFT, SHIFTS
from workers.models.samplers import KINDS, is_flow

_BY_SIZE = "use_dynamic_shifting"

#: Settings of flow schedulers that bend the noise levels beside a shift.
_BENDING = (_BY_SIZE, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

#: Solvers whose own spacing of a flow is shifted twice: they get equal parts of the way instead, as everybody else does it.
_HEUN = "FlowMatchHeunDiscreteScheduler"
_SHIFTED_TWICE = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", _HEUN)

#: Those of them that shift by the size of the picture themselves.
_SHIFT_BY_SIZE = _SHIFTED_TWICE[:2]

#: Steps listed one by one in a result.
_LISTED = 16


def sampler_of(card: ModelCard, spec: JobSpec) -> Sampler:
    """The sampler of a job: its preset's, else the model's; an empty one leaves all to the model. Raises `InvalidInput`."""
    if not spec.preset:
        return card.sampler or Sampler()
    if spec.preset not in card.presets:
        raise InvalidInput(f"preset: {spec.preset!r} is not one of model {card.name!r}")
    return card.presets[spec.preset]


@contextmanager
def sampled(pipe: Any, sampler: Sampler, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
    """Inside, the pipeline takes its steps as the job requests. Raises `InvalidInput`."""
    shift = _own_shift(spec)
    if shift is not None and sampler.fixes_shift and shift != sampler.shift:
        fixed = "is fixed" if sampler.shift is None else f"is fixed at {sampler.shift:g}"
        raise InvalidInput(f"{FLOW_SHIFT}: {shift:g} contradicts the sampler of this job, whose schedule {fixed}")
    own, boundary = getattr(pipe, "scheduler", None), getattr(pipe, "config", {}).get("boundary_ratio")
    replaced = _shifted(own, shift) if not sampler.changes_scheduler else scheduler_for(own, sampler, shift)
    if replaced is None and shift is not None:
        monitor.warn(f"extra.{FLOW_SHIFT}: the scheduler of this model takes no shift; it was not used")
    if replaced is None:
        yield
        return
    pipe.scheduler = replaced
    if sampler.boundary is not None:
        pipe.register_to_config(boundary_ratio=sampler.boundary)
    try:
        yield
        monitor.use("sampler", _steps_taken(replaced, sampler))
    finally:
        pipe.scheduler = own
        if sampler.boundary is not None:
            pipe.register_to_config(boundary_ratio=boundary)


def draw_noise_from(pipe: Any, generator: torch.Generator | None) -> None:
    """Let the steps of the next call take their noise from the generator of its seed."""
    scheduler = getattr(pipe, "scheduler", None)
    if isinstance(noise := getattr(scheduler, "own_noise", None), _Noise):
        noise.generator = generator


def scheduler_for(own: Any, sampler: Sampler, shift: float | None = None) -> Any:
    """A scheduler in place of `own` that takes the steps of the sampler; `shift` stands before the sampler's."""
    if shift is not None:
        sampler = msgspec.structs.replace(sampler, shift=shift)
    config = {**own.config, "_class_name": type(own).__name__}
    flow = is_flow(config)
    kind = KINDS[sampler.kind] if sampler.kind else None
    base: type = getattr(diffusers, kind.flow if flow else kind.noise) if kind is not None else type(own)
    takes = inspect.signature(base).parameters
    options: dict[str, Any] = dict(kind.options) if kind is not None else {}
    if flow:
        options |= _flow_options(config, sampler, takes)
    if sampler.spacing:
        options["timestep_spacing"] = sampler.spacing
    # The rest of the model's settings is kept beside: pipelines read there how they shift by size.
    known = {key: value for key, value in own.config.items() if key in takes or key.startswith("_")}
    made = _exact(base).from_config(known, **options)
    made.register_to_config(**{key: value for key, value in own.config.items() if key not in known})
    made.own_sampler, made.own_noise, made.is_flow = sampler, _Noise(), flow
    made.by_size = config.get(_BY_SIZE) is True and sampler.shift is None and not (sampler.sigmas or sampler.timesteps)
    return made


def _flow_options(config: dict[str, Any], sampler: Sampler, takes: Any) -> dict[str, Any]:
    explicit = bool(sampler.sigmas or sampler.timesteps)
    own_shift = next((float(config[name]) for name in SHIFTS if name in config), 1.0)
    shift = sampler.shift if sampler.shift is not None else 1.0 if explicit else own_shift
    options: dict[str, Any] = {"shift": shift, FLOW_SHIFT: shift}
    if "use_flow_sigmas" in takes:
        options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", _BY_SIZE: False}
    if explicit or sampler.shift is not None:
        options |= dict.fromkeys(_BENDING, False) | {"shift_terminal": None}
    return {name: value for name, value in options.items() if name in takes}


def _own_shift(spec: JobSpec) -> float | None:
    requested_shift = spec.extra.get(FLOW_SHIFT)
    if requested_shift is None:
        return None
    if (
        isinstance(requested_shift, bool)
        or not isinstance(requested_shift, int | float)
        or not 0 < requested_shift <= 100
    ):
        raise InvalidInput(f"{FLOW_SHIFT}: {requested_shift!r} must be a number above 0, at most 100")
    return float(requested_shift)


def _shifted(own: Any, shift: float | None) -> Any:
    """The model's own scheduler with another shift; None without one, or where it takes none."""
    name = next((name for name in SHIFTS if own is not None and name in own.config), None)
    # A dynamic shift is computed from the picture's size, and a fixed one beside it would be an error.
    if shift is None or name is None or own.config.get("use_dynamic_shifting"):
        return None
    return type(own).from_config(own.config, **{name: shift})


def _steps_taken(scheduler: Any, sampler: Sampler) -> str:
    """Describe the scheduler of the last call in words."""
    times = [float(time) for time in scheduler.timesteps.flatten()]
    text = f"{sampler.kind or type(scheduler).__name__}, {len(times)} step{'s' if len(times) > 1 else ''}"
    return text if len(times) > _LISTED else f"{text} at {' '.join(f'{time:.4g}' for time in times)}"


# ---------------------------------------------------------------- schedulers with a schedule of their own


class _Noise:
    """Source of the steps' noise. A pipeline that copies its scheduler, for sound, draws on with the same generator."""

    def __init__(self) -> None:
        self.generator: torch.Generator | None = None

    def __deepcopy__(self, memo: Any) -> _Noise:
        return self


class _Exact:
    """Mixed into a scheduler: the steps of `own_sampler`, whatever the pipeline requests."""

    # Some set their steps when they are made.
    own_sampler: Sampler = Sampler()
    own_noise: _Noise
    is_flow: bool = False
    #: Whether the pipeline's shift by the size of the picture counts.
    by_size: bool = False
    config: Any
    register_to_config: Any
    #: The class it is mixed into.
    base: Any

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
        **more: Any,
    ) -> None:
        if not self.is_flow:
            if self.own_sampler.timesteps:
                num_inference_steps, timesteps = None, [round(time) for time in self.own_sampler.timesteps]
            given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, **more}
            taken = {name: value for name, value in given.items() if value is not None}
            self.base.set_timesteps(self, device=device, **taken)
            return
        if timesteps is not None and not (self.own_sampler.sigmas or self.own_sampler.timesteps):
            sigmas = [time / self.config["num_train_timesteps"] for time in timesteps]
        self._set_flow(self._levels(num_inference_steps, sigmas), num_inference_steps, device, mu)

    def _levels(self, steps: int | None, given: Sequence[float] | None) -> Any:
        """Noise levels before the shift; None for the scheduler's own."""
        sampler = self.own_sampler
        if sampler.timesteps:
            return np.array(sampler.timesteps, np.float32) / self.config["num_train_timesteps"]
        if sampler.sigmas:
            return np.array(sampler.sigmas, np.float32)
        if given is not None:
            return np.array(given, np.float32)
        if steps is not None and type(self).__name__ in _SHIFTED_TWICE:
            return np.array([1 - number / steps for number in range(steps)], np.float32)
        return None

    def _set_flow(self, levels: Any, steps: int | None, device: Any, mu: float | None) -> None:
        name = type(self).__name__
        if name in _SHIFT_BY_SIZE:
            self.base.set_timesteps(self, sigmas=levels, device=device, **({"mu": mu} if self.by_size else {}))
            return
        if self.by_size and mu is not None:
            # A pipeline gives its shift by size as a logarithm, unless the config has it otherwise.
            shift = mu if self.config.get("time_shift_type") == "linear" else math.exp(mu)
            self.register_to_config(**{"shift" if name == _HEUN else FLOW_SHIFT: shift})
        if name == _HEUN:
            self._set_heun(torch.from_numpy(levels), device)
        elif levels is not None and "sigmas" in inspect.signature(self.base.set_timesteps).parameters:
            self.base.set_timesteps(self, sigmas=levels, device=device)
        else:
            self.base.set_timesteps(self, steps if steps is not None else len(levels), device=device)

    def _set_heun(self, levels: torch.Tensor, device: Any) -> None:
        """Each step but the last evaluates the model at its end, too: its time comes twice."""
        own: Any = self
        shift = own.config["shift"]
        sigmas = (shift * levels / (1 + (shift - 1) * levels)).to(device)
        times = sigmas * own.config["num_train_timesteps"]
        own.num_inference_steps = len(levels)
        own.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        ends = torch.cat([sigmas, torch.zeros(1, device=sigmas.device)])
        own.sigmas = torch.cat([ends[:1], ends[1:-1].repeat_interleave(2), ends[-1:]])
        own.prev_derivative = own.dt = own._step_index = own._begin_index = None


@functools.cache
def _exact(base: type) -> Any:
    """The scheduler class with the steps of a sampler, under the name of its base."""
    own: Any = base
    takes = inspect.signature(own.step).parameters
    place = list(takes).index("generator") - 1 if "generator" in takes else 0

    @functools.wraps(own.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if place and len(args) <= place and kwargs.get("generator") is None:
            kwargs["generator"] = self.own_noise.generator
        return own.step(self, *args, **kwargs)

    return type(base.__name__, (_Exact, base), {"step": step, "base": base})
