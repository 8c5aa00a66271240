"""Recipe of a result: what a file was drawn with. It stands in the file itself as JSON text, and is a request for the same again.

Engines write it, edges read it; where in a file it stands is in `broker.runtime.recipe_file`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.sampling import Sampler

#: Version of the form that is written, and the newest that is read.
FORM = 1

#: Longest text that is read as a recipe, bytes: a spec with its longest prompts takes a third of it.
MAX_RECIPE_BYTES = 512 * 1024

#: Members of a spec that are no part of what is drawn, or that a request has in another form.
_NOT_IN_REQUEST = frozenset(
    [
        "echo",
        "image",
        "inputs",
        "loras",
        "num_outputs",
        "parent_span",
        "previews",
        "recipe",
        "request_digest",
        "save_to",
        "seed",
        "traceparent",
        "warnings",
    ]
)
#: What a file was drawn with that is no part of the picture.
_NOT_DRAWN = frozenset(["resumed"])

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BadRecipe(ValueError):
    """The text is no recipe, or none that this version reads. One clause, after the name of the file."""


class Recipe(Struct, frozen=True, kw_only=True):
    """Recipe of one file. The first member distinguishes it from other JSON."""

    #: `FORM` of the service that wrote it.
    zoetrope: Annotated[int, Meta(ge=1)] = FORM
    #: Fields of a `POST /v1/jobs` that draws it again, all defaults filled in.
    request: dict[str, Any]
    #: Class of the pipeline, and how its steps were taken.
    pipeline: str = ""
    sampler: Sampler = Sampler()
    #: As `Result.used`.
    used: dict[str, str] = msgspec.field(default_factory=dict)
    #: Role of each picture and clip that it was drawn from ("image" among them) -> SHA-256 of the files as the service kept them.
    inputs: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    #: Library -> its version.
    versions: dict[str, str] = msgspec.field(default_factory=dict)


def recipe_of(
    spec: JobSpec, card: ModelCard, index: int, *, used: Mapping[str, str], versions: Mapping[str, str]
) -> Recipe:
    """The recipe of output `index` of a job, 0 the first: that of a job of its own, with the seed that this output has."""
    request: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(spec).items():
        # An absent negative prompt is the model's own; an empty one is empty.
        if name not in _NOT_IN_REQUEST and (value not in (None, "", {}) or name == "negative_prompt"):
            request[name] = value
    if spec.output == "image":
        del request["fps"]
    if "cache" not in request and card.caches:
        request["cache"] = card.cache
    request["seed"] = spec.seed + index
    if spec.loras:
        request["loras"] = [
            {
                "name": use.name,
                "scale": {part: use.scale_of(part) for part in card.loras[use.name].components}
                if use.components and use.name in card.loras
                else use.scale,
            }
            for use in spec.loras
        ]
    inputs = {role: tuple(map(_digest, paths)) for role, paths in spec.inputs.items()}
    return Recipe(
        request=request,
        pipeline=card.pipeline,
        sampler=sampler_in(card, spec.preset),
        used={name: text for name, text in used.items() if name not in _NOT_DRAWN},
        inputs={**({"image": (_digest(spec.image),)} if spec.image else {}), **inputs},
        versions=dict(versions),
    )


def sampler_in(card: ModelCard, preset: str) -> Sampler:
    """Sampler of a model with this preset; an empty one leaves all to the model, as does a preset that is gone."""
    return (card.presets.get(preset) if preset else card.sampler) or Sampler()


def _digest(path: str) -> str:
    """SHA-256 by which the edge names what it keeps; "" for a file of another name."""
    stem = PurePath(path).stem
    return stem if _SHA256.fullmatch(stem) else ""


def encode_recipe(recipe: Recipe) -> str:
    """The recipe as it stands in a file: JSON on one line."""
    return msgspec.json.encode(recipe).decode()


def decode_recipe(text: str) -> Recipe:
    """The recipe in a text. Raises `BadRecipe`."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
        form = found.get("zoetrope")
        if isinstance(form, int) and form > FORM:
            raise BadRecipe(f"was written by a newer version of this service (recipe form {form}; {FORM} is read here)")
        if form is None:
            raise BadRecipe("holds a text in the place of a recipe, and it is none of this service")
        return msgspec.convert(found, Recipe)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRecipe(f"holds a damaged recipe: {error}") from None


def as_text(recipe: Recipe) -> str:
    """The recipe as people and galleries of pictures read it: the prompt, the negative one, then "Steps: 4, CFG scale: 5, …"."""
    request = recipe.request
    facts = {
        "Steps": request.get("num_inference_steps"),
        "Sampler": recipe.sampler.kind,
        "CFG scale": request.get("guidance_scale"),
        "Seed": request.get("seed"),
        "Size": f"{request.get('width')}x{request.get('height')}",
        "Model": request.get("model"),
        "Preset": request.get("preset"),
        "Loras": "; ".join(f"{use['name']} {_scale(use['scale'])}" for use in request.get("loras", ())),
        "Frames": request.get("num_frames") if request.get("output") == "video" else None,
        "FPS": request.get("fps"),
        "Version": f"zoetrope {recipe.versions.get('zoetrope', '')}".strip(),
    }
    parameters = ", ".join(f"{name}: {_number(value)}" for name, value in facts.items() if value not in (None, ""))
    negative = request.get("negative_prompt")
    lines = (request.get("prompt", ""), *((f"Negative prompt: {negative}",) if negative else ()), parameters)
    return "\n".join(lines).replace("\0", " ")


def _scale(scale: Any) -> str:
    if isinstance(scale, dict):
        return "/".join(f"{part} {value:g}" for part, value in scale.items())
    return f"{scale:g}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
