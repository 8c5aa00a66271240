"""Common part of the engines that run diffusers pipelines: the shared pipelines, and a model ready for a job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from broker.runtime.log_actions import Action
from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.arguments import call_arguments
from workers.engine.base import Profile
from workers.engine.checkpoints import Binding, Checkpoints
from workers.engine.checks import check_inputs, check_strength, guidance_was_off, without_effect
from workers.engine.errors import InvalidInput
from workers.engine.guidance import guided
from workers.engine.instrumentation import call
from workers.engine.loras import described
from workers.engine.overlap import shape_of
from workers.engine.peaks import Shape
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.resuming import Resumption, UnknownState, versions
from workers.engine.scheduling import draw_noise_from, sampled, sampler_of
from workers.engine.sizing import sized
from workers.engine.step_cache import step_cached
from workers.engine.tokens import cut_prompts

logger = logging.getLogger(__name__)


class DiffusionEngine:
    """Base of the engines over one process's pipelines."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.pipelines = pipelines
        #: Of the attempt that is drawn now.
        self._checkpoints: Checkpoints | None = None

    def load(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Bring the model into memory, and call it in the sizes of its warm-up. Raises `LoadError`, or `OutOfMemory`."""
        self.pipelines.get(card)
        self.pipelines.warm(card, monitor)

    def stays(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """Whether a job of this shape finds the model where it needs it, and its VAE stays there."""
        return self.pipelines.stays(card, profile, shape)

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

    def reclaim(self) -> None:
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
        if not self.pipelines.has(card):
            monitor.enter("load")
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
        return pipe

    @contextmanager
    def adjusted(self, pipe: Any, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
        """Inside, the parts of the pipeline that a job changes are as it asks; afterwards they are the model's own again."""
        with (
            self._keeping(card, spec, monitor),
            self.pipelines.loaded(card.name).adapters.active(spec.loras),
            sampled(pipe, sampler_of(card, spec), spec, monitor),
            guided(pipe, spec),
            sized(pipe, spec),
            step_cached(pipe, card, self.pipelines.setup(card).speed, spec, monitor),
        ):
            yield

    @contextmanager
    def _keeping(self, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
        """Inside, the state of the job is kept now and then. A step cache has one in the model, which is not."""
        keeping = monitor.keeping
        if keeping is not None and card.resumes and (spec.cache or card.cache) in ("", "off"):
            self._checkpoints = Checkpoints(Path(keeping.directory), keeping.every_s, report=monitor.keep)
            keeping.settle = self._checkpoints.settle
        try:
            yield
        finally:
            self._checkpoints = None

    def call(self, pipe: Any, card: ModelCard, spec: JobSpec, index: int, monitor: Monitor, **more: Any) -> Any:
        """Call the pipeline for output `index` of a job, with the arguments of the job and `more`."""
        try:
            return self._call(pipe, card, spec, index, monitor, self._checkpoints, **more)
        except UnknownState as error:
            logger.warning("a job begins anew", extra={"action": Action.CHECKPOINT, "detail": str(error)})
            monitor.use("resumed", f"no: {error}")
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
        # Some pipelines bring their control image to latents with noise of no generator.
        torch.manual_seed(spec.seed + index)
        resumption = None
        if checkpoints is not None:
            binding, last = self._binding(card, spec, monitor), index == spec.num_outputs - 1
            resumption = Resumption(pipe, generator, index, monitor, checkpoints, binding, last=last)
        output = call(pipe, arguments, monitor, self.pipelines.device, resumption)
        for text in (*cut_prompts(pipe, card, spec, arguments), *guidance_was_off(pipe, card, spec, arguments)):
            monitor.warn(text)
        return output

    def _binding(self, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Binding:
        """Dependencies of the state of a job's denoising."""
        assert monitor.keeping is not None
        loaded = self.pipelines.loaded(card.name)
        return {
            "request": monitor.keeping.request,
            "model": loaded.revision,
            "LoRA": loaded.adapters.revision(spec.loras),
            "sampler": repr(sampler_of(card, spec)),
            "version of a library": versions(),
            "device": self.pipelines.device.name,
        }
