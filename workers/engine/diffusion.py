"""Common part of the engines that run diffusers pipelines: the shared pipelines, and a model ready for a job."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from broker.runtime.log_actions import Action
from broker.wire.jobspec import JobSpec, ModelCard, Profile
from workers.engine.arguments import call_arguments
from workers.engine.checkpoints import FILE, Binding, Checkpoints
from workers.engine.checks import (
    check_control_mode,
    check_guidance,
    check_inputs,
    check_steps,
    check_strength,
    guidance_was_off,
    without_effect,
)
from workers.engine.errors import InvalidInput
from workers.engine.guidance import guided
from workers.engine.instrumentation import call
from workers.engine.loras import described
from workers.engine.noise_scheduler import draw_noise_from, sampled, sampler_of
from workers.engine.overlap import shape_of
from workers.engine.peaks import Shape
from workers.engine.pipeline_variants import can_be_copied, working_copy
from workers.engine.pipelines import Pipelines
from workers.engine.progress import DraftKept, Monitor
from workers.engine.prompts import tokenizing
from workers.engine.rank import Ranks
from workers.engine.resuming import Resumption, UnknownState, versions
from workers.engine.sizing import sized
from workers.engine.step_cache import step_cached
from workers.engine.tokens import cut_prompts
from workers.models.content import model_content

logger = logging.getLogger(__name__)


class DiffusionEngine:
    """Base of the engines over one process's pipelines."""

    def __init__(self, pipelines: Pipelines, ranks: Ranks | None = None) -> None:
        self.pipelines = pipelines
        #: The group whose processes draw its jobs together; None: it draws alone.
        self.ranks = ranks
        #: Of the attempts that are drawn now.
        self._checkpoints: dict[Monitor, Checkpoints] = {}
        #: Content of the models whose jobs were kept, by their revisions.
        self._contents: dict[str, str] = {}

    def load(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Bring the model into memory, and call it in the sizes of its warm-up. Raises `LoadError`, or `OutOfMemory`."""
        self._check_parallel(card)
        self.pipelines.get(card)
        self.pipelines.warm(card, monitor)

    def _check_parallel(self, card: ModelCard) -> None:
        if self.ranks is not None:
            self.ranks.check(card, self.pipelines.setup(card))

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """Whether a job of this shape finds the model where it needs it, and its VAE stays there."""
        return self.pipelines.resident(card, profile, shape)

    def prepares(self, card: ModelCard, spec: JobSpec, beside: JobSpec) -> bool:
        """Whether a job from text alone can be prepared beside another with the same LoRAs, each in a copy of the pipeline."""
        return (
            not spec.image
            and not spec.inputs
            and sorted(map(str, spec.loras)) == sorted(map(str, beside.loras))
            and self._in_copy(card, spec)
            and self._in_copy(card, beside)
        )

    def _in_copy(self, card: ModelCard, spec: JobSpec) -> bool:
        """Whether a job is drawn in a copy of the pipeline. A step cache and the hooks of a placement belong to the model itself."""
        if (spec.cache or card.cache) not in ("", "off") or not self.pipelines.has(card):
            return False
        loaded = self.pipelines.loaded(card.name)
        whole = self.pipelines.device.kind == "cpu" or loaded.placement == "resident"
        return whole and can_be_copied(loaded.pipe)

    def ran_out(self, card: ModelCard, spec: JobSpec, profile: Profile) -> bool:
        """A job had the device for itself and ran out of memory. Whether it would be drawn with the model placed to take less."""
        return self.pipelines.ran_out(card, profile, shape_of(spec))

    def loaded(self) -> str:
        """The model used last."""
        names = self.pipelines.names()
        return names[-1] if names else ""

    def loaded_loras(self) -> tuple[str, ...]:
        """LoRAs beside the weights of the model used last, the most recently used first."""
        model = self.loaded()
        return self.pipelines.loaded(model).adapters.names()[::-1] if model else ()

    def free_cache(self) -> None:
        """Drop the models that are not in use."""
        self.pipelines.keep_only(self.loaded())

    def prepare(self, card: ModelCard, spec: JobSpec, monitor: Monitor, profile: Profile) -> Any:
        """The pipeline for this job, checked to suit it. Raises `InvalidInput`, `LoadError` or `OutOfMemory`."""
        if card.needs_image and not spec.image:
            raise InvalidInput(f"image: model {card.name!r} draws from an image, and the job has none")
        if spec.image and not card.takes_image:
            raise InvalidInput(f"image: model {card.name!r} takes no image")
        check_inputs(card, spec)
        check_strength(card, spec)
        check_control_mode(card, spec)
        check_guidance(card, spec)
        if not self.pipelines.has(card):
            monitor.enter("load")
        self._check_parallel(card)
        pipe = self.pipelines.get(card, profile, shape_of(spec), spec.loras)
        self.pipelines.warm(card, monitor)
        for name, text in self.pipelines.loaded(card.name).used.items():
            if name != "video_file" or spec.output == "video":  # a picture is no clip
                monitor.use(name, text)
        if spec.loras:
            monitor.use("loras", described(spec.loras))
        if spec.preset:
            monitor.use("preset", spec.preset)
        for text in without_effect(pipe, card, spec):
            monitor.warn(text)
        monitor.check()
        return working_copy(pipe) if self._in_copy(card, spec) else pipe

    @contextmanager
    def adjusted(self, pipe: Any, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
        """Inside, the parts of the pipeline that a job changes are as it requests; afterwards they are the model's own again."""
        setup = self.pipelines.setup(card)
        with (
            self._keeping(card, spec, monitor),
            self.pipelines.loaded(card.name).adapters.active(spec.loras),
            sampled(pipe, sampler_of(card, spec), spec, monitor),
            guided(pipe, spec),
            sized(pipe, spec),
            step_cached(pipe, card, setup.speed, spec, monitor, together=self.ranks is not None),
            self.ranks.split(pipe, card, spec, setup.parallel, monitor) if self.ranks is not None else nullcontext(),
        ):
            check_steps(pipe, spec)
            yield

    @contextmanager
    def _keeping(self, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
        """Inside, the state of the job is kept now and then. A step cache has one in the model, which is not."""
        keeping = monitor.keeping
        if keeping is not None and card.resumes and (spec.cache or card.cache) in ("", "off"):
            self._checkpoints[monitor] = Checkpoints(Path(keeping.directory), keeping.every_s, report=monitor.keep)
            keeping.settle = self._checkpoints[monitor].settle
        try:
            yield
        finally:
            self._checkpoints.pop(monitor, None)

    def call(self, pipe: Any, card: ModelCard, spec: JobSpec, index: int, monitor: Monitor, **more: Any) -> Any:
        """Call the pipeline for output `index` of a job, with the arguments of the job and `more`."""
        try:
            return self._call(pipe, card, spec, index, monitor, self._checkpoints.get(monitor), **more)
        except (UnknownState, DraftKept) as error:
            reason = self.ranks.leave_call(error) if self.ranks is not None else error
            if isinstance(reason, DraftKept):
                raise reason from None
            logger.warning("a job begins anew", extra={"action": Action.CHECKPOINT, "detail": str(reason)})
            monitor.use("resumed", f"no: {reason}")
        return self._call(pipe, card, spec, index, monitor, None, **more)

    def _call(
        self,
        pipe: Any,
        card: ModelCard,
        spec: JobSpec,
        index: int,
        monitor: Monitor,
        checkpoints: Checkpoints | None,
        **more: Any,
    ) -> Any:
        arguments = {**call_arguments(pipe, spec, spec.seed + index, monitor.check), **more}
        generator = arguments.get("generator")
        draw_noise_from(pipe, generator)
        last = index == spec.num_outputs - 1
        ended = None
        if last and arguments.get("output_type") == "latent":
            ended = partial(monitor.ends.denoised, "device" if self.pipelines.keeps_vae(card) else "whole")
        with self.pipelines.device.aside(monitor.turn.then) if monitor.turn.waits else nullcontext():
            # Some pipelines bring their control image to latents with noise of no generator.
            monitor.turn.then(partial(self.pipelines.device.seed, spec.seed + index))
            binding = self._binding(card, spec, monitor) if checkpoints is not None else {}
            if self.ranks is not None:
                checkpoints = self.ranks.checkpoints(index, checkpoints, binding)
            resumption = None
            if checkpoints is not None:
                put_back = self.ranks.put_back if self.ranks is not None else None
                resumption = Resumption(pipe, generator, index, monitor, checkpoints, binding, put_back, last=last)
                if resumption.goes_on:
                    # Until its call is left, the models answer in its way.
                    ended = None
            output = call(pipe, arguments, monitor, self.pipelines.device, resumption, ended)
        with tokenizing(pipe):
            cut = cut_prompts(pipe, card, spec, arguments)
        for text in (*cut, *guidance_was_off(pipe, card, spec, arguments)):
            monitor.warn(text)
        return output

    def _binding(self, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Binding:
        """Dependencies of the state of a job's denoising. Raises `UnknownState`."""
        assert monitor.keeping is not None
        loaded = self.pipelines.loaded(card.name)
        try:
            model, loras = self._content(card, loaded.revision), loaded.adapters.content(spec.loras)
        except OSError as error:
            raise UnknownState(f"the model's files cannot be read: {error}") from error
        return {
            "request": monitor.keeping.request,
            "model": model,
            "LoRA": loras,
            FILE: f"{platform.node()}\n{loaded.revision} {loaded.adapters.revision(spec.loras)}",
            "sampler": repr(sampler_of(card, spec)),
            "version of a library": versions(),
            "device": self.pipelines.device.name,
        }

    def _content(self, card: ModelCard, revision: str) -> str:
        if revision not in self._contents:
            device = self.pipelines.device
            self._contents[revision] = model_content(card, self.pipelines.setup(card), device.kind, str(device.dtype))
        return self._contents[revision]
