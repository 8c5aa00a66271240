"""Pipelines with perturbed attention guidance: the models of their families, with attention of some blocks left out in a third pass."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnimateDiffPAGPipeline,
    HunyuanDiTPAGPipeline,
    KolorsPAGPipeline,
    PixArtSigmaPAGPipeline,
    SanaPAGPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGPipeline,
)

from tests.engine.families import (
    build_images,
    build_kolors,
    build_more_images,
    build_sana,
    build_stable_diffusion,
    build_videos,
)


def _same_parts(pipe: Any, kind: Any) -> Any:
    """A pipeline of another class from the parts of one."""
    return kind(**pipe.components)


BUILDERS = {
    "StableDiffusionPAGPipeline": lambda: StableDiffusionPAGPipeline(
        **build_stable_diffusion.common(), unet=build_stable_diffusion.unet()
    ),
    "StableDiffusionPAGImg2ImgPipeline": lambda: StableDiffusionPAGImg2ImgPipeline(
        **build_stable_diffusion.common(), unet=build_stable_diffusion.unet()
    ),
    "StableDiffusionXLPAGPipeline": lambda: StableDiffusionXLPAGPipeline(
        **build_stable_diffusion.common_xl(), unet=build_stable_diffusion.unet_xl()
    ),
    "StableDiffusionXLPAGImg2ImgPipeline": lambda: StableDiffusionXLPAGImg2ImgPipeline(
        **build_stable_diffusion.common_xl(), unet=build_stable_diffusion.unet_xl()
    ),
    "StableDiffusion3PAGPipeline": lambda: StableDiffusion3PAGPipeline(**build_stable_diffusion.common_3()),
    "StableDiffusion3PAGImg2ImgPipeline": lambda: StableDiffusion3PAGImg2ImgPipeline(
        **build_stable_diffusion.common_3()
    ),
    "SanaPAGPipeline": lambda: SanaPAGPipeline(
        **build_sana.common(), vae=build_sana.vae(), transformer=build_sana.transformer()
    ),
    "PixArtSigmaPAGPipeline": lambda: PixArtSigmaPAGPipeline(**build_images.pixart()),
    "HunyuanDiTPAGPipeline": lambda: _same_parts(build_more_images.hunyuan_dit(), HunyuanDiTPAGPipeline),
    "AnimateDiffPAGPipeline": lambda: _same_parts(build_videos.animate_diff(), AnimateDiffPAGPipeline),
    "KolorsPAGPipeline": lambda: KolorsPAGPipeline(**build_kolors.common()),
}
