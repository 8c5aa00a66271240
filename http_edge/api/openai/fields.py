"""Reading of requests to the OpenAI family: OpenAI's fields, and those that vLLM-Omni and SGLang added, from JSON and forms alike.

Rules. Empty text is an absent field. Fields nested in `extra_body` and its like stand beside the others, which win. A field that is known
but cannot be honoured, or is not known, is named in the job's `warnings` and never refused: clients of those servers send many. A field
that is honoured is checked like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import MediaKind
from broker.wire.submission import DEFAULT_PRIORITY
from http_edge.base.errors import invalid, shown
from http_edge.base.json_text import BadJson, decode_json
from http_edge.body.fields import Reader, parsed_scalar
from http_edge.body.forms import Fields, Upload
from http_edge.body.media_text import media_text
from http_edge.jobs.fields import FIELDS, NAMES
from http_edge.jobs.generation import Generation
from http_edge.jobs.generation_reader import Policy, read_generation

#: Objects (or their JSON text) in which clients nest further fields.
_CONTAINERS = ("extra_body", "extra_json", "extra_args", "extra_params", "video_params", "diffusers_kwargs")
#: Those whose unknown members are arguments of the pipeline.
_ARGUMENTS = ("extra_args", "extra_params", "diffusers_kwargs")
_MAX_NESTING = 3

_MAY_BE_EMPTY = ("prompt", *FIELDS["negative_prompt"].names)

#: Fields without effect on what is drawn, of which no warning is made.
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

#: Values that request nothing in particular.
UNSET_VALUES = (None, "", False, 0, "false", "False", "0", "auto", "none", "None", "null")

#: Fields that may hold an image; the first that is present counts.
VIDEO_IMAGES = ("input_reference", "image_reference", "reference_url", "input_references", "image", "image_url")
#: Of a request for pictures, which may bring one to draw from, as it may to services of image models; OpenAI's own has edits for that.
GENERATION_IMAGES = ("image", "image_url", "input_reference", "reference_image")
EDIT_IMAGES = ("image", "url", "image_url", "input_reference", "reference_image")

POLICY = Policy(
    refuses_unknown=False,
    refuses_unsupported=False,
    without=frozenset(("output", "save_to", "image")),
    silent=frozenset(_SILENT),
    idle=UNSET_VALUES,
)


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """Request for a generation; images and the model are chosen later."""

    generation: Generation
    #: The model's name as the client wrote it; "" when it named none.
    model: str
    #: `seconds` as the client wrote it; "" when it did not.
    seconds: str
    priority: int
    warnings: tuple[str, ...]


def flattened(fields: Fields) -> dict[str, Any]:
    """All fields at one level, nested ones beside the others; unknown pipeline arguments under `extra`. Raises `EdgeError`."""
    values = {name: value for name, value in fields.values.items() if name not in _CONTAINERS}
    arguments: dict[str, Any] = {}
    for container, members in _nested(fields.values, ""):
        for name, value in members.items():
            known = name in NAMES or name in _SILENT or name == "priority"
            if container in _ARGUMENTS and not known and isinstance(value, str | int | float | bool):
                arguments.setdefault(name, value)
            else:
                values.setdefault(name, value)
    extra = as_object("extra", values.get("extra"))
    if arguments or extra:
        values["extra"] = {name: parsed_scalar(value) for name, value in {**arguments, **extra}.items()}
    return {name: value for name, value in values.items() if value != "" or name in _MAY_BE_EMPTY}


def read_request(
    values: Mapping[str, Any], output: MediaKind, own: Collection[str], files: Collection[str]
) -> GenerationRequest:
    """The generation fields among flattened ones; `own` are names that the caller reads itself. Raises `EdgeError`."""
    known = dict(values)
    notes = [*_one_seed(known), *_odd_resolution(known)]
    reading = read_generation(known, POLICY, own=(*own, "priority"), files=files)
    generation = reading.generation
    priority = Reader(values).integer("priority", 0, 9)
    return GenerationRequest(
        generation=msgspec.structs.replace(generation, model=None, output=output),
        model=(generation.model or "").strip(),
        seconds=""
        if generation.seconds is None
        else str(known.get(generation.label("seconds"), generation.seconds)).strip()[:16],
        priority=DEFAULT_PRIORITY if priority is None else priority,
        warnings=(*notes, *reading.warnings),
    )


def _one_seed(known: dict[str, Any]) -> list[str]:
    """Lists of seeds are one an output elsewhere; here an output's seed follows the first's."""
    seed = known.get("seed")
    if not isinstance(seed, list) or None in seed:
        return []
    known["seed"] = seed[0] if seed else None
    return ["seed: the first of the list is used; every further output's seed is one more"] if len(seed) > 1 else []


def _odd_resolution(known: dict[str, Any]) -> list[str]:
    """In those servers it is also the number of pixels of a side, or a name: only a size is one here."""
    value = known.get("resolution")
    if value is None or (isinstance(value, str) and "x" in value.lower()):
        return []
    del known["resolution"]
    return [f'resolution: {shown(value)} is not of the form "WIDTHxHEIGHT", ignored']


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
            value = decode_json(value)
        except BadJson as error:
            raise invalid(name, value, f"cannot be read: {error}") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise invalid(name, value, "is not an object")
    return value


# ---------------------------------------------------------------- images


def images_in(fields: Fields, values: Mapping[str, Any], names: tuple[str, ...]) -> list[tuple[str, str | Upload]]:
    """(field, upload or text) of every image under these names, in their order. Raises `EdgeError`."""
    found: list[tuple[str, str | Upload]] = []
    for name in names:
        found += [(name, upload) for upload in fields.uploads.get(name, ())]
        value = values.get(name)
        for item in value if isinstance(value, list) else [value]:
            text = media_text(name, item)
            if text:
                found.append((name, text))
    return found
