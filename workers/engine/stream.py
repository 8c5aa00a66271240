"""Decode a Wan latent frame by frame: the same pixels as `vae.decode`, in bounded memory, with progress and cancel in between.

`AutoencoderKLWan.decode` concatenates the clip again for each latent frame and returns it whole in float32 (81 frames of 1280x720:
0.9 GB, more than once). Its decoder is causal, with a cache of features, so each latent frame gives its pictures (1, then 4 each)
as soon as it is decoded, and they can go straight into the video encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan

from workers.engine.frames import require_finite

#: Typed as a whole, which the library is not: pixels folded into channels -> pixels.
_unpatchify: Any = autoencoder_kl_wan.unpatchify

#: Pipelines whose `output_type="latent"` gives normalised latents of AutoencoderKLWan for the whole clip, and nothing else.
_STREAMED = {
    "WanPipeline",
    "WanImageToVideoPipeline",
    "SkyReelsV2Pipeline",
    "SkyReelsV2ImageToVideoPipeline",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
}


def can_stream(pipe: Any) -> bool:
    """Whether `decode_frames` gives what the pipeline itself would."""
    vae = getattr(pipe, "vae", None)
    return (
        type(pipe).__name__ in _STREAMED and isinstance(vae, AutoencoderKLWan) and not getattr(vae, "use_tiling", False)
    )


@torch.no_grad()
def denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the pipeline gives them -> latents as the VAE reads them, in the VAE's dtype and in the pipeline's own arithmetic."""
    latents = latents.to(dtype=vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return latents / scale + mean


@torch.no_grad()
def decode_frames(vae: Any, latents: torch.Tensor) -> Generator[torch.Tensor, None, None]:
    """Pictures of each latent frame: n x 3 x height x width in -1..1; `latents` is 1 x channels x frames x h x w, denormalised.

    Follows `AutoencoderKLWan._decode` of diffusers 0.42 step by step; a test compares the two.
    """
    if hasattr(vae, "_hf_hook") and hasattr(vae._hf_hook, "pre_forward"):
        # Model offload brings a VAE to the GPU in `decode`, which is not called here.
        vae._hf_hook.pre_forward(vae)
    # The cache of features is the VAE object's: a copy that shares the weights has its own, so that another thread may encode a
    # picture, or decode another clip, at the same time.
    vae = copy.copy(vae)
    vae.clear_cache()
    try:
        hidden = vae.post_quant_conv(latents.to(_device_of(vae)))
        for index in range(hidden.shape[2]):
            vae._conv_idx = [0]
            decoded = vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                **({"first_chunk": True} if index == 0 else {}),
            )
            if vae.config.patch_size is not None:
                decoded = _unpatchify(decoded, patch_size=vae.config.patch_size)
            # Clamped, what is infinite would be white.
            require_finite(decoded)
            yield decoded.clamp(-1.0, 1.0)[0].movedim(1, 0)
    finally:
        vae.clear_cache()


def _device_of(vae: Any) -> torch.device:
    parameter: torch.Tensor = next(iter(vae.parameters()))
    return parameter.device
