"""What a request to the OpenAI family asks for: OpenAI's fields, and those that vLLM-Omni and SGLang added, read from JSON and forms alike.

Rules. Everything is read leniently ("4" is 4), as three encodings must mean the same. Empty text is an absent field. Fields nested in
`extra_body` and its like stand beside the others, which win. A field that is known but cannot be honoured, or is not known, is named in
the job's `warnings` and never refused: clients of those servers send many. A field that is honoured is checked like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import MediaKind, Scalar
from http_edge.aspect import parse_aspect
from http_edge.errors import invalid
from http_edge.fields import Reader
from http_edge.forms import Fields, Upload
from http_edge.specs import Wanted, read_wanted

#: Objects (or their JSON text) in which clients nest further fields.
_CONTAINERS = ("extra_body", "extra_json", "extra_args", "extra_params", "video_params", "diffusers_kwargs")
#: Those whose unknown members are arguments of the pipeline.
_ARGUMENTS = ("extra_args", "extra_params", "diffusers_kwargs")
_MAX_NESTING = 3

#: Our name -> theirs.
_ALIASES = {"num_outputs": ("num_outputs_per_prompt", "n")}

_READ = (
    "prompt",
    "negative_prompt",
    "model",
    "size",
    "width",
    "height",
    "seconds",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "max_sequence_length",
    "seed",
    "num_outputs",
    "num_outputs_per_prompt",
    "n",
    "extra",
)
#: Read here, into the pipeline's further arguments or the job itself.
_OWN = ("flow_shift", "true_cfg_scale", "strength", "aspect_ratio", "priority")

#: Without effect on what is drawn, by their nature or because there is one way here: nothing to warn of.
_SILENT = (
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "moderation",
    "style",
    "quality",
    "input_fidelity",
    "generator_device",
    "return_stage_metrics",
    "response_format",
    "output_format",
    "output_compression",
    "stream",
    "partial_images",
    "task_type",
)

#: Values that ask for nothing in particular.
IDLE_WORDS = (None, "", False, 0, "false", "False", "0", "auto", "none", "None", "null")

#: Where an image may be, the first that is there counting.
VIDEO_IMAGES = ("input_reference", "image_reference", "reference_url", "input_references", "image", "image_url")
EDIT_IMAGES = ("image", "url", "image_url", "input_reference", "reference_image")

_MAX_WARNINGS = 50
#: A request of that much text in one field is an image or a mistake.
_MAX_IMAGE_CHARS = 48 * 1024 * 1024


class Asked(Struct, frozen=True, kw_only=True):
    """One request to make something; images and the model are chosen later."""

    wanted: Wanted
    #: Whether width and height are those of `size`, which may be fitted to the model; explicit ones may not.
    by_size: bool
    #: The model's name as the client wrote it; "" when it named none.
    model: str
    #: `seconds` as the client wrote it; "" when it did not.
    seconds: str
    priority: int
    warnings: list[str]


def flattened(fields: Fields) -> dict[str, Any]:
    """All fields at one level, nested ones beside the others; unknown pipeline arguments under `extra`. Raises `EdgeError`."""
    values = {name: value for name, value in fields.values.items() if name not in _CONTAINERS}
    arguments: dict[str, Any] = {}
    for container, members in _nested(fields.values, ""):
        for name, value in members.items():
            known = name in _READ or name in _OWN or name in _SILENT
            if container in _ARGUMENTS and not known and isinstance(value, str | int | float | bool):
                arguments.setdefault(name, value)
            else:
                values.setdefault(name, value)
    extra = as_object("extra", values.get("extra"))
    if arguments or extra:
        values["extra"] = {name: _plain(value) for name, value in {**arguments, **extra}.items()}
    return {name: value for name, value in values.items() if value != "" or name in ("prompt", "negative_prompt")}


def read_asked(values: Mapping[str, Any], output: MediaKind, also_read: tuple[str, ...] = ()) -> Asked:
    """The generation fields among flattened ones; `also_read` are names that the caller reads itself. Raises `EdgeError`."""
    known = {name: values[name] for name in _READ if name in values}
    warnings = _settle_seed(known)
    reader = Reader(known, aliases=_ALIASES, lenient=True)
    own = Reader(values, lenient=True)
    by_size = reader.size("size") is not None
    wanted = read_wanted(reader)
    aspect = None
    text = own.text("aspect_ratio", max_chars=16)
    if text and text != "auto" and not by_size:
        aspect = parse_aspect(text)
        if aspect is None:
            raise own.fault("aspect_ratio", 'is not of the form "WIDTH:HEIGHT", as in "16:9"')
    priority = own.integer("priority", 0, 9)
    return Asked(
        wanted=msgspec.structs.replace(
            wanted,
            model=None,
            output=output,
            aspect=aspect,
            extra={**_scales(own), **wanted.extra},
            labels={**wanted.labels, "aspect": "aspect_ratio"},
        ),
        by_size=by_size,
        model=(wanted.model or "").strip(),
        seconds="" if wanted.seconds is None else str(known["seconds"]).strip()[:16],
        priority=5 if priority is None else priority,
        warnings=[*warnings, *_ignored(values, (*_READ, *_OWN, *also_read))][:_MAX_WARNINGS],
    )


def _settle_seed(known: dict[str, Any]) -> list[str]:
    """Lists of seeds are one an output elsewhere; here an output's seed follows the first's. -1 is elsewhere's word for any."""
    warnings = []
    seed = known.get("seed")
    if isinstance(seed, list):
        if len(seed) > 1:
            warnings.append("seed: the first of the list is used; every further output's seed is one more")
        known["seed"] = seed = seed[0] if seed else None
    if seed in (-1, "-1"):
        known["seed"] = None
    return warnings


def _scales(own: Reader) -> dict[str, Scalar]:
    """Numbers that only some pipelines know, as further arguments."""
    found: dict[str, Scalar] = {}
    for name, low, high in (("flow_shift", 0.001, 100.0), ("true_cfg_scale", 0.0, 100.0), ("strength", 0.0, 1.0)):
        value = own.number(name, low, high)
        if value is not None:
            found[name] = value
    return found


def _ignored(values: Mapping[str, Any], read: tuple[str, ...]) -> Iterator[str]:
    for name, value in values.items():
        asks_nothing = value in IDLE_WORDS if isinstance(value, str | int | float | None) else not value
        if name in read or name in _SILENT or asks_nothing:
            continue
        yield f"{name[:80]}: not supported by this service, ignored"


def _nested(values: Mapping[str, Any], inside: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """(container, its members that are no containers themselves), the outer ones first. Raises `EdgeError`."""
    for name in _CONTAINERS:
        members = as_object(name, values.get(name))
        if not members or depth >= _MAX_NESTING:
            continue
        yield name, {key: value for key, value in members.items() if key not in _CONTAINERS}
        yield from _nested(members, name, depth + 1)


def as_object(name: str, value: Any) -> dict[str, Any]:
    """The object in a field, itself or as JSON text; empty when absent. Raises `EdgeError`."""
    if isinstance(value, str) and value.strip():
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise invalid(name, value, f"is not valid JSON: {str(error)[:200]}") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise invalid(name, value, "is not an object")
    return value


def _plain(value: Any) -> Any:
    """A form's text as the number or truth it is, for arguments whose type nobody here knows."""
    if not isinstance(value, str) or len(value) > 40:
        return value
    if value in ("true", "True", "false", "False"):
        return value in ("true", "True")
    try:
        number = msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return value
    return number if isinstance(number, int | float) and not isinstance(number, bool) else value


# ---------------------------------------------------------------- images


def images_in(fields: Fields, values: Mapping[str, Any], names: tuple[str, ...]) -> list[tuple[str, str | Upload]]:
    """(field, upload or text) of every image under these names, in their order. Raises `EdgeError`."""
    found: list[tuple[str, str | Upload]] = []
    for name in names:
        found += [(name, upload) for upload in fields.uploads.get(name, ())]
        value = values.get(name)
        for item in value if isinstance(value, list) else [value]:
            text = _image_text(name, item)
            if text:
                found.append((name, text))
    return found


def _image_text(name: str, value: Any) -> str:
    """The text that stands for an image: itself, or a member of OpenAI's objects, which may come as JSON text. Raises `EdgeError`."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = as_object(name, value)
    if isinstance(value, dict):
        member = next((key for key in ("image_url", "file_id", "url") if value.get(key)), None)
        if member is None:
            raise invalid(name, value, "holds neither image_url nor file_id")
        inner = value[member]
        return _image_text(f"{name}.{member}", inner.get("url") if isinstance(inner, dict) else inner)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_IMAGE_CHARS or "\0" in value:
        raise invalid(name, value, "is not an image: a file, a URL, a data URL or base64 is expected")
    return value.strip()
