"""Signatures of pipeline classes: the parameters of the call and of the construction, read from diffusers' source.

The source is parsed and never imported: the agent has no torch in memory. So a class that a newer diffusers brings is known by itself.
Finding the classes takes about 0.15 s once a process, reading one about 0.02 s.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.models.library_source import library_places

_CLASS = re.compile(rb"^class (\w+)", re.MULTILINE)

#: Annotations of what JSON can carry in one value.
_SCALARS = {"int", "float", "str", "bool"}

#: How image-to-image pipelines leave out the first steps, where they round the steps that are left down.
_STRENGTH_OF_STEPS = "int(num_inference_steps * strength)"

#: How a combined pipeline names the one that draws.
_DRAWN_BY = re.compile(r"self\.decoder_pipe = (\w+)\(")

#: Parameters that the engine fills from the fields of a job, or keeps for itself: a client's `extra` does not reach them.
RESERVED = frozenset({
    "prompt", "negative_prompt", "image", "height", "width", "seed", "num_frames", "frames", "video_length", "num_inference_steps",
    "guidance_scale", "guidance_scale_2", "max_sequence_length", "generator", "latents", "output_type", "return_dict",
    "num_images_per_prompt", "num_videos_per_prompt", "num_samples", "batch_size", "callback", "callback_steps",
    "callback_on_step_end", "callback_on_step_end_tensor_inputs", "attention_kwargs", "cross_attention_kwargs",
    "joint_attention_kwargs", "max_area", "_auto_resize", "use_resolution_binning", "frame_rate", "fps", "target_fps",
    "pyramid_num_inference_steps_list", "last_image", "reference_images", "images", "mask_image", "mask", "control_image", "video",
    "control_video", "conditioning_frames", "pose_video", "face_video", "mask_video", "background_video", "segment_frame_length",
})  # fmt: skip

#: Names under which pipelines take the number of frames.
FRAME_COUNTS = ("num_frames", "frames", "video_length")

#: Names under which pipelines take the number of steps; the second for a list, of each of the sizes that are drawn one after another.
STEPS = ("num_inference_steps", "pyramid_num_inference_steps_list")

#: Names under which pipelines take the scale of guidance; others keep it in a component, the guider.
GUIDANCE = ("guidance_scale", "true_cfg_scale", "max_guidance_scale", "distilled_guidance_scale")

#: A job's own shift of the noise schedule, and the names under which schedulers keep it: UniPC and DPM++ on flows, flow-matching Euler.
FLOW_SHIFT = "flow_shift"
SHIFTS = (FLOW_SHIFT, "shift")


#: What every pipeline inherits from.
_ROOT = "DiffusionPipeline"


class Parameter(Struct, frozen=True):
    """Parameter of a call."""

    required: bool
    #: Whether a single number, text or truth value may be given for it.
    scalar: bool
    #: Its default, where that is such a value.
    default: str | int | float | bool | None = None


class PipelineClass(Struct, frozen=True):
    """Signature of a class: parameters of its `__call__`, and names of its components."""

    name: str
    parameters: Mapping[str, Parameter]
    components: frozenset[str]
    #: Those of the components that it cannot be made without.
    needed: frozenset[str]
    #: Whether `strength` x steps, rounded down, are the steps that are drawn.
    steps_by_strength: bool
    #: Whether its loop marks which of its calls of the denoiser belong together, which a step cache needs.
    marks_cache_context: bool = False
    #: Whether all of it may be read from one file.
    from_single_file: bool = False
    #: Whether it loads LoRAs.
    takes_loras: bool = False
    #: Class of a component that it needs and that the library keeps where loading does not find it; "": there is none.
    lost_component: str = ""

    def takes(self, *names: str) -> bool:
        """Whether the call has a parameter of one of these names."""
        return any(name in self.parameters for name in names)

    def required(self) -> Iterator[str]:
        """Parameters that have no default."""
        return (name for name, parameter in self.parameters.items() if parameter.required)

    def extra(self) -> tuple[str, ...]:
        """Parameters that a job may give beside its own fields, sorted."""
        return tuple(
            sorted(
                name
                for name, parameter in self.parameters.items()
                if parameter.scalar and is_extra(name) and not re.match(_FILLED_BY_INPUTS.get(name, "$"), self.name)
            )
        )


#: Parameters that follow from the inputs of a job, and the classes in which they do: whether Wan-Animate draws into a clip, and how much
#: SkyReels takes of the clip that it goes on from.
_FILLED_BY_INPUTS = {"mode": "WanAnimate", "overlap_history": "SkyReelsV2DiffusionForcingVideoToVideo"}


def is_extra(name: str) -> bool:
    """Whether a job's `extra` may carry a parameter of this name, if the pipeline has it. Embeddings are tensors."""
    return name not in RESERVED and not name.endswith("_embeds")


@functools.cache
def pipeline_class(name: str) -> PipelineClass | None:
    """The pipeline class of this name in the installed diffusers; None when it has none, or does not give it out under this name."""
    family = list(_with_bases(name)) if name in _given_out() else []
    if not any(isinstance(base, ast.Name) and base.id == _ROOT for node, _ in family for base in node.bases):
        return None
    call = next((found for node, _ in family if (found := _method(node, "__call__"))), None)
    init = next((found for node, _ in family if (found := _method(node, "__init__"))), None)
    if call is None:
        return None
    made_of = _parameters(init) if init is not None else {}
    return PipelineClass(
        name=name,
        parameters=_parameters(call),
        components=frozenset(made_of),
        needed=frozenset(part for part, parameter in made_of.items() if parameter.required) - _optional(family),
        steps_by_strength=any(_STRENGTH_OF_STEPS in text for _, text in (*family, *_drawing(family))),
        marks_cache_context=any("cache_context(" in text for _, text in family),
        from_single_file=any(
            isinstance(base, ast.Name) and base.id == "FromSingleFileMixin" for node, _ in family for base in node.bases
        ),
        takes_loras=_takes_loras(family, made_of),
        lost_component=_lost_component(init, _optional(family)),
    )


@functools.cache
def pipeline_names() -> tuple[str, ...]:
    """Names of all classes that may be pipelines; empty when diffusers is not installed."""
    return tuple(sorted(name for name in _files() if name.endswith("Pipeline")))


@functools.cache
def all_classes() -> tuple[PipelineClass, ...]:
    """Every pipeline class that the installed diffusers gives out, in the order of the names. Takes some seconds."""
    found = (pipeline_class(name) for name in sorted(_given_out() & _files().keys()))
    return tuple(taken for taken in found if taken is not None)


@functools.cache
def _given_out() -> frozenset[str]:
    """Names that the library exports: all strings in the table of its lazy imports."""
    names: set[str] = set()
    for place in library_places():
        for node in ast.walk(ast.parse(Path(place, "__init__.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return frozenset(names)


def _optional(family: list[tuple[ast.ClassDef, str]]) -> set[str]:
    """Components that a model may lack, by the class."""
    for node, _ in family:
        for item in node.body:
            match item:
                case ast.Assign(targets=[ast.Name(id="_optional_components")], value=ast.List(elts=names)):
                    return {str(name.value) for name in names if isinstance(name, ast.Constant)}
    return set()


def _lost_component(init: ast.FunctionDef | None, optional: Container[str]) -> str:
    """Return the class of the first component that `save_pretrained` writes and `from_pretrained` does not find again.

    A class of a pipeline's own module is looked for in the folder of that name directly under `pipelines`, which those that
    were moved to `pipelines/deprecated` have left.
    """
    given = init.args if init is not None else None
    for argument in (*given.args, *given.kwonlyargs)[1:] if given is not None else ():
        match argument.annotation:
            case ast.Name(id=kind) if argument.arg not in optional and kind not in _given_out() and kind in _files():
                folder = _files()[kind].parent
                if folder.parent.name != "pipelines":
                    return kind
    return ""


@functools.cache
def _files() -> Mapping[str, Path]:
    """Class -> the file of diffusers' pipelines that defines it."""
    found: dict[str, Path] = {}
    for place in library_places():
        for file in sorted(Path(place, "pipelines").rglob("*.py")):
            found.update((match[1].decode(), file) for match in _CLASS.finditer(file.read_bytes()))
    return found


def _with_bases(name: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """The class and those it inherits from, as far as they are pipelines, with their source text."""
    file = _files().get(name)
    if file is None:
        return
    text = file.read_text(encoding="utf-8")
    node = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)
    yield node, "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id.endswith("Pipeline") and base.id != _ROOT:
            yield from _with_bases(base.id)


def _takes_loras(family: list[tuple[ast.ClassDef, str]], components: Container[str]) -> bool:
    loaders = {base.id for node, _ in family for base in node.bases if isinstance(base, ast.Name)}
    # ControlNet-XS puts the UNet into one of its own, which holds no adapters.
    if any("UNetControlNetXSModel.from_unet(" in text for _, text in family):
        return False
    # Kolors has the loader of SDXL, which fails without a second text encoder.
    if "StableDiffusionXLLoraLoaderMixin" in loaders and "text_encoder_2" not in components:
        return False
    return any(name.endswith("LoraLoaderMixin") for name in loaders)


def _drawing(family: list[tuple[ast.ClassDef, str]]) -> Iterator[tuple[ast.ClassDef, str]]:
    """The classes that a combined pipeline draws with."""
    for name in {found for _, text in family for found in _DRAWN_BY.findall(text)}:
        yield from _with_bases(name)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _parameters(function: ast.FunctionDef) -> dict[str, Parameter]:
    given = function.args
    positional = [*given.posonlyargs, *given.args][1:]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {
        argument.arg: Parameter(default is None, _is_scalar(argument.annotation), _value(default))
        for argument, default in pairs
    }


def _is_scalar(annotation: ast.expr | None) -> bool:
    """Whether one of the alternatives of a type is a plain value; a parameter without a type may be anything."""
    match annotation:
        case None:
            return True
        case ast.BinOp(left=left, right=right):
            return _is_scalar(left) or _is_scalar(right)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union"), slice=ast.Tuple(elts=elements)):
            return any(_is_scalar(element) for element in elements)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union"), slice=inner):
            return _is_scalar(inner)
        case ast.Name(id=name):
            return name in _SCALARS
    return False


def _value(default: ast.expr | None) -> Any:
    return default.value if isinstance(default, ast.Constant) and isinstance(default.value, str | int | float) else None
