"""Images: any diffusers pipeline that makes a picture from text, or from a picture and text."""

from __future__ import annotations

from pathlib import Path

from broker.wire.jobspec import Artefact, JobSpec, ModelCard
from workers.engine.arguments import call_arguments
from workers.engine.artefacts import artefact_name, save_png
from workers.engine.base import Profile
from workers.engine.diffusion import DiffusionEngine
from workers.engine.frames import image_pixels
from workers.engine.monitor import Monitor
from workers.engine.watch import call


class ImageEngine(DiffusionEngine):
    """Text, and a picture where the pipeline takes one, to PNG."""

    def run(
        self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile
    ) -> tuple[Artefact, ...]:
        pipe = self.prepare(card, spec, monitor, profile)
        made = []
        for index in range(spec.num_outputs):
            monitor.output(index, "save" if index == spec.num_outputs - 1 else "denoise")
            output = call(pipe, call_arguments(pipe, spec, spec.seed + index), monitor, self.pipelines.device)
            monitor.enter("save")
            made.append(save_png(out_dir, artefact_name("image", "png", index), image_pixels(output)))
        return tuple(made)
