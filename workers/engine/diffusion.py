"""Common part of the engines that run diffusers pipelines: the shared pipelines, and a model ready for a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.arguments import call_arguments
from workers.engine.base import Profile
from workers.engine.checks import check_inputs, check_strength, guidance_was_off, without_effect
from workers.engine.errors import InvalidInput
from workers.engine.guidance import guided
from workers.engine.instrumentation import call
from workers.engine.loras import described
from workers.engine.overlap import shape_of
from workers.engine.peaks import Shape
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.scheduling import draw_noise_from, sampled, sampler_of
from workers.engine.sizing import sized
from workers.engine.step_cache import step_cached
from workers.engine.tokens import cut_prompts


class DiffusionEngine:
    """Base of the engines over one process's pipelines."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.pipelines = pipelines

    def load(self, card: ModelCard) -> None:
        """Bring the model into memory. Raises `LoadError`, or `OutOfMemory`."""
        self.pipelines.get(card)
        self.pipelines.warm(card)

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
            self.pipelines.loaded(card.name).adapters.active(spec.loras),
            sampled(pipe, sampler_of(card, spec), spec, monitor),
            guided(pipe, spec),
            sized(pipe, spec),
            step_cached(pipe, card, spec, monitor),
        ):
            yield

    def call(self, pipe: Any, card: ModelCard, spec: JobSpec, index: int, monitor: Monitor, **more: Any) -> Any:
        """Call the pipeline for output `index` of a job, with the arguments of the job and `more`."""
        arguments = {**call_arguments(pipe, spec, spec.seed + index, monitor.check), **more}
        draw_noise_from(pipe, arguments.get("generator"))
        output = call(pipe, arguments, monitor, self.pipelines.device)
        for text in (*cut_prompts(pipe, card, spec, arguments), *guidance_was_off(pipe, card, spec, arguments)):
            monitor.warn(text)
        return output
