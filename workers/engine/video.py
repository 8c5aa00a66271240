"""Videos: any diffusers pipeline that makes frames from text, or from an image and text. A clip of one frame can be kept as a picture.

What is left after the last denoising step are postprocess stages (`base.Stage`): decode on the device, and encode along; then close,
fsync and hash the file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile
from workers.engine.artefacts import Mp4Writer, Pixels, artefact_name
from workers.engine.base import Outcome, Stage
from workers.engine.diffusion import DiffusionEngine
from workers.engine.frames import to_uint8, video_frames
from workers.engine.image import save_picture
from workers.engine.instrumentation import call_parameters, checked_in_blocks
from workers.engine.pipeline_variants import fitting
from workers.engine.previews import Previews
from workers.engine.progress import Monitor
from workers.engine.recipes import file_recipe
from workers.engine.sound import sound_for
from workers.engine.soundtrack import Sound
from workers.engine.stream import can_stream, decode_frames, denormalise
from workers.models.video_file import VideoFile

#: Closes and publishes one file.
_Finish = Callable[[], Artefact]


class _Output(Struct, frozen=True):
    """Output of a job: its file's path, and how a clip is encoded."""

    card: ModelCard
    spec: JobSpec
    index: int
    directory: Path
    file: VideoFile

    def writer(self, monitor: Monitor, sound: Sound | None = None) -> Mp4Writer:
        name = artefact_name("video", "mp4", self.index)
        embedded = file_recipe(self.card, self.spec, self.index, monitor)
        return Mp4Writer(self.directory, name, self.spec.fps, sound, self.file, embedded)

    def save_picture(self, pixels: Pixels, monitor: Monitor) -> Artefact:
        embedded = file_recipe(self.card, self.spec, self.index, monitor)
        return save_picture(monitor, self.directory, self.index, pixels, embedded)


class VideoEngine(DiffusionEngine):
    """Text, and an image where the pipeline takes one, to MP4; to PNG when the job requests an image."""

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        """Frames are decoded in a stage of their own where the pipeline can be stopped before, else by the pipeline."""
        pipe = fitting(self.prepare(card, spec, monitor, profile), spec)
        with self.adjusted(pipe, card, spec, monitor):
            if not can_stream(pipe):
                return self._draw_whole(pipe, card, spec, out_dir, monitor)
            clips = self._latents(pipe, card, spec, out_dir, monitor)
        decode = partial(self._decode_all, pipe, clips, self._outputs(card, spec, out_dir), monitor)
        return Stage("device" if self.pipelines.keeps_vae(card) else "whole", decode)

    def _latents(
        self, pipe: Any, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor
    ) -> list[torch.Tensor]:
        """All outputs are denoised before the first is decoded: latents are small, and progress only moves forward."""
        clips = []
        previews = Previews(pipe, spec, out_dir, monitor, self.pipelines.setup(card).video_file)
        for index in range(spec.num_outputs):
            monitor.output(index, "denoise")
            with previews.of_output(index):
                clips.append(self.call(pipe, card, spec, index, monitor, output_type="latent").frames)
        return clips

    def _outputs(self, card: ModelCard, spec: JobSpec, out_dir: Path) -> list[_Output]:
        file = self.pipelines.setup(card).video_file
        return [_Output(card, spec, index, out_dir, file) for index in range(spec.num_outputs)]

    def _decode_all(self, pipe: Any, clips: list[torch.Tensor], outputs: list[_Output], monitor: Monitor) -> Stage:
        made: list[Artefact] = []
        finish: _Finish | None = None
        try:
            with checked_in_blocks([pipe.vae], monitor.check), self.pipelines.device.beside(*clips):
                for latents, output in zip(clips, outputs, strict=True):
                    if finish is not None:
                        made.append(finish())
                    monitor.output(output.index, "save" if output is outputs[-1] else "decode")
                    finish = _decode(pipe.vae, latents, output, monitor)
        finally:
            # Offloaded models go back to where they wait. A resident model has no such hooks, and may be in use for the next job.
            if getattr(pipe, "_all_hooks", None):
                pipe.maybe_free_model_hooks()
        last = finish
        assert last is not None
        return Stage("host", lambda: (*made, last()))

    def _draw_whole(self, pipe: Any, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor) -> Stage:
        made: list[Artefact] = []
        as_arrays = {"output_type": "np"} if "output_type" in call_parameters(pipe) else {}
        previews = Previews(pipe, spec, out_dir, monitor)
        for output in self._outputs(card, spec, out_dir):
            last = output.index == spec.num_outputs - 1
            monitor.output(output.index, "save" if last else "denoise")
            with previews.of_output(output.index):
                drawn = self.call(pipe, card, spec, output.index, monitor, **as_arrays)
                sound = sound_for(pipe, drawn, spec.output, monitor)
                frames = video_frames(drawn)
                if "start_video" in spec.inputs:
                    # Some pipelines give the clip that they go on from, and then what they drew.
                    frames = frames[-spec.num_frames :]
                save = partial(_save, frames, sound, output, monitor)
                if not last:
                    made.append(save())
        return Stage("host", lambda: (*made, save()))


def _decode(vae: Any, latents: torch.Tensor, output: _Output, monitor: Monitor) -> _Finish:
    """Decode a clip, encoding its frames as they come. The answer must be called: it closes and publishes the file."""
    total = latents.shape[2]
    monitor.enter("decode", total)
    with ExitStack() as stack, closing(decode_frames(vae, denormalise(vae, latents))) as frames:
        if output.spec.output == "image":
            return partial(output.save_picture, _pixels(next(frames))[0], monitor)
        writer = stack.enter_context(output.writer(monitor))
        for done, pictures in enumerate(frames, start=1):
            pixels = _pixels(pictures)
            with monitor.times.aside("save"):
                writer.write(pixels)
            monitor.step(done, total)
        return partial(_close, stack.pop_all(), writer, monitor)


def _close(open_file: ExitStack, writer: Mp4Writer, monitor: Monitor) -> Artefact:
    with open_file:
        monitor.enter("save")
        return writer.finish()


def _save(pixels: Pixels, sound: Sound | None, output: _Output, monitor: Monitor) -> Artefact:
    """A decoded clip, frames x height x width x 3, as MP4, with its sound; its first frame as PNG where the job requests an image."""
    if output.spec.output == "image":
        return output.save_picture(pixels[0], monitor)
    monitor.enter("save", len(pixels))
    with output.writer(monitor, sound) as writer:
        for done in range(len(pixels)):
            writer.write(pixels[done : done + 1])
            monitor.step(done + 1, len(pixels))
        return writer.finish()


def _pixels(pictures: torch.Tensor) -> Pixels:
    """n x 3 x height x width in -1..1 -> n x height x width x 3, uint8."""
    pixels: Pixels = to_uint8(pictures).movedim(1, -1).contiguous().cpu().numpy()
    return pixels
