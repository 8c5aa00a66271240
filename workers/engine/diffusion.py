"""What the engines that run diffusers pipelines have in common: the shared pipelines, and a model ready for a job."""

from __future__ import annotations

from typing import Any

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.base import Profile
from workers.engine.errors import InvalidInput
from workers.engine.monitor import Monitor
from workers.engine.pipelines import Pipelines


class DiffusionEngine:
    """Base of the engines over one process's pipelines."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.pipelines = pipelines

    def load(self, card: ModelCard) -> None:
        """Bring the model into memory. Raises `LoadError`, or `OutOfMemory`."""
        self.pipelines.get(card)

    def stays(self, card: ModelCard, profile: Profile) -> bool:
        """Whether all of this model is on its device, and stays there while a job runs."""
        return self.pipelines.stays(card, profile)

    def loaded(self) -> str:
        """The model used last."""
        names = self.pipelines.names()
        return names[-1] if names else ""

    def reclaim(self) -> None:
        """Drop the models that are not in use."""
        self.pipelines.keep_only(self.loaded())

    def prepare(self, card: ModelCard, spec: JobSpec, monitor: Monitor, profile: Profile) -> Any:
        """The pipeline for this job, checked to suit it. Raises `InvalidInput`, `LoadError` or `OutOfMemory`."""
        if card.needs_image and not spec.image:
            raise InvalidInput(f"image: model {card.name!r} draws from an image, and the job has none")
        if spec.image and not card.takes_image:
            raise InvalidInput(f"image: model {card.name!r} takes no image")
        if not self.pipelines.has(card):
            monitor.enter("load")
        pipe = self.pipelines.get(card, profile)
        monitor.check()
        return pipe
