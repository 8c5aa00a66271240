"""The autoencoder: 17 frames of 64 by 64 to 5 latent frames of 8 by 8, sixteen numbers each.

What it took to learn at all on a CPU, besides Muon: the loss is taken before the clamp that `decode` ends with (a clamped wrong pixel has
no gradient), the shape and the two pixels around its outline weigh more than the background, the noise on the latents is small and
fixed (a learned one collapses), and clips grow longer as training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import diffusers
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d

from scripts.demo_model.muon import Muon
from scripts.demo_model.stages import Stage
from scripts.demo_model.world import draw_scenes, render

#: Standard deviation of the noise on latents: small while they take shape, wider when the decoder learns to forgive the transformer.
_NOISE_WHOLE, _NOISE_DECODER = 0.05, 0.1

#: An `AutoencoderKLWan`; the library's classes carry no types.
Vae: TypeAlias = Any
_library: Any = diffusers


@dataclass(frozen=True)
class VaeSizes:
    """Widths of the autoencoder."""

    latent: int = 16
    encoder: int = 16
    decoder: int = 16


def new_vae(sizes: VaeSizes) -> Vae:
    """An untrained autoencoder, drawn from torch's global generator."""
    vae: Vae = _library.AutoencoderKLWan(
        base_dim=sizes.encoder,
        decoder_base_dim=sizes.decoder,
        z_dim=sizes.latent,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
        latents_mean=[0.0] * sizes.latent,
        latents_std=[1.0] * sizes.latent,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "time_conv.weight" in name:  # starts as the identity on the newest frame
                parameter.mul_(0.1)
                inputs = parameter.shape[1]
                parameter[:, :, -1, 0, 0] += torch.eye(inputs).repeat(parameter.shape[0] // inputs, 1)
            elif "time_conv.bias" in name:
                parameter.zero_()
    return vae


def encode(vae: Vae, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log variances of the latents of `clips` `(n, 3, frames, height, width)`."""
    mean, log_variance = vae._encode(clips).chunk(2, dim=1)
    return mean, log_variance


def decode(vae: Vae, latents: Tensor) -> Tensor:
    """Clips of `latents` as `AutoencoderKLWan.decode` makes them, without its clamp to -1..1."""
    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    pieces = []
    for frame in range(latents.shape[2]):
        vae._conv_idx = [0]
        pieces.append(
            vae.decoder(
                latents[:, :, frame : frame + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=frame == 0,
            )
        )
    vae.clear_cache()
    return _unpatch(torch.cat(pieces, dim=2))


def _unpatch(packed: Tensor) -> Tensor:
    """`(n, 12, frames, h, w)` to `(n, 3, frames, 2h, 2w)`: the channels of a patch run colour, column, row."""
    count, _, frames, height, width = packed.shape
    parts = packed.view(count, 3, 2, 2, frames, height, width)
    return parts.permute(0, 1, 4, 5, 3, 6, 2).reshape(count, 3, frames, 2 * height, 2 * width)


def optimisers(vae: Vae, part: str = "") -> list[torch.optim.Optimizer]:
    """Muon for the convolutions between first and last, AdamW for the rest; only of what has `part` in its name."""
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in vae.named_parameters():
        if part not in name:
            continue
        outer = "decoder.conv_out" in name or "quant_conv" in name
        (inner if parameter.ndim >= 4 and not outer else rest).append(parameter)
    return [Muon(inner, lr=0.02), torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)]


def whole_stage(vae: Vae, steps: int) -> Stage:
    """Encoder and decoder together: single pictures first, then clips of 5 and of 9 frames."""

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        done = step / steps
        return loss_of(vae, *((16, 1) if done < 0.47 else (4, 5) if done < 0.72 else (3, 9)), generator)

    return _stage("autoencoder", vae, steps, loss, 1.0)


def polish_stage(vae: Vae, steps: int) -> Stage:
    """Encoder and decoder together on moving clips, with an eye on outlines: stars keep their notches."""

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_of(vae, *((6, 5), (4, 9))[step % 2], generator, outline=10.0)

    return _stage("polish", vae, steps, loss, 0.6)


def decoder_stage(vae: Vae, steps: int) -> Stage:
    """The decoder alone, on the latents of an encoder that stays as it is; at half the rate, and every second shape a star."""

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        clips, frames = ((8, 1), (4, 5), (3, 9), (2, 17))[step % 4]
        return loss_of(vae, clips, frames, generator, encoder_learns=False, outline=10.0)

    return _stage("decoder", vae, steps, loss, 0.5, part="decoder")


def _stage(
    name: str,
    vae: Vae,
    steps: int,
    loss: Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]],
    top: float,
    part: str = "",
) -> Stage:
    """A stage of two parts, with the sizes of one part in its loss."""
    return Stage(name, steps, {"vae": vae}, optimisers(vae, part), loss, lambda step: _rate(step, steps, top), parts=2)


def _rate(step: int, steps: int, top: float) -> float:
    """What the learning rates are multiplied with: a short rise, a level stretch, and down to nearly nothing."""
    return top * min(1.0, (step + 1) / 30, (1 - step / steps) / 0.6 + 0.01)


def loss_of(
    vae: Vae, clips: int, frames: int, generator: torch.Generator, encoder_learns: bool = True, outline: float = 4.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, figures) on clips that are rendered for it."""
    scenes = draw_scenes(clips if encoder_learns else 2 * clips, generator)
    scenes.sort(key=lambda scene: scene.shape != "star")
    pixels, masks = render(scenes[:clips], frames, generator)
    pixels = _jitter(pixels, generator)
    weights = _weights(masks, outline).to(vae.device)
    pixels = pixels.to(vae.device)
    with torch.set_grad_enabled(encoder_learns):
        mean, log_variance = encode(vae, pixels)
    noise = torch.randn(mean.shape, generator=generator).to(vae.device)
    error = decode(vae, mean + (_NOISE_WHOLE if encoder_learns else _NOISE_DECODER) * noise) - pixels
    squared = error.square()
    penalty = mean.square().mean() + 0.1 * (log_variance + 6).square().mean()
    figures = {"PSNR dB": 10 * torch.log10(4 / squared.detach().mean())}
    return (weights * (error.abs() + 2 * squared)).mean() + 1e-4 * penalty, figures


def _jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Three clips in ten in other colours, so that the latents do not depend on exactly these."""
    count = pixels.shape[0]
    chosen = torch.rand(count, 1, 1, 1, 1, generator=generator) < 0.3
    scale = 0.6 + 0.4 * torch.rand(count, 3, 1, 1, 1, generator=generator)
    shift = 0.3 * torch.rand(count, 3, 1, 1, 1, generator=generator) - 0.15
    return torch.where(chosen, (pixels * scale + shift).clamp(-1, 1), pixels)


def _weights(masks: Tensor, outline: float) -> Tensor:
    """Weights of the pixels, 1 on average: the shape counts, its outline counts most."""
    wide, narrow = max_pool3d(masks, (1, 5, 5), 1, (0, 2, 2)), -max_pool3d(-masks, (1, 5, 5), 1, (0, 2, 2))
    weights = 1 + 4 * masks + outline * (wide - narrow)
    return weights / weights.mean()
