"""Images: any diffusers pipeline that makes a picture from text, or from a picture and text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile
from workers.engine.artefacts import Pixels, artefact_name, save_png
from workers.engine.base import Outcome, Stage
from workers.engine.diffusion import DiffusionEngine
from workers.engine.frames import image_pixels
from workers.engine.instrumentation import call_parameters
from workers.engine.previews import Previews
from workers.engine.progress import Monitor
from workers.engine.recipes import FileRecipe, file_recipe
from workers.engine.sound import sound_for


class ImageEngine(DiffusionEngine):
    """Text, and a picture where the pipeline takes one, to PNG."""

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        """Pictures come decoded from the pipeline's call; what is left is to save the last one."""
        pipe = self.prepare(card, spec, monitor, profile)
        made: list[Artefact] = []
        as_arrays = {"output_type": "np"} if "output_type" in call_parameters(pipe) else {}
        with self.adjusted(pipe, card, spec, monitor):
            previews = Previews(pipe, spec, out_dir, monitor)
            for index in range(spec.num_outputs):
                last = index == spec.num_outputs - 1
                monitor.output(index, "save" if last else "denoise")
                with previews.of_output(index):
                    # As arrays, not pictures: what is no number can still be seen.
                    output = self.call(pipe, card, spec, index, monitor, **as_arrays)
                    sound_for(pipe, output, "image", monitor)
                    embedded = file_recipe(card, spec, index, monitor)
                    save = partial(save_picture, monitor, out_dir, index, image_pixels(output), embedded)
                    if not last:
                        made.append(save())
        return Stage("host", lambda: (*made, save()))


def save_picture(monitor: Monitor, out_dir: Path, index: int, pixels: Pixels, embedded: FileRecipe | None) -> Artefact:
    """Output `index`, height x width x 3 or 4, as PNG. Raises `Cancelled` or `WriteError`."""
    monitor.enter("save")
    return save_png(out_dir, artefact_name("image", "png", index), pixels, embedded)
