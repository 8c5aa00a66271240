"""Interface of an engine: load a model, run a job, stop on request. No torch here, so that the fake engine starts at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile
from workers.engine.peaks import Shape
from workers.engine.progress import Monitor

#: What comes of a part of a job: its files, or the next part.
Outcome: TypeAlias = "tuple[Artefact, ...] | Stage"


class Stage(Struct, frozen=True):
    """Postprocess stage of a job, which may run on another thread while the next job is denoised.

    `where` is what it needs: "host", nothing of the device; "device", memory there beside the next job's; "whole", the device for itself.
    `run` does it, and may be called again if memory ran out. Raises as `Engine.generate` does.
    """

    where: Literal["host", "device", "whole"]
    run: Callable[[], Outcome]


class Engine(Protocol):
    """Draws the jobs of one family of models. One job at a time, beside the postprocess stages of the one before.

    `generate` is also called in a second thread, for a job that `prepares`; then `monitor` has it wait before its first denoising step.
    """

    def load(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Bring the model into memory, and call it for the first time where it is to be. Raises `LoadError`, or `OutOfMemory`."""

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        """Draw `spec` up to its last denoising step at least; what comes last is files in `out_dir`, all fsynced.

        Raises `Cancelled` soon after the job's cancel flag is set, `Parked` after the step that follows its park flag where the model
        resumes, `EngineError`, and whatever the pipeline raises. After any of these
        the engine can run the next job as if nothing had happened, unless the device itself is lost.
        """

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        """Whether this model is where a job of this shape needs it: drawing it moves no weights."""

    def prepares(self, card: ModelCard, spec: JobSpec, beside: JobSpec) -> bool:
        """Whether a job can be prepared while another of the same model is denoised, so that neither is drawn differently."""

    def ran_out(self, card: ModelCard, spec: JobSpec, profile: Profile) -> bool:
        """A job's denoise stage ran out of memory, with nothing beside it. Whether it can be drawn again, so that it takes less."""

    def loaded(self) -> str:
        """Name of the model that the next job finds in memory; "" when none."""

    def loaded_loras(self) -> tuple[str, ...]:
        """Names of the LoRAs beside its weights, the most recently used first."""

    def free_cache(self) -> None:
        """Give back all memory that the model in use does not need. Called when a job ran out of memory and nothing else runs."""


def complete(outcome: Outcome) -> tuple[Artefact, ...]:
    """Run all stages that are left, here and now."""
    while isinstance(outcome, Stage):
        outcome = outcome.run()
    return outcome
