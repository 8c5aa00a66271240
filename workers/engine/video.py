"""Videos: any diffusers pipeline that makes frames from text, or from an image and text. A clip of one frame can be kept as a picture."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from broker.wire.jobspec import Artefact, JobSpec, ModelCard
from workers.engine.arguments import call_arguments
from workers.engine.artefacts import Mp4Writer, Pixels, artefact_name, save_png
from workers.engine.base import Profile
from workers.engine.diffusion import DiffusionEngine
from workers.engine.frames import to_uint8, video_frames
from workers.engine.monitor import Monitor
from workers.engine.previews import Previews
from workers.engine.scheduling import shifted
from workers.engine.siblings import fitting
from workers.engine.stream import can_stream, decode_frames, denormalise
from workers.engine.watch import call, call_parameters, watched


class VideoEngine(DiffusionEngine):
    """Text, and an image where the pipeline takes one, to MP4; to PNG when the job asks for an image."""

    def run(
        self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile
    ) -> tuple[Artefact, ...]:
        pipe = fitting(self.prepare(card, spec, monitor, profile), spec)
        with shifted(pipe, spec):
            if can_stream(pipe):
                return self._run_streamed(pipe, spec, out_dir, monitor)
            return self._run_whole(pipe, spec, out_dir, monitor)

    def _run_streamed(self, pipe: Any, spec: JobSpec, out_dir: Path, monitor: Monitor) -> tuple[Artefact, ...]:
        """All outputs are denoised before the first is decoded: latents are small, and progress only moves forward."""
        clips = []
        previews = Previews(pipe, spec, out_dir, monitor)
        for index in range(spec.num_outputs):
            monitor.output(index, "denoise")
            arguments = {**call_arguments(pipe, spec, spec.seed + index), "output_type": "latent"}
            with previews.of_output(index):
                clips.append(call(pipe, arguments, monitor, self.pipelines.device).frames)
        made = []
        with watched(pipe, monitor.check):
            for index, latents in enumerate(clips):
                monitor.output(index, "save" if index == len(clips) - 1 else "decode")
                made.append(self._decode(pipe.vae, latents, spec, out_dir, index, monitor))
        return tuple(made)

    def _decode(
        self, vae: Any, latents: torch.Tensor, spec: JobSpec, out_dir: Path, index: int, monitor: Monitor
    ) -> Artefact:
        total = latents.shape[2]
        monitor.enter("decode", total)
        with closing(decode_frames(vae, denormalise(vae, latents))) as frames:
            if spec.output == "image":
                pixels = _pixels(next(frames))
                monitor.enter("save")
                return save_png(out_dir, artefact_name("image", "png", index), pixels[0])
            with Mp4Writer(out_dir, artefact_name("video", "mp4", index), spec.fps) as writer:
                for done, pictures in enumerate(frames, start=1):
                    pixels = _pixels(pictures)
                    with monitor.aside("save"):
                        writer.write(pixels)
                    monitor.step(done, total)
                monitor.enter("save")
                return writer.finish()

    def _run_whole(self, pipe: Any, spec: JobSpec, out_dir: Path, monitor: Monitor) -> tuple[Artefact, ...]:
        made = []
        as_arrays = {"output_type": "np"} if "output_type" in call_parameters(pipe) else {}
        for index in range(spec.num_outputs):
            monitor.output(index, "save" if index == spec.num_outputs - 1 else "denoise")
            arguments = {**call_arguments(pipe, spec, spec.seed + index), **as_arrays}
            pixels = video_frames(call(pipe, arguments, monitor, self.pipelines.device))
            if spec.output == "image":
                monitor.enter("save")
                made.append(save_png(out_dir, artefact_name("image", "png", index), pixels[0]))
                continue
            monitor.enter("save", len(pixels))
            with Mp4Writer(out_dir, artefact_name("video", "mp4", index), spec.fps) as writer:
                for done in range(len(pixels)):
                    writer.write(pixels[done : done + 1])
                    monitor.step(done + 1, len(pixels))
                made.append(writer.finish())
        return tuple(made)


def _pixels(pictures: torch.Tensor) -> Pixels:
    """n x 3 x height x width in -1..1 -> n x height x width x 3, uint8."""
    pixels: Pixels = to_uint8(pictures).movedim(1, -1).contiguous().cpu().numpy()
    return pixels
