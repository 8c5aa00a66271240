"""Editors: pictures from one or several given ones and words on what to change."""

from __future__ import annotations

from typing import Any

from diffusers import (
    BriaFiboEditPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    ZImageOmniPipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.engine.families import build_images, build_rarer, parts


def z_image_omni() -> Any:
    given = build_images.z_image()
    given["transformer"] = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=parts.TEXT,
        siglip_feat_dim=parts.TEXT, axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
    ).eval()  # fmt: skip
    siglip = Siglip2VisionModel(
        Siglip2VisionConfig(
            hidden_size=parts.TEXT, intermediate_size=37, num_hidden_layers=1, num_attention_heads=2, patch_size=16, num_patches=16,
        )
    )  # fmt: skip
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16)
    return ZImageOmniPipeline(**given, siglip=siglip.eval(), siglip_processor=processor)


def qwen_edit() -> dict[str, Any]:
    """The prompt is encoded with the picture, by a processor whose part for clips needs torchvision."""
    words = parts.tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", length=1024)
    sizes = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
    given = build_images.qwen_image()
    encoder = parts.qwen2_5_vl()
    encoder.config.image_token_id = words.convert_tokens_to_ids("<|image_pad|>")
    return {
        **given,
        "tokenizer": words,
        "text_encoder": encoder,
        "processor": Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(**sizes),
            tokenizer=words,
            video_processor=Qwen2VLVideoProcessor(**sizes),
        ),
    }


BUILDERS = {
    "QwenImageEditPipeline": lambda: QwenImageEditPipeline(**qwen_edit()),
    "QwenImageEditPlusPipeline": lambda: QwenImageEditPlusPipeline(**qwen_edit()),
    "QwenImageEditInpaintPipeline": lambda: QwenImageEditInpaintPipeline(**qwen_edit()),
    "ZImageOmniPipeline": z_image_omni,
    "BriaFiboEditPipeline": lambda: BriaFiboEditPipeline(**build_rarer.bria_fibo().components),
}
