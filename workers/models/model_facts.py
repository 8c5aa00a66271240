"""Facts in a model's own files: latent sizes, defaults of its variant, and the sizes and lengths that it can make.

Read from the configs of its components, from its index and from the signature of its pipeline; the family gives what none of them has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from broker.wire.jobspec import Defaults, Limits, MediaKind
from workers.models import abilities
from workers.models.families import Family, family_of
from workers.models.pipeline_classes import FLOW_SHIFT, SHIFTS, PipelineClass
from workers.models.sources import config, read_json

#: Below this a UNet or a VAE has nothing left after its last downsampling.
_MIN_SIDE = 64
_VIDEO_LIMITS = Limits(max_side=1920, max_pixels=1920 * 1088)

#: Pipeline -> (steps, guidance) of those whose index has `is_distilled`.
_DISTILLED_STEPS = {
    "Flux2KleinPipeline": (4, 1.0), "Flux2KleinKVPipeline": (4, 1.0), "Krea2Pipeline": (8, 0.0), "HeliosPyramidPipeline": (6, 1.0),
}  # fmt: skip

#: What is read from the signature of a class of no known family, and the most that is taken from there.
_OWN_DEFAULTS = {"num_inference_steps": Limits().max_steps, "width": Limits().max_side, "height": Limits().max_side}


def token_size(directory: Path | None, family: Family) -> tuple[int, int]:
    """Return (pixels a token side, frames a latent frame)."""
    vae = config(directory, "vae") or config(directory, "vqvae")
    spatial = _whole(vae.get("scale_factor_spatial")) or _whole(vae.get("spatial_compression_ratio"))
    if spatial == 0:
        levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
        spatial = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else family.spatial
    temporal = _whole(vae.get("scale_factor_temporal")) or _whole(vae.get("temporal_compression_ratio"))
    patch = config(directory, "transformer").get("patch_size")
    patch_side = _whole(patch[-1] if isinstance(patch, list) and patch else patch)
    pack = patch_side if patch_side > 1 else family.pack
    return spatial * pack, (temporal or family.temporal) if family.output == "video" else 1


def _steered_side(directory: Path | None) -> int:
    """Pixels a side of the deepest features that what steers a UNet adds to it: of both, sizes must be the same."""
    adapter, control = config(directory, "adapter"), config(directory, "controlnet")
    if isinstance(channels := adapter.get("channels"), list):
        return max(1, _whole(adapter.get("downscale_factor"))) << max(0, len(channels) - 1)
    if control.get("_class_name") == "ControlNetXSAdapter" and isinstance(
        levels := control.get("block_out_channels"), list
    ):
        # Blocks side by side: what is halved must double again to what it was.
        return 8 << max(0, len(levels) - 1)
    return 1


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def family_for(taken: PipelineClass) -> Family:
    """Return the family of a class; for one of no known family, with the class's own steps and size."""
    family = family_of(taken.name, clips=abilities.draws_clips(taken))
    if family.pattern:
        return family
    own = {name: taken.parameters[name].default for name in _OWN_DEFAULTS if name in taken.parameters}
    given = {name: value for name, value in own.items() if isinstance(value, int) and value <= _OWN_DEFAULTS[name]}
    return msgspec.structs.replace(family, defaults=msgspec.structs.replace(family.defaults, **given))


def variant_defaults(family: Family, index: Mapping[str, Any], directory: Path | None) -> Defaults:
    """Return the family's defaults, or those of the variant that the model's configs show."""
    defaults = family.defaults
    pipeline = str(index["_class_name"])
    if pipeline.startswith("Wan") and index.get("boundary_ratio") is not None:  # Wan 2.2 A14B: two experts
        first, second = (3.5, 3.5) if "ImageToVideo" in pipeline else (4.0, 3.0)
        return msgspec.structs.replace(defaults, num_inference_steps=40, guidance_scale=first, guidance_scale_2=second)
    if pipeline.startswith("Wan") and index.get("expand_timesteps") is True:  # Wan 2.2 TI2V 5B
        return msgspec.structs.replace(
            defaults, width=1280, height=704, num_frames=121, fps=24.0, num_inference_steps=50
        )
    if index.get("is_distilled") is True and (steps := _DISTILLED_STEPS.get(pipeline)):
        return msgspec.structs.replace(defaults, num_inference_steps=steps[0], guidance_scale=steps[1])
    if pipeline == "FluxPipeline" and config(directory, "transformer").get("guidance_embeds") is False:  # schnell
        return msgspec.structs.replace(defaults, num_inference_steps=4, max_sequence_length=256)
    if tokens := _whole(config(directory, "transformer").get("max_text_seq_length")):  # CogVideoX: no other length fits
        return msgspec.structs.replace(defaults, max_sequence_length=tokens)
    return defaults


def fitted(defaults: Defaults, limits: Limits) -> Defaults:
    """Return the defaults with a length that a model of fixed lengths can make: its own, and not always the family's."""
    if not limits.frame_choices:
        return defaults
    return msgspec.structs.replace(defaults, num_frames=limits.closest_frames(defaults.num_frames)[0])


def honoured(defaults: Defaults, taken: PipelineClass, takes_guidance: bool, takes_guidance_2: bool) -> Defaults:
    """Return the defaults without those that the pipeline has no use for."""
    return msgspec.structs.replace(
        defaults,
        guidance_scale=defaults.guidance_scale if takes_guidance else None,
        guidance_scale_2=defaults.guidance_scale_2 if takes_guidance_2 else None,
        max_sequence_length=defaults.max_sequence_length if taken.takes("max_sequence_length") else None,
    )


def own_limits(family: Family, output: MediaKind, token_side: int, token_frames: int, directory: Path | None) -> Limits:
    """Return the sizes (pixels) and lengths (frames) that a model of this family can make, narrowed by its own configs."""
    side = math.lcm(token_side, family.side_multiple, _steered_side(directory))
    least = side * -(-_MIN_SIDE // side)
    if output == "image":
        return Limits(min_side=least, side_multiple=side, max_frames=1, frame_step=1)
    transformer = config(directory, "transformer")
    step = token_frames if family.whole_latents else 1
    if family.pattern == "CogVideoX":
        # Its VAE decodes two latent frames at a time after the first, and version 1.5 has two latent frames a token.
        step *= 2 * (_whole(transformer.get("patch_size_t")) or 1)
    longest = _whole(config(directory, "motion_adapter").get("motion_max_seq_length")) or _VIDEO_LIMITS.max_frames
    longest = min(longest, _VIDEO_LIMITS.max_frames)
    only = (_whole(transformer.get("video_length")) or family.only) if family.only else 0
    if isinstance(partition := transformer.get("chunk_partition"), list):
        # Latent frames of the chunks in which a clip is drawn: no more, no fewer.
        only = (sum(map(_whole, partition)) - 1) * step + 1
    choices: tuple[int, ...] = (only,) if only else ()
    if family.whole_windows:
        choices = tuple((end - 1) // step * step + 1 for end in range(family.window, longest + 1, family.window))
    return msgspec.structs.replace(
        _VIDEO_LIMITS,
        min_side=least,
        side_multiple=side,
        max_frames=longest,
        frame_step=family.window or step,
        frame_offset=family.shortest,
        frame_choices=choices,
    )


def extra_parameters(taken: PipelineClass, directory: Path | None) -> tuple[str, ...]:
    """Return the names that `extra` may carry: parameters of the call, and the shift of a schedule that has a fixed one."""
    schedule = scheduler_config(directory)
    fixed = not schedule.get("use_dynamic_shifting") and any(name in schedule for name in SHIFTS)
    return tuple(sorted({*taken.extra(), FLOW_SHIFT})) if fixed or directory is None else taken.extra()


def scheduler_config(directory: Path | None) -> dict[str, Any]:
    """Return the config of the model's scheduler, empty for one that is not on this disk."""
    return read_json(directory / "scheduler" / "scheduler_config.json") if directory is not None else {}


def fake_defaults(output: MediaKind) -> Defaults:
    """Return the defaults of the engine fake, which draws in no time and so draws small."""
    return Defaults(width=64, height=64, num_frames=17 if output == "video" else 1, fps=8.0, num_inference_steps=10)


def fake_limits(output: MediaKind) -> Limits:
    """Return the limits of the engine fake, which are wide."""
    return Limits(
        min_side=2,
        max_side=4096,
        side_multiple=1,
        max_pixels=4096 * 4096,
        max_frames=1000 if output == "video" else 1,
        frame_step=1,
        max_steps=10_000,
    )
