"""Wan 2.1 and 2.2, and what is built on them: SkyReels, ChronoEdit, AnyFlow, Helios."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)

from tests.engine.families import parts


def transformer(into: int = 4, out: int = 4, **changes: Any) -> Any:
    return WanTransformer3DModel(**{
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": into, "out_channels": out,
        "text_dim": parts.TEXT, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, **changes,
    }).eval()  # fmt: skip


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=512),
        "text_encoder": parts.umt5(),
        "vae": parts.wan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def image_to_video() -> Any:
    """Wan 2.1: the picture also enters through CLIP."""
    return WanImageToVideoPipeline(
        **common(),
        transformer=transformer(4 + 4 + 4, image_dim=parts.TEXT),
        image_encoder=parts.clip_vision(projection=False),
        image_processor=parts.clip_image_processor(),
    )


def skyreels(into: int = 4, **changes: Any) -> Any:
    return SkyReelsV2Transformer3DModel(**{
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": into, "out_channels": 4,
        "text_dim": parts.TEXT, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, **changes,
    }).eval()  # fmt: skip


def skyreels_common() -> dict[str, Any]:
    return {**common(), "scheduler": UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)}


def vace() -> Any:
    return WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=parts.TEXT,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, vace_layers=[0, 1], vace_in_channels=4 + 4 + 64,
    ).eval()  # fmt: skip


def chrono_edit() -> Any:
    return ChronoEditPipeline(
        **common(),
        transformer=ChronoEditTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=12, out_channels=4, text_dim=parts.TEXT,
            freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, image_dim=parts.TEXT,
        ).eval(),
        image_encoder=parts.clip_vision(projection=False),
        image_processor=parts.clip_image_processor(),
    )  # fmt: skip


def any_flow() -> Any:
    return AnyFlowPipeline(
        **{**common(), "scheduler": FlowMapEulerDiscreteScheduler()},
        transformer=AnyFlowTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=parts.TEXT,
            freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        ).eval(),
    )  # fmt: skip


def helios_common() -> dict[str, Any]:
    return {
        **common(),
        "transformer": HeliosTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=parts.TEXT,
            freq_dim=16, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4),
        ).eval(),
    }  # fmt: skip


def helios() -> Any:
    scheduler = HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return HeliosPipeline(**{**helios_common(), "scheduler": scheduler})


def helios_pyramid() -> Any:
    """Each window is drawn in three sizes, one after another. At the scheduler's own gamma the noise's covariance is singular."""
    scheduler = HeliosScheduler(use_dynamic_shifting=True, gamma=0.3)
    return HeliosPyramidPipeline(**{**helios_common(), "scheduler": scheduler})


def any_flow_far() -> Any:
    return AnyFlowFARPipeline(
        **{**common(), "scheduler": FlowMapEulerDiscreteScheduler()},
        transformer=AnyFlowFARTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=parts.TEXT,
            freq_dim=16, ffn_dim=32, num_layers=2, chunk_partition=(1, 2), rope_max_seq_len=32,
        ).eval(),
    )  # fmt: skip


BUILDERS = {
    "AnyFlowFARPipeline": any_flow_far,
    "ChronoEditPipeline": chrono_edit,
    "AnyFlowPipeline": any_flow,
    "HeliosPipeline": helios,
    "HeliosPyramidPipeline": helios_pyramid,
    "WanPipeline": lambda: WanPipeline(**common(), transformer=transformer()),
    "WanPipeline, two experts": lambda: WanPipeline(
        **common(), transformer=transformer(), transformer_2=transformer(), boundary_ratio=0.875
    ),
    "WanPipeline, text or picture": lambda: WanPipeline(**common(), transformer=transformer(), expand_timesteps=True),
    "WanImageToVideoPipeline": image_to_video,
    "WanImageToVideoPipeline, two experts": lambda: WanImageToVideoPipeline(
        **common(), transformer=transformer(12), transformer_2=transformer(12), boundary_ratio=0.9
    ),
    "WanVACEPipeline": lambda: WanVACEPipeline(**common(), transformer=vace()),
    "SkyReelsV2Pipeline": lambda: SkyReelsV2Pipeline(**skyreels_common(), transformer=skyreels()),
    "SkyReelsV2ImageToVideoPipeline": lambda: SkyReelsV2ImageToVideoPipeline(
        **skyreels_common(),
        transformer=skyreels(4 + 4 + 4, image_dim=parts.TEXT),
        image_encoder=parts.clip_vision(),
        image_processor=parts.clip_image_processor(),
    ),
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": lambda: SkyReelsV2DiffusionForcingImageToVideoPipeline(
        **skyreels_common(), transformer=skyreels()
    ),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": lambda: SkyReelsV2DiffusionForcingVideoToVideoPipeline(
        **skyreels_common(), transformer=skyreels()
    ),
    "SkyReelsV2DiffusionForcingPipeline": lambda: SkyReelsV2DiffusionForcingPipeline(
        **skyreels_common(), transformer=skyreels()
    ),
}
