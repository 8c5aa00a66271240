"""Reading a request of LightX2V's second and third generation and of its cloud API: their names and shapes of fields -> `Wanted`.

LightX2V's own defaults (81 frames, 5 steps) are those of one model; here absent fields take the defaults of the model that draws. What asks
for something that no model here can do (sound, a source video, a LoRA) is refused by name rather than left out of the result; fields that
nobody knows are named in `warnings` and ignored. Numbers may be text, in JSON too: LightX2V's validator took that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import Scalar
from http_edge.aspect import parse_aspect
from http_edge.errors import EdgeError, invalid
from http_edge.exports import SUFFIXES
from http_edge.fields import Reader
from http_edge.forms import Fields, Upload
from http_edge.lightx2v_shapes import MAX_TASK_ID_CHARS, new_task_id
from http_edge.specs import MAX_PATH_CHARS, Wanted, read_wanted
from http_edge.spool import MAX_TEXT_BYTES
from http_edge.webhook_fields import WEBHOOK_FIELDS

#: Our name -> theirs, newer first. A request may bring both; the first that is there counts.
_ALIASES = {
    "num_inference_steps": ("infer_steps",),
    "num_frames": ("target_video_length",),
    "fps": ("target_fps",),
    "seconds": ("video_duration", "video_duration_seconds", "duration"),
    "guidance_scale": ("sample_guide_scale", "cfg_scale"),
    "size": ("target_shape", "custom_shape"),
    "save_to": ("save_result_path", "save_video_path"),
}

#: Read from every request; names of other APIs (`extra`, `num_outputs`, `save_to`) are not theirs to set.
_TASK_FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "num_inference_steps",
    "infer_steps",
    "guidance_scale",
    "sample_guide_scale",
    "guidance_scale_2",
    "seed",
    "width",
    "height",
)
_SIZES = ("size", "target_shape", "custom_shape")
_PATHS = ("save_result_path", "save_video_path")
#: Of a clip; an image task ignores them.
_CLIP_FIELDS = ("num_frames", "target_video_length", "fps", "target_fps", "video_duration")
_CLOUD_FIELDS = ("cfg_scale",)
_CLOUD_CLIP_FIELDS = ("video_duration_seconds", "duration")

#: Task words -> (what is drawn, whether from an image).
TASKS: dict[str, tuple[str, bool]] = {
    "t2v": ("video", False),
    "i2v": ("video", True),
    "t2i": ("image", False),
    "i2i": ("image", True),
}

#: Inputs and changes that no pipeline here takes.
_REFUSED = (
    "audio_path",
    "audio_file",
    "video_path",
    "last_frame_path",
    "last_frame_file",
    "image_mask_path",
    "talk_objects",
    "lora_name",
    "input_audio",
    "input_video",
    "input_last_frame",
)
#: Checked, and without effect here: one clip is one fragment, and prompts are drawn as they are written.
_IDLE = ("use_prompt_enhancer", "num_fragments")
#: LightX2V's other fields. Their defaults come with many a request, so they are no news for the client.
_SILENT = (
    "resize_mode",
    "fixed_area",
    "sr_ratio",
    "lora_strength",
    "reuse",
    "reuse_prefix_segments",
    "i2i_denoise_strength",
    "data_bootstrap_room",
    "disagg_phase1_receiver_engine_rank",
    "disagg_bootstrap_room",
    "disagg_decoder_bootstrap_room",
)
_OWN = ("task_id", "task", "aspect_ratio", "presigned_url", "image_path", "image_file", *WEBHOOK_FIELDS)

#: Words of this API's paths (`/v1/tasks/queue/status`, `DELETE /v1/tasks/running`): tasks of these names could not be asked for.
_TAKEN_IDS = ("queue", "running", ".", "..")


class TaskRequest(Struct, frozen=True, kw_only=True):
    """One request to make something, with the id it will be known by."""

    task_id: str
    wanted: Wanted
    echo: dict[str, Scalar]
    warnings: list[str]
    presigned_url: str = ""


def read_task(fields: Fields, upload: Upload | None, *, output: str) -> TaskRequest:
    """What a request to a `/v1/tasks` route asks for, with the picture that it brought as a file. Raises `EdgeError`.

    `output` is what the route makes, "" where the request's `task` says it (video without one).
    """
    values = present(fields.values, form=fields.lenient)
    refuse(values, fields.uploads)
    own = Reader(values, lenient=True)
    output = _output(own, output)
    known = {name: values[name] for name in _TASK_FIELDS if name in values}
    if output == "video":
        known |= {name: values[name] for name in _CLIP_FIELDS if name in values}
    _add_path(known, own, output)
    wanted = _read_wanted(known, values, output=output)
    wanted = _with_image(wanted, own, upload)
    own.flag("use_prompt_enhancer")
    own.integer("num_fragments", 1, 1_000_000)
    if values.get("task") in ("i2v", "i2i") and not wanted.image:
        raise EdgeError("missing_field", f"image_path: task {values['task']} needs an image", param="image_path")
    echo: dict[str, Scalar] = {name: values[name] for name in ("task",) if name in values}
    asked = next((values[name] for name in _PATHS if name in values), None)
    if asked is not None:
        echo["save_to"] = asked
    return TaskRequest(
        task_id=_task_id(own),
        wanted=wanted,
        echo=echo,
        warnings=_warnings([*values, *fields.uploads], (*_TASK_FIELDS, *_SIZES, *_PATHS, *_CLIP_FIELDS)),
        presigned_url=own.text("presigned_url", max_chars=8192) or "",
    )


def read_cloud(sent: Mapping[str, Any], task: str, image: str) -> Wanted:
    """What a cloud request for this task asks for; `image` is its picture: a URL or base64. Raises `EdgeError`."""
    values = present(sent, form=False)
    refuse(values)
    output = TASKS[task][0]
    names: tuple[str, ...] = (*_TASK_FIELDS, *_CLOUD_FIELDS)
    if output == "video":
        names += (*_CLIP_FIELDS, *_CLOUD_CLIP_FIELDS)
    known = {name: values[name] for name in names if name in values and name != "model"}
    if values.get("model_cls"):
        known["model_cls"] = values["model_cls"]
    wanted = _read_wanted(known, values, output=output)
    return msgspec.structs.replace(wanted, image=image, labels={**wanted.labels, "image": "input_image"})


def present(values: Mapping[str, Any], *, form: bool) -> dict[str, Any]:
    """The fields that say something. Empty text stands for an absent field in LightX2V's schemas, but for prompts; null does too."""
    said = {name: value for name, value in values.items() if value is not None and value != []}
    for name, value in list(said.items()):
        empty = isinstance(value, str) and not value.strip()
        if empty and name not in ("prompt", "negative_prompt") and (form or name in _MAY_BE_EMPTY):
            del said[name]
    return said


_MAY_BE_EMPTY = (*_OWN, *_PATHS, *_SIZES, *_REFUSED, "model", "model_cls", "resolution_level")


def refuse(values: Mapping[str, Any], files: Collection[str] = ()) -> None:
    """Raise `EdgeError` for what no model here can do."""
    for name in _REFUSED:
        if values.get(name) or name in files:
            raise invalid(name, values.get(name, "a file"), "is not supported: no model of this service takes it")


def _read_wanted(known: dict[str, Any], values: Mapping[str, Any], *, output: str) -> Wanted:
    size = next((name for name in _SIZES if name in values), None)
    if size is not None:
        known[size] = _size(size, values[size])
    aliases = _ALIASES if "model_cls" not in known else {**_ALIASES, "model": ("model_cls",)}
    reader = Reader(known, aliases=aliases, lenient=True)
    wanted = read_wanted(reader)
    own = Reader(values, lenient=True)
    text = own.text("aspect_ratio", max_chars=16)
    aspect = parse_aspect(text) if text else None
    if text and aspect is None:
        raise own.fault("aspect_ratio", 'is not of the form "WIDTH:HEIGHT", as in "16:9"')
    labels = {**wanted.labels, "aspect": "aspect_ratio", "output": "task", "image": "image_path"}
    return msgspec.structs.replace(wanted, output=output, aspect=aspect, labels=labels)


def _with_image(wanted: Wanted, own: Reader, upload: Upload | None) -> Wanted:
    """With the request's picture: the file, else `image_path`, which may be a URL, base64 or a path."""
    if upload is None:
        return msgspec.structs.replace(wanted, image=own.text("image_path", max_chars=MAX_TEXT_BYTES) or "")
    labels = {**wanted.labels, "image": upload.field}
    return msgspec.structs.replace(wanted, image=upload.file_name or "a file", labels=labels)


def _output(own: Reader, output: str) -> str:
    task = own.text("task", max_chars=64)
    if task is None:
        return output or "video"
    if task not in TASKS:
        raise own.fault("task", f"is not supported; supported: {', '.join(TASKS)}")
    made = TASKS[task][0]
    if output and made != output:
        raise own.fault("task", f"makes {_article(made)}; this route makes {_article(output)}")
    return made


def _article(output: str) -> str:
    return {"video": "a video", "image": "an image"}[output]


def _size(name: str, value: Any) -> str:
    """ "WIDTHxHEIGHT" of their [height, width], which may be JSON text; of text in our form it is that. Raises `EdgeError`."""
    sides = value
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return text
        try:
            sides = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            sides = None
    if isinstance(sides, list) and len(sides) == 2 and all(_is_side(side) for side in sides):
        height, width = sides
        return f"{int(width)}x{int(height)}"
    raise invalid(name, value, "is not [height, width] in pixels, as in [480, 832]")


def _is_side(side: Any) -> bool:
    if isinstance(side, str):
        return side.isascii() and side.isdecimal() and 0 < len(side) <= 6
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side < 1_000_000


def _add_path(known: dict[str, Any], own: Reader, output: str) -> None:
    """The client's path under its own name; one without a suffix gets that of what is made, as LightX2V completes it."""
    for name in _PATHS:
        text = own.text(name, max_chars=MAX_PATH_CHARS)
        if text is not None:
            known[name] = text if PurePosixPath(text).suffix else f"{text}{SUFFIXES[output]}"
            return


def _task_id(own: Reader) -> str:
    task_id = own.text("task_id", max_chars=MAX_TASK_ID_CHARS)
    if task_id is None:
        return new_task_id()
    if "/" in task_id or task_id in _TAKEN_IDS:
        raise own.fault("task_id", "cannot be part of a path of this API (such as /v1/tasks/{task_id}/status)")
    return task_id


def _warnings(sent: Sequence[str], read: tuple[str, ...]) -> list[str]:
    known = {*read, *_OWN, *_IDLE, *_SILENT, *_REFUSED}
    return [f"{name[:80]}: unknown field, ignored" for name in sent if name not in known][:50]
