"""Previews: pictures of an output while it is still being denoised, for clients that watch it come, and the draft of a job that is parked.

They are real: at evenly spaced steps the latents of the moment go through the model's own VAE. Half-way latents are mostly noise, so
where the scheduler moves on straight lines (flow matching, Euler on noise predictions) the picture is of the point that the step aims
at, sample - sigma x prediction: the model's own idea, at that step, of the finished picture. Of a clip it is the first frame; the draft
(`job_files.draft_names`) is the whole clip, where frames can be decoded as they come.

Which latents can be decoded are lists of pipelines whose decoding was read in diffusers 0.42, and the Wan family. All others
give no previews. A preview never fails its job: what goes wrong is logged, and the job goes on without.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15
from PIL import Image

from broker.runtime.log_actions import Action
from broker.wire.job_files import draft_names, preview_name
from broker.wire.jobspec import JobSpec
from workers.engine.artefacts import Mp4Writer
from workers.engine.errors import EngineError
from workers.engine.frames import to_uint8
from workers.engine.progress import DraftKept, Monitor
from workers.engine.stream import can_stream, decode_frames, denormalise
from workers.models.video_file import VideoFile

logger = logging.getLogger(__name__)

#: Pipelines that decode `latents / scaling_factor + shift_factor`; those that pack their latents unpack them with `_unpack_latents`.
_PLAIN = re.compile(
    r"(Flux|FluxKontext|Chroma|StableDiffusion|StableDiffusionXL|StableDiffusion3|PixArtAlpha|PixArtSigma|Lumina2|HunyuanDiT"
    r"|CogView4|AuraFlow|ZImage|HiDreamImage|Kolors|Sana)(Img2Img)?Pipeline"
)

#: Pipelines that decode a clip's `latents / scaling_factor`, by a VAE in which later frames affect an earlier one at most by its norms.
_CLIPS = {"HunyuanVideoPipeline": AutoencoderKLHunyuanVideo, "HunyuanVideo15Pipeline": AutoencoderKLHunyuanVideo15}

#: Schedulers whose step, on a noise prediction, points from the sample at sample - sigma x prediction.
_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")

_UNPACK_ARGUMENTS = ["latents", "height", "width", "vae_scale_factor"]


class Previews:
    """Writes the previews of one job, and its draft at the step at which it is parked. `file`: encoding of clips."""

    def __init__(
        self, pipe: Any, spec: JobSpec, out_dir: Path, monitor: Monitor, file: VideoFile | None = None
    ) -> None:
        self._pipe = pipe
        self._spec = spec
        self._out_dir = out_dir
        self._monitor = monitor
        self._count = spec.previews if spec.previews and can_preview(pipe) else 0
        self._file = file or VideoFile()
        keeping = monitor.keeping
        #: Where the drafts go, and after which step of an output one is drawn; 0: never.
        self._kept = Path(keeping.directory) if keeping is not None else out_dir
        self._draft_at = monitor.draft_at if can_decode(pipe) else 0
        #: Pictures of an output, at most: those of the next have the numbers that follow.
        self._numbers = spec.previews + (self._draft_at > 0)

    @contextmanager
    def of_output(self, index: int) -> Iterator[None]:
        """While output `index` is drawn inside: reads each step of the scheduler, and ends it where only its draft is due."""
        with suppress(DraftKept), self._watched(index) if self._count or self._draft_at else nullcontext():
            yield

    @contextmanager
    def _watched(self, index: int) -> Iterator[None]:
        scheduler = self._pipe.scheduler
        original = scheduler.step
        done = 0

        # `wraps`: pipelines look up in the signature which further arguments the scheduler takes.
        @functools.wraps(original)
        def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal done
            moved = original(model_output, timestep, sample, *args, **kwargs)
            done += 1
            total = len(scheduler.timesteps)
            number, passed = preview_at(done, total, self._count), self._monitor.passing_over
            if number and not passed:
                path = self._out_dir / preview_name(index * self._numbers + number)
                self._write(path, aim(scheduler, model_output, sample, moved))
            if done == self._draft_at < total:
                # An earlier attempt may have drawn it, and come no further.
                if not passed:
                    self._write_draft(index, aim(scheduler, model_output, sample, moved))
                shown = sum(preview_at(step, total, self._count) > 0 for step in range(1, done + 1))
                self._show_draft(index, index * self._numbers + shown + 1)
            return moved

        # The instance's attribute hides the class's method; removing it brings the method back.
        scheduler.step = step
        try:
            yield
        finally:
            del scheduler.step

    def _write_draft(self, index: int, latents: torch.Tensor) -> None:
        clip, picture = (self._kept / name for name in draft_names(index))
        try:
            self._kept.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._spec.output != "video" or not can_stream(self._pipe):
                self._write(picture, latents)
                return
            with (
                self._monitor.times.aside("decode"),
                Mp4Writer(clip.parent, clip.name, self._spec.fps, None, self._file) as writer,
                closing(decode_frames(self._pipe.vae, denormalise(self._pipe.vae, latents))) as frames,
            ):
                for number, pictures in enumerate(frames):
                    pixels = to_uint8(pictures).movedim(1, -1).contiguous().cpu().numpy()
                    if number == 0:
                        _save(picture, pixels[0])
                    writer.write(pixels)
                    self._monitor.check()
                writer.finish()
        except (EngineError, RuntimeError, ValueError, OSError) as error:
            logger.warning("no draft of this job", extra={"action": Action.PREVIEW_FAILED, "reason": str(error)[:500]})

    def _show_draft(self, index: int, number: int) -> None:
        """Put the draft's picture where the previews of this attempt are looked for, as the newest of them."""
        with suppress(OSError):  # there is none, or no room: the job is parked all the same
            shutil.copyfile(self._kept / draft_names(index)[1], self._out_dir / preview_name(number))

    def _write(self, path: Path, latents: torch.Tensor) -> None:
        try:
            with self._monitor.times.aside("decode"):
                pixels = decode(self._pipe, latents, self._spec).movedim(0, -1).contiguous().cpu().numpy()
            with self._monitor.times.aside("save"):
                _save(path, pixels)
        except (EngineError, RuntimeError, ValueError, OSError) as error:
            self._count = 0
            logger.warning(
                "no more previews of this job", extra={"action": Action.PREVIEW_FAILED, "reason": str(error)[:500]}
            )


def _save(path: Path, pixels: Any) -> None:
    """A picture, height x width x 3, as a PNG that is there whole or not at all. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def preview_at(done: int, total: int, count: int) -> int:
    """Number (from 1) of the preview that is due after `done` of `total` steps; 0 when none is. The last step needs none."""
    if not 0 < done < total:
        return 0
    due = [max(1, total * number // (count + 1)) for number in range(1, count + 1)]
    return due.index(done) + 1 if done in due else 0


def can_preview(pipe: Any) -> bool:
    """Whether this pipeline's latents are understood and its VAE is at hand: bringing in an offloaded one would drive the model out."""
    return not getattr(pipe, "_all_hooks", None) and can_decode(pipe)


def can_decode(pipe: Any) -> bool:
    """Whether this pipeline's latents are understood."""
    if not hasattr(pipe, "scheduler"):
        return False
    if can_stream(pipe):
        return True
    vae: Any = getattr(pipe, "vae", None)
    if type(vae) is _CLIPS.get(type(pipe).__name__):
        return True
    if _PLAIN.fullmatch(type(pipe).__name__) is None or type(vae) not in (AutoencoderKL, AutoencoderDC):
        return False
    overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    return not overflows and getattr(vae.config, "latents_mean", None) is None


@torch.no_grad()
def aim(scheduler: Any, model_output: torch.Tensor, sample: torch.Tensor, moved: Any) -> torch.Tensor:
    """The clean latents that a step points at, or where it led when this scheduler gives none."""
    after: torch.Tensor = moved[0] if isinstance(moved, tuple) else moved.prev_sample
    name, config = type(scheduler).__name__, scheduler.config
    kind = config.get("prediction_type", "epsilon")
    straight = (
        name == "FlowMatchEulerDiscreteScheduler" or kind == "flow_prediction" or (name in _EULER and kind == "epsilon")
    )
    sigmas, index = getattr(scheduler, "sigmas", None), getattr(scheduler, "step_index", None)
    if not straight or sigmas is None or not index or index > len(sigmas) or model_output.shape != sample.shape:
        return after
    sigma = sigmas[index - 1].to(sample.device, torch.float32)
    aimed: torch.Tensor = sample.float() - sigma * model_output.float()
    return aimed


@torch.no_grad()
def decode(pipe: Any, latents: torch.Tensor, spec: JobSpec) -> torch.Tensor:
    """The (first) picture in a pipeline's latents: 3 x height x width, uint8. Raises `ValueError` for latents of another shape."""
    vae = pipe.vae
    if can_stream(pipe):
        with closing(decode_frames(vae, denormalise(vae, latents[:1, :, :1]))) as frames:
            return to_uint8(next(frames)[0])
    if type(pipe).__name__ in _CLIPS:
        first = latents[:1, :, :1] / vae.config.scaling_factor
        return to_uint8(vae.decode(first.to(vae.dtype), return_dict=False)[0][0, :, 0])
    latents = latents[:1]
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents"):
        if list(inspect.signature(pipe._unpack_latents).parameters) != _UNPACK_ARGUMENTS:
            raise ValueError(f"{type(pipe).__name__} packs its latents in its own way")
        latents = pipe._unpack_latents(latents, spec.height, spec.width, pipe.vae_scale_factor)
    if latents.ndim != 4 or latents.shape[1] != vae.config.latent_channels:
        raise ValueError(f"latents of shape {tuple(latents.shape)} are not those of the VAE")
    scaled = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
    return to_uint8(vae.decode(scaled.to(vae.dtype), return_dict=False)[0][0])
