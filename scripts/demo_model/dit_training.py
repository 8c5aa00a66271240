"""The transformer: flow matching on latents of clips that were encoded beforehand, with a text encoder that can read already.

In some steps the first latent frame is the clip's own, without noise and at time 0, and only the rest is to be denoised: so the same
weights continue a picture, as Wan 2.2's 5B model does (`expand_timesteps` in diffusers).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scripts.demo_model import ranks
from scripts.demo_model.captions import Chance, training_caption
from scripts.demo_model.muon import Muon
from scripts.demo_model.parts import Student
from scripts.demo_model.stages import Stage, generator_for, level_rate
from scripts.demo_model.vae_training import Vae, encode
from scripts.demo_model.world import Scene, draw_scenes, render

log = logging.getLogger(__name__)

#: Clips encoded for each length in frames, and how often a step takes that length.
CLIPS = {17: 4000, 1: 600, 9: 400, 13: 200, 21: 200, 25: 200, 33: 350}
_SHARE = {17: 0.72, 1: 0.08, 9: 0.05, 13: 0.03, 21: 0.03, 25: 0.03, 33: 0.06}
#: Text lengths in tokens, and how often a step pads to them: the pipeline's zeros take part in attention.
_TEXT = {32: 0.84, 48: 0.08, 64: 0.04, 128: 0.03, 512: 0.01}
#: How often a step with more than one latent frame is given the first of them.
_GIVEN_FIRST = 0.12
#: Clips encoded at a time, and clips that one file of latents holds.
_ENCODE_BATCH, _FILE = 10, 250
#: Pieces of a step, and clips of 17 frames in a piece.
_PARTS, _BATCH = 2, 32


@dataclass(frozen=True)
class Latents:
    """For each length in frames: scenes, and the half-precision latents `(clips, channels, latent frames, 8, 8)` of their clips."""

    scenes: Mapping[int, Sequence[Scene]]
    tensors: Mapping[int, Tensor]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the clips of the most frequent length."""
        sample = self.tensors[max(self.tensors, key=lambda frames: _SHARE[frames])].float()
        return sample.mean((0, 2, 3, 4)), sample.std((0, 2, 3, 4))


def encode_clips(vae: Vae, clips: Mapping[int, int], seed: int, folder: Path) -> Latents:
    """Render and encode `clips` (frames -> how many), or take those that an earlier run left in `folder`."""
    scenes = {frames: draw_scenes(count, generator_for(seed, "scenes", frames)) for frames, count in clips.items()}
    files = [
        (frames, at, folder / f"latents-{frames}-{at}.safetensors")
        for frames in clips
        for at in range(0, clips[frames], _FILE)
    ]
    for frames, at, path in files[ranks.rank() :: ranks.size()]:
        if not path.exists():
            begun = time.monotonic()
            wanted = scenes[frames][at : at + _FILE]
            save_file(
                {"latents": _encode(vae, wanted, frames, generator_for(seed, "clips", frames, at))}, f"{path}.part"
            )
            os.replace(f"{path}.part", path)
            log.info("latents: %d clips of %d frames in %.0f s", len(wanted), frames, time.monotonic() - begun)
    ranks.wait()
    stored = [(frames, load_file(path)["latents"]) for frames, _, path in files]
    return Latents(
        scenes, {frames: torch.cat([piece for length, piece in stored if length == frames]) for frames in clips}
    )


@torch.no_grad()
def _encode(vae: Vae, scenes: Sequence[Scene], frames: int, generator: torch.Generator) -> Tensor:
    latents = []
    for at in range(0, len(scenes), _ENCODE_BATCH):
        pixels, _ = render(scenes[at : at + _ENCODE_BATCH], frames, generator)
        latents.append(encode(vae, pixels.to(vae.device))[0].half().cpu())
    return torch.cat(latents)


class Average(nn.Module):
    """Running averages of a module's parameters; they are what is shipped."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._source = [module]  # in a list, so that it is no child of this module
        for name, parameter in module.named_parameters():
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step`; short memory at first, some two hundred steps later on."""
        keep = min(0.995, (1 + step) / (10 + step))
        parameters = dict(self._source[0].named_parameters())
        for name, average in self.named_buffers():
            average.lerp_(parameters[name.replace("/", ".")], 1 - keep)

    @torch.no_grad()
    def put_into_module(self) -> None:
        """Replace the module's parameters by their averages."""
        averages = dict(self.named_buffers())
        for name, parameter in self._source[0].named_parameters():
            parameter.copy_(averages[name.replace(".", "/")])


def transformer_stage(student: Student, latents: Latents, steps: int) -> Stage:
    """The transformer, with its running averages among the stage's modules; the text encoder stays as it is."""
    student.text_encoder.requires_grad_(False)
    average = Average(student.transformer)
    mean, std = (figure.view(1, -1, 1, 1, 1) for figure in latents.statistics())

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        scenes, clean = _draw_batch(latents, generator)
        clean = (clean.float() - mean) / std
        return flow_loss(student, scenes, clean, generator), {}

    modules = {"transformer": student.transformer, "average": average}
    return Stage(
        "transformer", steps, modules, _optimisers(student), loss, lambda step: level_rate(step, steps),
        clip=1.0, after_step=average.update, parts=_PARTS,
    )  # fmt: skip


def take_averages(stage: Stage) -> None:
    """Put the running averages into the stage's modules, after its last step."""
    for module in stage.modules.values():
        if isinstance(module, Average):
            module.put_into_module()


def flow_loss(student: Student, scenes: Sequence[Scene], clean: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted flow from normalised latents `clean` to noise, at random points of the way."""
    device = student.transformer.device
    count, _, frames, height, width = clean.shape
    given = frames > 1 and float(torch.rand((), generator=generator)) < _GIVEN_FIRST
    noise = torch.randn(clean.shape, generator=generator)
    sigma = _sigmas(count, generator)
    where = sigma.view(-1, 1, 1, 1, 1)
    times = 1000 * sigma
    if given:
        where = where * (torch.arange(frames) > 0).view(1, 1, -1, 1, 1)
        times = (1000 * where).expand(count, 1, frames, height // 2, width // 2).flatten(1)
    mixed = (1 - where) * clean + where * noise
    predicted: Tensor = student.transformer(
        hidden_states=mixed.to(device),
        timestep=times.to(device),
        encoder_hidden_states=_read(student, scenes, generator),
        return_dict=False,
    )[0]
    squared = (predicted - (noise - clean).to(device)).square()
    return squared[:, :, 1:].mean() if given else squared.mean()


def _read(student: Student, scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """Fresh captions of the scenes, encoded, and padded with zeros as the pipeline does."""
    chance = Chance(generator)
    states, _ = student.read([training_caption(scene, chance) for scene in scenes])
    length = _pick(_TEXT, generator)
    return nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))


def _draw_batch(latents: Latents, generator: torch.Generator) -> tuple[list[Scene], Tensor]:
    """(scenes, latents) of one step: one length, and as many clips as make about the same number of tokens."""
    frames = _pick({frames: _SHARE[frames] for frames in latents.tensors}, generator)
    stored = latents.tensors[frames]
    count = max(1, min(stored.shape[0], 2 * _BATCH, _BATCH * 5 // stored.shape[2]))
    rows = torch.randint(stored.shape[0], (count,), generator=generator)
    return [latents.scenes[frames][row] for row in rows.tolist()], stored[rows]


def _pick(shares: Mapping[int, float], generator: torch.Generator) -> int:
    weights = torch.tensor(list(shares.values()))
    return list(shares)[int(torch.multinomial(weights, 1, generator=generator))]


def _sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Points on the way from clip (0) to noise (1): more in the middle, half of them moved towards the noise."""
    chance = torch.rand(count, 3, generator=generator)
    middle = torch.randn(count, generator=generator).sigmoid()
    even = torch.where(chance[:, 0] < 0.6, middle, chance[:, 1])
    return torch.where(chance[:, 2] < 0.5, even, 3 * even / (1 + 2 * even))


def _optimisers(student: Student) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in student.transformer.named_parameters():
        (matrices if name.startswith("blocks.") and parameter.ndim == 2 else rest).append(parameter)
    return [
        Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]
