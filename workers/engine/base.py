"""The face of an engine: load a model, run a job, stop when told. No torch here, so that the fake engine starts at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from broker.wire.jobspec import Artefact, JobSpec, ModelCard
from workers.engine.monitor import Monitor

#: "offload" trades speed for memory, after a job ran out of it.
Profile = Literal["normal", "offload"]


class Engine(Protocol):
    """Draws the jobs of one family of models. One job at a time."""

    def load(self, card: ModelCard) -> None:
        """Bring the model into memory. Raises `LoadError`, or `OutOfMemory`."""

    def run(
        self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile
    ) -> tuple[Artefact, ...]:
        """Draw `spec` into files in `out_dir`, all fsynced on return. Raises `Cancelled` soon after the job's cancel word is set.

        Raises `EngineError`, and whatever the pipeline raises. After any of these the engine can run the next job as if nothing
        had happened, unless the device itself is lost.
        """

    def loaded(self) -> str:
        """Name of the model that the next job finds in memory; "" when none."""

    def reclaim(self) -> None:
        """Give back all memory that the model in use does not need. Called when a job ran out of memory."""
