"""Mapping of a job's inputs to parameters of a pipeline's call, read from the signature, as far as that has it.

Both sides go by it: the catalogue, which lists what a model takes, and the engine, which calls the pipeline. Pure, without torch.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from broker.wire.inputs import StartFrames
from workers.models.pipeline_classes import PipelineClass

#: Pipelines that draw from several pictures together, given as a list for the parameter that elsewhere takes one, or for `images`.
_SEVERAL = r"Flux2(Klein|KleinKV)?Pipeline|ZImageOmni|QwenImageEditPlus|QwenImage21|JoyImageEditPlus|BriaFibo2|OmniGen"

#: Names under which they take them: of these a list, also of one.
LISTS = ("images", "input_images")
_TOGETHER = ("image", *LISTS)

#: Pipelines that take pictures with their places in the clip.
_PLACED = ("LTXConditionPipeline", "LTX2ConditionPipeline", "LTX2InContextPipeline")
CONDITIONS = "conditions"

#: Name under which clips are taken that are looked at while another is drawn.
REFERENCES = "reference_conditions"

#: Of pipelines with a control network or an adapter, those whose `image` is what steers them; in the others it is changed.
_STEERED_BY_IMAGE = r"StableDiffusion(XL)?(ControlNet(PAG|XS)?|Adapter)Pipeline"

#: Pipelines whose control image is the picture that is drawn over, with a mask of what is drawn anew.
_CONTROLS_OVER = r"(QwenImage|StableDiffusion3)ControlNetInpaint"

#: Pipelines that fail with a picture in the installed libraries: transformers gives its features in a shape that diffusers does not expect.
_FAILS_WITH_IMAGE = r"GlmImage"

#: Pipelines that draw over a clip, and take it as `video`; elsewhere a parameter of this name is for other ends.
_DRAWS_OVER_CLIP = r"(Wan|CogVideoX|AnimateDiff)VideoToVideo|VideoToVideoSD|LucyEdit|WanVACE"

#: Pipelines that go on from a clip, and how much of it they take: as much as they were trained on where they would take any number.
_GOES_ON = (
    ("LTX2?(Condition|InContext)", StartFrames(least=1, step=8, most=25)),
    ("CosmosVideoToWorld", StartFrames(least=1, step=8, most=9)),
    ("Cosmos2VideoToWorld|Cosmos2_5_PredictBase|Cosmos3Omni", StartFrames(least=1, step=4, most=5)),
    # As many as its authors have two of its windows share.
    ("SkyReelsV2DiffusionForcingVideoToVideo", StartFrames(least=1, step=4, most=17)),
    # Its context is 19 latent frames, read in chunks of 9.
    ("Helios", StartFrames(least=33, step=33, most=99, drawn=False)),
)

#: Pipelines that enlarge their image, and how many times each side.
_ENLARGE = ((r"StableDiffusionUpscale", 4), (r"StableDiffusionLatentUpscale", 2))

#: A pipeline whose mask is one of every frame, or a single one for all.
_MASKS_FRAMES = "WanVACE"

#: Role -> names of the parameters that take it, the first that is there counting.
_NAMES = {
    "last_image": ("last_image",),
    "mask_image": ("mask_image", "mask"),
    "control_video": ("control_video", "conditioning_frames", REFERENCES),
    "pose_video": ("pose_video",),
    "face_video": ("face_video",),
    "mask_video": ("mask_video",),
    "background_video": ("background_video",),
}

#: Pipelines that fail, or draw nothing worth having, without an input that has a default.
_NEEDS = (
    (r".*Inpaint|FluxFill", "mask_image"),
    (r".*Control|.*Adapter", "control_image"),
    (r"WanAnimate", "pose_video"),
    (r"WanAnimate", "face_video"),
    (r"CogVideoXFunControl|AnimateDiff.*ControlNet|LTX2InContext", "control_video"),
    (r"SkyReelsV2.*VideoToVideo", "start_video"),
    (rf"(?!WanVACE)({_DRAWS_OVER_CLIP})", "video"),
)


def parameters(name: str, takes: Container[str]) -> dict[str, str]:
    """Role -> the parameter of the call that takes it, of the class `name` with these parameters; "image" is a role among them."""
    if re.match(_CONTROLS_OVER, name):
        return {"image": "control_image", "mask_image": "control_mask"}
    found: dict[str, str] = {}
    if re.match(_STEERED_BY_IMAGE, name):
        found["control_image"] = "image"
    elif "image" in takes and not re.match(_FAILS_WITH_IMAGE, name):
        found["image"] = "image"
    if "control_image" in takes:
        found["control_image"] = "control_image"
    if re.match(_SEVERAL, name):
        found |= dict.fromkeys(("image", "reference_images"), next(one for one in _TOGETHER if one in takes))
    elif "reference_images" in takes:
        found["reference_images"] = "reference_images"
    if name in _PLACED and CONDITIONS in takes:
        found["last_image"] = CONDITIONS
        found.setdefault("image", CONDITIONS)
    for role, names in _NAMES.items():
        if present := [one for one in names if one in takes]:
            found[role] = present[0]
    if "video" in takes and re.match(_DRAWS_OVER_CLIP, name):
        found["video"] = "video"
    if name.startswith(_MASKS_FRAMES) and "mask_image" in found:
        found["mask_video"] = found["mask_image"]
    if start_frames(name) is not None:
        found["start_video"] = CONDITIONS if CONDITIONS in takes else "video"
    return found


def start_frames(name: str) -> StartFrames | None:
    """Number of frames that the pipeline of this class takes of a clip to go on from; None where it takes none."""
    return next((seen for pattern, seen in _GOES_ON if re.match(pattern, name)), None)


def enlarges(name: str) -> int:
    """Return how many times as long the sides of what a pipeline of this class draws are as those of its image; mostly 1."""
    return next((times for pattern, times in _ENLARGE if re.match(pattern, name)), 1)


def input_use(
    taken: PipelineClass, index: Mapping[str, Any], transformer: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(roles that the pipeline of this class, `model_index.json` and transformer's config takes, those that it needs), without "image"."""
    takes = [role for role in parameters(taken.name, taken.parameters) if role != "image"]
    needs = [role for pattern, role in _NEEDS if role in takes and re.match(pattern, taken.name)]
    if "last_image" in takes:
        takes_image, pair = transformer.get("image_dim") is not None, transformer.get("pos_embed_seq_len") is not None
        if takes_image and pair:  # the image encoder's features that it was trained on are those of two frames
            needs.append("last_image")
        elif takes_image or index.get("expand_timesteps") is True:
            takes.remove("last_image")
    return tuple(takes), tuple(needs)
