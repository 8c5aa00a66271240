"""Bare diffusers loop, as without a service: load a pipeline, call it for one prompt after the other, save each clip. A process of its own.

`python -m bench.suites.bare_loop` reads one JSON object from stdin, {"model", "device", "threads", "crf", "preset", "out", "jobs":
[specs]},
and prints one: {"load_s", "ends": [seconds of each clip since the loop began]}. Weights, precision, seeds and encoder are those of the
service.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import diffusers
import msgspec
import numpy as np
import torch
from diffusers import DiffusionPipeline

_from_pretrained: Any = DiffusionPipeline.from_pretrained


def main() -> int:
    """Draw everything that was requested."""
    order = msgspec.json.decode(sys.stdin.buffer.read())
    begun = time.monotonic()
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    diffusers.utils.logging.disable_progress_bar()
    pipe = _load(order["model"], order["device"])
    load_s = time.monotonic() - begun
    ends = []
    begun = time.monotonic()
    for number, job in enumerate(order["jobs"]):
        clip = _draw(pipe, job)
        _save(clip, Path(order["out"]) / f"{number}.mp4", job["fps"], order["crf"], order["preset"])
        ends.append(time.monotonic() - begun)
    sys.stdout.buffer.write(msgspec.json.encode({"load_s": load_s, "ends": ends}))
    return 0


def _load(model: str, device: str) -> Any:
    dtype: Any = torch.float32
    if device == "cuda":
        # As the service does: half precision, but for a VAE that loses detail in it.
        dtype = {"default": torch.bfloat16, "vae": torch.float32}
    pipe = _from_pretrained(model, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _draw(pipe: Any, job: dict[str, Any]) -> Any:
    """Frames x height x width x 3, uint8."""
    names = ("prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale", "max_sequence_length")
    arguments = {name: job[name] for name in names if job.get(name) is not None}
    generator = torch.Generator("cpu").manual_seed(job["seed"])
    clip = pipe(**arguments, generator=generator, output_type="np").frames[0]
    return (np.asarray(clip) * 255).round().astype(np.uint8)


def _save(clip: Any, path: Path, fps: float, crf: str, preset: str) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            options={"crf": crf, "preset": preset, "x264-params": "mbtree=0"},
        )
        stream.codec_context.thread_count = 4
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "yuv420p"
        for pixels in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
