"""Pipelines that are steered by a control network or an adapter, over the parts of their families."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    ControlNetXSAdapter,
    FluxControlNetModel,
    HunyuanDiT2DControlNetModel,
    QwenImageControlNetModel,
    SanaControlNetModel,
    SD3ControlNetModel,
    T2IAdapter,
    ZImageControlNetModel,
)

from tests.engine.families import build_flux as flux
from tests.engine.families import build_images as images
from tests.engine.families import build_more_images as more_images
from tests.engine.families import build_sana as sana
from tests.engine.families import build_stable_diffusion as stable_diffusion
from tests.engine.families import build_videos as videos
from tests.engine.families import parts


def _made(name: str, **components: Any) -> Any:
    return getattr(diffusers, name)(**components)


def _control(name: str) -> Any:
    unet = stable_diffusion.unet()
    return _made(name, **stable_diffusion.common(), unet=unet, controlnet=ControlNetModel.from_unet(unet).eval())


def _control_xl(name: str) -> Any:
    unet, given = stable_diffusion.unet_xl(), stable_diffusion.common_xl()
    return _made(name, **given, unet=unet, controlnet=ControlNetModel.from_unet(unet).eval())


def _beside(name: str, xl: bool) -> Any:
    """The control network's blocks stand beside those of the UNet."""
    unet = (stable_diffusion.unet_xl if xl else stable_diffusion.unet)(layers_per_block=2)
    given = stable_diffusion.common_xl() if xl else stable_diffusion.common()
    control = ControlNetXSAdapter.from_unet(
        unet, size_ratio=1.0, conditioning_embedding_out_channels=(4, 4, 4, 4)
    ).eval()
    return _made(name, **given, unet=unet, controlnet=control)


def _adapter(name: str, xl: bool) -> Any:
    """Its features are added within blocks of attention and behind others, so the UNet's last block is one without."""
    last = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = (stable_diffusion.unet_xl if xl else stable_diffusion.unet)(**last)
    given = stable_diffusion.common_xl() if xl else stable_diffusion.common()
    given = {key: part for key, part in given.items() if key != "add_watermarker"}
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter").eval()
    return _made(name, **given, unet=unet, adapter=adapter)


def _flux(name: str) -> Any:
    control = FluxControlNetModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=parts.TEXT, pooled_projection_dim=parts.TEXT, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    ).eval()  # fmt: skip
    return _made(name, **flux.common(), transformer=flux.transformer(), controlnet=control)


def _union(name: str) -> Any:
    """Its network reads control images of six kinds."""
    unet, given = stable_diffusion.unet_xl(), stable_diffusion.common_xl()
    alike = {key: unet.config[key] for key in inspect.signature(ControlNetUnionModel).parameters if key in unet.config}
    control = ControlNetUnionModel(**alike, num_trans_channel=8, num_trans_head=2, num_proj_channel=8).eval()
    return _made(name, **given, unet=unet, controlnet=control)


def stable_diffusion_3(name: str = "StableDiffusion3ControlNetPipeline", beside: int = 0) -> Any:
    given = stable_diffusion.common_3()
    control = SD3ControlNetModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=2 * parts.TEXT, caption_projection_dim=32, pooled_projection_dim=2 * parts.TEXT, out_channels=4,
        extra_conditioning_channels=beside,
    ).eval()  # fmt: skip
    return _made(name, **given, controlnet=control)


def qwen_image(name: str = "QwenImageControlNetPipeline", beside: int = 0) -> Any:
    control = QwenImageControlNetModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=parts.TEXT, axes_dims_rope=(8, 4, 4), extra_condition_channels=beside,
    ).eval()  # fmt: skip
    return _made(name, **images.qwen_image(), controlnet=control)


def _z_image(name: str, channels: int) -> Any:
    control = ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=channels, dim=32, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, add_control_noise_refiner="control_noise_refiner",
    ).eval()  # fmt: skip
    return _made(name, **images.z_image(), controlnet=control)


def sana_image() -> Any:
    control = SanaControlNetModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, num_cross_attention_heads=2, cross_attention_dim=24,
        caption_channels=parts.TEXT, attention_head_dim=12, cross_attention_head_dim=12, sample_size=32, patch_size=1,
    ).eval()  # fmt: skip
    return _made(
        "SanaControlNetPipeline",
        **sana.common(),
        vae=sana.vae(),
        # What steers it is added behind the first block.
        transformer=sana.transformer(num_layers=2),
        controlnet=control,
    )


def hunyuan_dit() -> Any:
    """What steers it is added to the second half of the blocks, but for the first of them."""
    given = more_images.hunyuan_dit(4).components
    control = HunyuanDiT2DControlNetModel(
        sample_size=16, transformer_num_layers=4, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=parts.TEXT, cross_attention_dim_t5=parts.TEXT, pooled_projection_dim=16, hidden_size=24,
    ).eval()  # fmt: skip
    return _made("HunyuanDiTControlNetPipeline", **given, controlnet=control, requires_safety_checker=False)


def cogview4() -> Any:
    given = images.cogview4().components
    wide = type(given["transformer"]).from_config({**given["transformer"].config, "in_channels": 8}).eval()
    return _made("CogView4ControlPipeline", **{**given, "transformer": wide})


def _animate_diff(name: str) -> Any:
    given = videos.animate_diff().components
    unet = stable_diffusion.unet()
    return _made(name, **{**given, "unet": unet, "controlnet": ControlNetModel.from_unet(unet).eval()})


def _video_to_video() -> Any:
    return _made("VideoToVideoSDPipeline", **videos.text_to_video_sd().components)


def _named(make: Any, *names: str, **given: Any) -> dict[str, Any]:
    return {name: lambda name=name: make(name, **given) for name in names}


BUILDERS = {
    **_named(
        _control,
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
    ),
    **_named(
        _control_xl,
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    ),
    **_named(_beside, "StableDiffusionControlNetXSPipeline", xl=False),
    **_named(_beside, "StableDiffusionXLControlNetXSPipeline", xl=True),
    **_named(_adapter, "StableDiffusionAdapterPipeline", xl=False),
    **_named(_adapter, "StableDiffusionXLAdapterPipeline", xl=True),
    **_named(_flux, "FluxControlNetPipeline", "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline"),
    **_named(
        _union,
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
    ),
    "StableDiffusion3ControlNetPipeline": stable_diffusion_3,
    "QwenImageControlNetPipeline": qwen_image,
    # The mask stands beside the latents of the picture, of Qwen-Image in tokens of four.
    **_named(stable_diffusion_3, "StableDiffusion3ControlNetInpaintingPipeline", beside=1),
    **_named(qwen_image, "QwenImageControlNetInpaintPipeline", beside=4),
    **_named(_z_image, "ZImageControlNetPipeline", channels=4),
    # The picture's latents and its mask stand beside those of what steers it.
    **_named(_z_image, "ZImageControlNetInpaintPipeline", channels=4 + 1 + 4),
    "SanaControlNetPipeline": sana_image,
    "HunyuanDiTControlNetPipeline": hunyuan_dit,
    "CogView4ControlPipeline": cogview4,
    **_named(_animate_diff, "AnimateDiffControlNetPipeline", "AnimateDiffVideoToVideoControlNetPipeline"),
    "VideoToVideoSDPipeline": _video_to_video,
}
