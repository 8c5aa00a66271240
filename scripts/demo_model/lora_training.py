"""Trains a LoRA of the demo model's transformer: `python -m scripts.demo_model.lora_training --out FILE`.

Its clips go there and back again: the path of the motion in the first half, the same path backwards in the second. The words stay as they
are, so the low-rank weights alone make the difference. Takes a few minutes on a CPU.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from scripts.demo_model.dit_training import flow_loss
from scripts.demo_model.fast_convolution import speed_up
from scripts.demo_model.parts import Student
from scripts.demo_model.stages import TrainingError, generator_for
from scripts.demo_model.world import Scene, draw_scenes, render

log = logging.getLogger(__name__)

#: Typed in part, which mypy takes for untyped calls.
_diffusers: Any = diffusers

_MODEL = Path(__file__).resolve().parents[2] / "workers" / "demo_model"
#: Layers of each block that get low-rank weights.
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
#: Frames of a clip up to its turn.
_HALF = 9
_BATCH, _ENCODE_BATCH = 24, 10
_PROGRESS_EVERY_S = 15.0


def clips(scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """Clips of 17 frames that go there and back, `(scenes, 3, 17, 64, 64)` from -1 to 1."""
    there, _ = render(scenes, _HALF, generator)
    return torch.cat([there, there[:, :, :-1].flip(2)], dim=2)


def train(steps: int, count: int, rank: int, seed: int) -> dict[str, Tensor]:
    """The low-rank weights under diffusers' names, in half precision, trained on `count` clips. Raises `TrainingError`."""
    torch.manual_seed(seed)
    pipe: Any = _diffusers.WanPipeline.from_pretrained(
        _MODEL, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    speed_up(pipe.vae)
    scenes, latents = _encoded(pipe.vae, count, seed)
    transformer = pipe.transformer.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    transformer.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS))
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 20, (1 - step / steps) / 0.5 + 0.01)
    )
    student = Student(transformer, pipe.text_encoder, pipe.tokenizer)
    told = time.monotonic()
    for step in range(steps):
        generator = generator_for(seed, "lora", step)
        rows = torch.randint(count, (_BATCH,), generator=generator)
        loss = flow_loss(student, [scenes[row] for row in rows.tolist()], latents[rows], generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if not math.isfinite(float(loss)):
            raise TrainingError(f"the loss is {float(loss)} at step {step}")
        if time.monotonic() - told > _PROGRESS_EVERY_S or step == steps - 1:
            told = time.monotonic()
            log.info("step %d of %d: loss %.4f", step + 1, steps, float(loss))
    layers = peft.get_peft_model_state_dict(transformer)
    return {f"transformer.{name}": tensor.detach().half().contiguous() for name, tensor in layers.items()}


@torch.no_grad()
def _encoded(vae: Any, count: int, seed: int) -> tuple[list[Scene], Tensor]:
    """Scenes, and the latents of their clips as the transformer knows them."""
    scenes = draw_scenes(count, generator_for(seed, "scenes"))
    generator = generator_for(seed, "clips")
    mean, std = (
        torch.tensor(figures).view(1, -1, 1, 1, 1) for figures in (vae.config.latents_mean, vae.config.latents_std)
    )
    pieces = []
    begun = told = time.monotonic()
    for at in range(0, count, _ENCODE_BATCH):
        pixels = clips(scenes[at : at + _ENCODE_BATCH], generator)
        pieces.append((vae.encode(pixels).latent_dist.mode() - mean) / std)
        if time.monotonic() - told > _PROGRESS_EVERY_S:
            told = time.monotonic()
            log.info("%d of %d clips encoded", min(at + _ENCODE_BATCH, count), count)
    log.info("%d clips encoded in %.0f s", count, time.monotonic() - begun)
    return scenes, torch.cat(pieces)


def main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line; 0 when the file is written, 1 when training failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo_model.lora_training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rank", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        weights = train(given.steps, given.clips, given.rank, given.seed)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_name(f"{given.out.name}.part")
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
