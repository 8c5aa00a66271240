"""Pipelines that draw anew where a mask is white, and Flux's with control latents, over the parts of their families."""

from __future__ import annotations

from typing import Any

import diffusers

from tests.engine.families import build_flux as flux
from tests.engine.families import build_kandinsky as kandinsky
from tests.engine.families import build_pixels as pixels
from tests.engine.families import build_stable_diffusion as stable_diffusion


def _made(name: str, **components: Any) -> Any:
    return getattr(diffusers, name)(**components)


def _flux_control(name: str) -> Any:
    return _made(name, **flux.common(), transformer=flux.transformer(4 + 4, out_channels=16))


def _kandinsky(name: str, given: dict[str, Any]) -> Any:
    """The picture's latents and its mask stand beside those that are drawn."""
    unet = type(given["unet"]).from_config({**given["unet"].config, "in_channels": 4 + 4 + 1}).eval()
    return _made(name, **{**given, "unet": unet})


BUILDERS = {
    "StableDiffusionPAGInpaintPipeline": lambda: _made(
        "StableDiffusionPAGInpaintPipeline", **stable_diffusion.common(), unet=stable_diffusion.unet()
    ),
    "StableDiffusionXLPAGInpaintPipeline": lambda: _made(
        "StableDiffusionXLPAGInpaintPipeline", **stable_diffusion.common_xl(), unet=stable_diffusion.unet_xl()
    ),
    "StableDiffusion3InpaintPipeline": lambda: _made(
        "StableDiffusion3InpaintPipeline", **stable_diffusion.common_3(16)
    ),
    "FluxControlImg2ImgPipeline": lambda: _flux_control("FluxControlImg2ImgPipeline"),
    "FluxControlInpaintPipeline": lambda: _flux_control("FluxControlInpaintPipeline"),
    "FluxKontextInpaintPipeline": lambda: _made(
        "FluxKontextInpaintPipeline", **flux.common(), transformer=flux.transformer()
    ),
    "Flux2KleinInpaintPipeline": lambda: flux.klein(diffusers.Flux2KleinInpaintPipeline),
    "IFInpaintingPipeline": lambda: _made("IFInpaintingPipeline", **pixels.floyd()),
    "KandinskyInpaintCombinedPipeline": lambda: _kandinsky("KandinskyInpaintCombinedPipeline", kandinsky.combined_21()),
    "KandinskyV22InpaintCombinedPipeline": lambda: _kandinsky(
        "KandinskyV22InpaintCombinedPipeline", kandinsky.combined_22()
    ),
}
