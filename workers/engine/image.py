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
from workers.engine.previews import Previews
from workers.engine.scheduling import shifted
from workers.engine.watch import call


class ImageEngine(DiffusionEngine):
    """Text, and a picture where the pipeline takes one, to PNG."""

    def run(
        self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile
    ) -> tuple[Artefact, ...]:
        pipe = self.prepare(card, spec, monitor, profile)
        made = []
        with shifted(pipe, spec):
            previews = Previews(pipe, spec, out_dir, monitor)
            for index in range(spec.num_outputs):
                monitor.output(index, "save" if index == spec.num_outputs - 1 else "denoise")
                arguments = call_arguments(pipe, spec, spec.seed + index)
                with previews.of_output(index):
                    output = call(pipe, arguments, monitor, self.pipelines.device)
                monitor.enter("save")
                made.append(save_png(out_dir, artefact_name("image", "png", index), image_pixels(output)))
        return tuple(made)
