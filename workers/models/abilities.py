"""Fields of a job that a pipeline takes: read from the signature of its call and from the model's parts.

The tables hold only what cannot be read there: arguments that have a default and are needed all the same, and those that are taken
and have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workers.models import inputs
from workers.models.pipeline_classes import FRAME_COUNTS, GUIDANCE, PipelineClass

#: Parameters without a default that a job fills, beside those of its inputs.
_CARRIED = frozenset({"prompt", "negative_prompt", "height", "width", "num_inference_steps", *FRAME_COUNTS})

#: Pipelines that cannot be run with what a job carries, and what they would need.
_UNFIT = (
    (r"RePaint", "a mask of what is kept"),
    (r"PaintByExample", "an example"),
    (r".*DiffEdit", "the latents of an inverted image"),
    (r".*SparseControlNet", "control images for some frames"),
    (r".*GLIGEN", "places for its phrases"),
    (r"VisualCloze", "a grid of images"),
    (r"QwenImageLayered", "several layers as one output"),
    (r".*VideoTransfer|Cosmos2_5_Transfer|.*Kandinsky6SR", "a video"),
    (r".*Upsample|.*SuperResolution|.*Refiner|.*TemporalRefine|.*DiffusionDecode|Marigold", "something to refine"),
    (r".*Prior|.*Decoder|LTXI2VLong|SanaWM|LTX2HDR|LTX2DFR", "another pipeline around it"),
    (
        r".*Audio|.*Music|AceStep|DanceDiffusion|Spectrogram|ShapE|RFD4|LLaDA|DiffusionGemma|.*LDM3D",
        "an output that is neither video nor image",
    ),
    (r".*Onnx", "ONNX Runtime"),
    (r"ConsisID", "the features of a face"),
    (r".*Pix2PixZero", "the embeddings of two prompts"),
    (r"LEditsPP", "a picture that was inverted before"),
    (r"TextToVideoZero", "a share of its steps for each of three loops"),
    (r"VersatileDiffusion", "pictures in the place of prompts"),
    (r"UniDiffuser", "a mode of its call, of which some give text"),
)  # fmt: skip

#: Pipelines whose image has a default, and which draw nothing without one.
_NEEDS_IMAGE = (
    r".*(ImageToVideo|Image2Video|(?<!T)I2V|Img2Img|I2I|Depth2Img|ImageVariation|InstructPix2Pix|Inpaint|FluxFill)"
    r"|JoyImageEdit|QwenImageEdit|QwenImageLayered|LongCatImageEdit|BriaFiboEdit|.*Upscale"
)

#: Pipelines that draw in a size of their own, by the shape of the image or the number of pixels they were trained on.
_OWN_SIZE = r"HunyuanVideo15ImageToVideo|QwenImageEditInpaint|LongCatImageEdit|QwenImageLayered|IFImg2Img"

#: Components that give sound, the last of their kind in a pipeline; and the form in `model_index.json` of one that a model lacks.
_MAKES_SOUND = ("vocoder", "sound_tokenizer")
_ABSENT = [None, None]


#: Pipelines that fail on every call in the installed versions of the libraries, whatever a job carries.
_BROKEN = (
    (r"I2VGenXL", "a text encoder of transformers 4"),
    (r"ChromaInpaint", "`guidance_embeds` in the config of its transformer"),
    (r"EasyAnimateInpaint", "`cache_mag_vae` in the config of its VAE"),
    (r"EasyAnimateControl", "a prompt's encoder of another version than its class has"),
    (r"KarrasVe", "a KarrasVeScheduler that is loaded from where it is saved"),
)


def what_is_missing(taken: PipelineClass) -> str:
    """Return what this pipeline needs and is not to be had, as the end of a sentence; "" when it can be run."""
    if needs := _not_carried(taken):
        return f"{needs}, and no job carries that"
    if taken.lost_component:
        return f"a component of the class {taken.lost_component}, which the installed diffusers does not load"
    needs = next((needs for pattern, needs in _BROKEN if re.match(pattern, taken.name)), "")
    return f"{needs}, and the installed libraries have none" if needs else ""


def _not_carried(taken: PipelineClass) -> str:
    """Return the argument that this pipeline needs and a job does not carry."""
    carried = {*_CARRIED, *inputs.parameters(taken.name, taken.parameters).values()}
    if missing := [f"`{name}`" for name in taken.required() if name not in carried]:
        return " and ".join(missing)
    return next((needs for pattern, needs in _UNFIT if re.match(pattern, taken.name)), "")


def image_use(taken: PipelineClass, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> tuple[bool, bool]:
    """(whether the pipeline of this class, `model_index.json` and transformer's config takes an image, whether it must have one)."""
    parameter = inputs.parameters(taken.name, taken.parameters).get("image", "")
    takes = bool(parameter)
    if taken.name.startswith("Kandinsky6") and transformer.get("visual_token_type_num_embeddings", 2) < 2:
        takes = False  # it marks the given frame among those to be drawn by the embedding of their type
    needs = takes and (taken.parameters[parameter].required or re.match(_NEEDS_IMAGE, taken.name) is not None)
    both = taken.name == "WanPipeline" and index.get("expand_timesteps") is True  # see `engine.siblings`
    return takes or both, needs


def draws_clips(taken: PipelineClass) -> bool:
    """Whether the pipeline has a parameter for the number of frames; else it takes it from a clip."""
    return taken.takes(*FRAME_COUNTS) or bool(
        inputs.parameters(taken.name, taken.parameters).keys() & {"video", "control_video", "pose_video"}
    )


def takes_guidance(taken: PipelineClass, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
    """Whether the scale of guidance has an effect, by the class, the model's index and the config of its transformer."""
    if taken.name.startswith("Flux2") and index.get("is_distilled") is True:  # Klein: its guidance was trained away
        return False
    if taken.name.startswith("DreamLiteMobile"):  # it has the argument to be called as its larger one is
        return False
    embedded = re.match("Flux(?!2)|HunyuanVideo(ImageToVideo|Framepack)?Pipeline", taken.name)
    if embedded and transformer.get("guidance_embeds") is False:
        return False
    # Some pipelines have it in a component.
    return taken.takes(*GUIDANCE) or "guider" in taken.components


def takes_guidance_2(taken: PipelineClass, index: Mapping[str, Any]) -> bool:
    """Whether there is a second expert with a scale of its own. Wan's pipelines refuse the argument where there is none."""
    return taken.takes("guidance_scale_2") and index.get("boundary_ratio") is not None


def takes_size(taken: PipelineClass) -> bool:
    """Whether the picture has the size requested: by an argument, or as that of the image or clip that is drawn over."""
    drawn_over = {"image", "video"} & inputs.parameters(taken.name, taken.parameters).keys()
    return (taken.takes("height") or bool(drawn_over)) and re.match(_OWN_SIZE, taken.name) is None


def makes_sound(taken: PipelineClass, index: Mapping[str, Any]) -> bool:
    """Whether what makes sound is among the components of the class, and in the model."""
    return any(name in taken.components and index.get(name, _ABSENT) != _ABSENT for name in _MAKES_SOUND)


def default_strength(taken: PipelineClass) -> float | None:
    """The strength by which the first steps are left out, rounded down; None where there is no such thing."""
    strength = taken.parameters.get("strength")
    # Where steps have a strength of their own, `strength` is that of a condition.
    if strength is None or not taken.steps_by_strength or taken.takes("denoise_strength"):
        return None
    return float(strength.default) if isinstance(strength.default, int | float) else None
