"""Pipelines that draw from a mask, a control image or a clip, over the parts of their families."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnimateDiffVideoToVideoPipeline,
    CogVideoXFunControlPipeline,
    CogVideoXVideoToVideoPipeline,
    ControlNetModel,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxInpaintPipeline,
    LucyEditPipeline,
    QwenImageInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanVideoToVideoPipeline,
    ZImageInpaintPipeline,
)

from tests.engine.families import build_cogvideox as cogvideox
from tests.engine.families import build_flux as flux
from tests.engine.families import build_images as images
from tests.engine.families import build_stable_diffusion as stable_diffusion
from tests.engine.families import build_videos as videos
from tests.engine.families import build_wan as wan
from tests.engine.families import parts


def animate() -> Any:
    return WanAnimatePipeline(
        **wan.common(),
        transformer=WanAnimateTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4 + 4 + 4, latent_channels=4, out_channels=4,
            text_dim=parts.TEXT, freq_dim=16, ffn_dim=32, num_layers=2, image_dim=parts.TEXT, rope_max_seq_len=32,
            motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16, motion_style_dim=8, motion_dim=4,
            motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2, inject_face_latents_blocks=2,
        ).eval(),
        image_encoder=parts.clip_vision(projection=False),
        image_processor=parts.clip_image_processor(),
    )  # fmt: skip


def control_net() -> Any:
    unet = stable_diffusion.unet()
    return StableDiffusionControlNetPipeline(
        **stable_diffusion.common(), unet=unet, controlnet=ControlNetModel.from_unet(unet).eval()
    )


def first_and_last() -> Any:
    """Wan 2.1: both pictures enter through CLIP, their features side by side (2 x 2 patches and one of the whole)."""
    return WanImageToVideoPipeline(
        **wan.common(),
        transformer=wan.transformer(4 + 4 + 4, image_dim=parts.TEXT, pos_embed_seq_len=2 * 5),
        image_encoder=parts.clip_vision(projection=False),
        image_processor=parts.clip_image_processor(),
    )


def animate_diff() -> Any:
    given = videos.animate_diff().components
    return AnimateDiffVideoToVideoPipeline(
        **{name: part for name, part in given.items() if name not in ("feature_extractor", "image_encoder")}
    )


BUILDERS = {
    "StableDiffusionInpaintPipeline": lambda: StableDiffusionInpaintPipeline(
        **stable_diffusion.common(), unet=stable_diffusion.unet(in_channels=4 + 1 + 4)
    ),
    "StableDiffusionXLInpaintPipeline": lambda: StableDiffusionXLInpaintPipeline(
        **stable_diffusion.common_xl(), unet=stable_diffusion.unet_xl()
    ),
    "FluxInpaintPipeline": lambda: FluxInpaintPipeline(**flux.common(), transformer=flux.transformer()),
    # The latents of the picture, and its mask at full size, stand beside those that are drawn: 64 pixels a latent, 4 latents a token.
    "FluxFillPipeline": lambda: FluxFillPipeline(
        **flux.common(), transformer=flux.transformer(4 + 4 + 64, out_channels=16)
    ),
    "QwenImageInpaintPipeline": lambda: QwenImageInpaintPipeline(**images.qwen_image()),
    "ZImageInpaintPipeline": lambda: ZImageInpaintPipeline(**images.z_image()),
    "StableDiffusionControlNetPipeline": control_net,
    "FluxControlPipeline": lambda: FluxControlPipeline(
        **flux.common(), transformer=flux.transformer(4 + 4, out_channels=16)
    ),
    "WanImageToVideoPipeline, first and last frame": first_and_last,
    "WanVideoToVideoPipeline": lambda: WanVideoToVideoPipeline(
        **{**wan.common(), "scheduler": wan.skyreels_common()["scheduler"]}, transformer=wan.transformer()
    ),
    "WanAnimatePipeline": animate,
    "LucyEditPipeline": lambda: LucyEditPipeline(**wan.common(), transformer=wan.transformer(4 + 4)),
    "CogVideoXVideoToVideoPipeline": lambda: CogVideoXVideoToVideoPipeline(
        **cogvideox.common(), transformer=cogvideox.transformer()
    ),
    "CogVideoXFunControlPipeline": lambda: CogVideoXFunControlPipeline(
        **cogvideox.common(), transformer=cogvideox.transformer(4 + 4)
    ),
    "AnimateDiffVideoToVideoPipeline": animate_diff,
}
