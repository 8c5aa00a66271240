"""The autoencoder's causal 3-D convolutions as 2-D ones over stacked frames: the same numbers in a third to a half of the time on a CPU.

Where there is no earlier frame, as in a single picture, two of the three taps in time meet zeros only and are left out, which makes
a training step on pictures several times as fast.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import Tensor, nn
from torch.nn.functional import conv2d


def speed_up(model: nn.Module) -> None:
    """Make every 3x3x3 and 1x1x1 convolution below `model` run in 2-D; weights and names stay what they are."""
    for module in model.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size in ((3, 3, 3), (1, 1, 1)):
            module.forward = partial(_convolve, module)  # type: ignore[method-assign]
        elif isinstance(module, WanRMS_norm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]


def _normalise(module: Any, x: Tensor) -> Tensor:
    """What `WanRMS_norm.forward` gives, in fewer passes over memory."""
    gamma: Tensor = module.gamma
    return x * ((x * x).mean(1, keepdim=True) + 1e-12).rsqrt() * gamma


def _convolve(module: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """What `WanCausalConv3d.forward` gives: `x` is `(n, channels, frames, height, width)`, the cache holds the frames before it."""
    weight: Tensor = module.weight
    taps = weight.shape[2]
    frames, earlier = x.shape[2], 0
    if cache_x is not None and taps > 1:
        earlier = cache_x.shape[2]
        x = torch.cat([cache_x, x], dim=2)
    x = x.transpose(1, 2)
    used = min(taps, frames + earlier)
    if missing := used - 1 - earlier:
        x = torch.cat([torch.zeros_like(x[:, :missing]), x], dim=1)
    x = x[:, x.shape[1] - frames - used + 1 :]
    stacked = torch.cat([x[:, tap : tap + frames] for tap in range(used)], dim=2)
    kernel = weight[:, :, taps - used :].transpose(1, 2).flatten(1, 2)
    out: Tensor = conv2d(stacked.flatten(0, 1), kernel, module.bias, padding=weight.shape[-1] // 2)
    return out.view(-1, frames, *out.shape[1:]).transpose(1, 2)
