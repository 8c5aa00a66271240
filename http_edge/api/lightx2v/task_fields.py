"""Reading a request of LightX2V's second and third generation and of its cloud API: their names and shapes of fields -> `Generation`.

LightX2V's own defaults (81 frames, 5 steps) are those of one model; here absent fields take the defaults of the model that draws. What asks
for something that no model here can do (speech to be lip-synced, a LoRA) is refused by name rather than left out of the result; fields that
are unknown are named in `warnings` and ignored.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import Scalar
from http_edge.base.errors import EdgeError, invalid
from http_edge.body.fields import Reader
from http_edge.body.forms import Fields, Upload
from http_edge.jobs.generation import Generation
from http_edge.jobs.generation_reader import Policy, Reading, read_generation
from http_edge.jobs.input_files import fields_of, input_files, with_files
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS
from http_edge.media.exports import SUFFIXES

#: Task words -> (what is drawn, whether from an image).
TASKS: dict[str, tuple[str, bool]] = {
    "t2v": ("video", False),
    "i2v": ("video", True),
    "flf2v": ("video", True),
    "t2i": ("image", False),
    "i2i": ("image", True),
}

#: Checked, and without effect here: one clip is one fragment.
_IDLE = ("num_fragments",)
#: LightX2V's other fields. Their defaults come with many a request, so they are no news for the client.
_SILENT = (
    "resize_mode",
    "fixed_area",
    "sr_ratio",
    "reuse",
    "reuse_prefix_segments",
    "data_bootstrap_room",
    "disagg_phase1_receiver_engine_rank",
    "disagg_bootstrap_room",
    "disagg_decoder_bootstrap_room",
)
_OWN = ("task_id", "task", "presigned_url", *_IDLE, *WEBHOOK_FIELDS)

#: Longest task id (the wire's bound on an alias).
MAX_TASK_ID_CHARS = 256

_ID_LETTERS = string.ascii_uppercase + string.digits

#: A task's output is its route's or its `task`'s, and it has one.
POLICY = Policy(
    refuses_unknown=False,
    refuses_unsupported=True,
    height_first=True,
    without=frozenset(("output", "num_outputs", "extra")),
    silent=frozenset(_SILENT),
)
#: The first server had one model.
GEN1_POLICY = msgspec.structs.replace(POLICY, without=POLICY.without | {"model"})
#: Of a clip: their defaults come with image tasks, too.
_CLIP_FIELDS = ("num_frames", "seconds", "fps")

#: Words of this API's paths (`/v1/tasks/queue/status`, `DELETE /v1/tasks/running`): tasks of these names could not be requested.
_TAKEN_IDS = ("queue", "running", ".", "..")


class TaskRequest(Struct, frozen=True, kw_only=True):
    """One request to make something, with the id it will be known by."""

    task_id: str
    generation: Generation
    echo: dict[str, Scalar]
    warnings: tuple[str, ...]
    presigned_url: str = ""


def read_task(fields: Fields, upload: Upload | None, *, output: str) -> TaskRequest:
    """Read a request to a `/v1/tasks` route, with the picture that it brought as a file. Raises `EdgeError`.

    `output` is what the route makes, "" where the request's `task` decides (video without one).
    """
    values = fields.values
    own = Reader(values)
    output = _output(own, output)
    own.integer("num_fragments", 1, 1_000_000)
    files, inputs = () if upload is None else (upload.field,), input_files(fields.uploads)
    reading = _read(values, output, own=(*_OWN, *files, *fields_of(inputs)), files=fields.uploads)
    generation = with_files(reading.generation, values, inputs)
    if upload is not None:
        generation = with_upload(generation, upload)
    task = values.get("task")
    if task and TASKS[task][1] and not generation.image:
        raise EdgeError("missing_field", f"image_path: task {task} needs an image", param="image_path")
    _check_last_frame(task, generation, "last_frame_path")
    echo: dict[str, Scalar] = {"task": task} if task else {}
    if generation.save_to:
        echo["save_to"] = generation.save_to
        generation = msgspec.structs.replace(generation, save_to=_with_suffix(generation.save_to, output))
    return TaskRequest(
        task_id=_task_id(own),
        generation=generation,
        echo=echo,
        warnings=reading.warnings,
        presigned_url=own.text("presigned_url", max_chars=8192) or "",
    )


def _check_last_frame(task: str | None, generation: Generation, label: str) -> None:
    if task == "flf2v" and not generation.last_image:
        raise EdgeError("missing_field", f"{label}: task {task} needs a last frame", param=label)


def with_upload(generation: Generation, upload: Upload) -> Generation:
    """The generation with the picture that came as a file. Raises `EdgeError` when there is another."""
    if generation.image:
        raise invalid(
            generation.label("image"), generation.image, f"is one image too many: {upload.field} came as a file, too"
        )
    labels = {**generation.labels, "image": upload.field}
    return msgspec.structs.replace(generation, image=upload.file_name or "a file", labels=labels)


def read_cloud(values: Mapping[str, Any], task: str, image: str, files: Mapping[str, Any]) -> Reading:
    """Read a cloud request for this task; `image` is its picture: a URL or base64. Raises `EdgeError`."""
    own = ("task", "stage", "input_image", "resolution_level", *WEBHOOK_FIELDS)
    reading = _read(values, TASKS[task][0], own=own, files=files)
    generation = reading.generation
    labels = {**generation.labels, "image": "input_image"}
    generation = msgspec.structs.replace(generation, image=image, labels=labels)
    _check_last_frame(task, generation, "input_last_frame")
    return msgspec.structs.replace(reading, generation=generation)


def _read(values: Mapping[str, Any], output: str, *, own: tuple[str, ...], files: Mapping[str, Any]) -> Reading:
    """Read the generation in a task's request. Raises `EdgeError`."""
    reading = read_generation(values, POLICY, own=own, files=files)
    generation, warnings = reading.generation, reading.warnings
    if output == "image":
        sent = [generation.label(name) for name in _CLIP_FIELDS if getattr(generation, name) is not None]
        warnings += tuple(f"{name}: this task makes an image, ignored" for name in sent)
        generation = msgspec.structs.replace(generation, **dict.fromkeys(_CLIP_FIELDS))
    labels = {
        "image": "image_path",
        "save_to": "save_result_path",
        **generation.labels,
        "output": "task",
    }
    generation = msgspec.structs.replace(generation, output=output, labels=labels)
    return Reading(generation=generation, warnings=warnings)


def _with_suffix(path: str, output: str) -> str:
    """The client's path; one without a suffix gets that of what is made, as LightX2V completes it."""
    return path if PurePosixPath(path).suffix else f"{path}{SUFFIXES[output]}"


def _output(own: Reader, output: str) -> str:
    task = own.text("task", max_chars=64)
    if not task:
        return output or "video"
    if task not in TASKS:
        raise own.fault("task", f"is not supported; supported: {', '.join(TASKS)}")
    made = TASKS[task][0]
    if output and made != output:
        raise own.fault("task", f"makes {_article(made)}; this route makes {_article(output)}")
    return made


def _article(output: str) -> str:
    return {"video": "a video", "image": "an image"}[output]


def _task_id(own: Reader) -> str:
    task_id = own.text("task_id", max_chars=MAX_TASK_ID_CHARS)
    if not task_id or not task_id.strip():
        return new_task_id()
    if "/" in task_id or task_id in _TAKEN_IDS:
        raise own.fault("task_id", "cannot be part of a path of this API (such as /v1/tasks/{task_id}/status)")
    return task_id


def new_task_id() -> str:
    """A random task id, as LightX2V makes them: five groups of four capitals and digits."""
    return "-".join("".join(secrets.choice(_ID_LETTERS) for _ in range(4)) for _ in range(5))
