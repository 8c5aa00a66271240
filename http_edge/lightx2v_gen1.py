"""Taking a task of LightX2V's first generation: its server and its distributed variant read the same fields.

That server ran one task at a time and answered 200 to everything but validation. Here a task is taken only while a worker is free, unless
the setting `lightx2v_admission` is queue. The newest job of a task id answers for it: "the newer record replaces the older".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from broker.wire.jobspec import Scalar
from http_edge.bodies import json_response
from http_edge.calls import Calls
from http_edge.errors import EdgeError
from http_edge.fields import Reader, missing
from http_edge.forms import Upload
from http_edge.lightx2v_shapes import MAX_TASK_ID_CHARS, Tasks, origin_of
from http_edge.orders import Order
from http_edge.specs import MAX_PATH_CHARS, echoed_image, read_wanted
from http_edge.webhook_fields import read_webhook

BASE = "/v1/local/video/generate"

ORIGIN = "lightx2v-1"

#: Names under which these fields may come; errors repeat the client's.
_ALIASES = {
    "num_inference_steps": ("infer_steps",),
    "num_frames": ("target_video_length",),
    "image": ("image_path",),
    "save_to": ("save_video_path",),
}
_REQUIRED = ("task_id", "prompt", "save_video_path")
_TEXTS = (*_REQUIRED, "negative_prompt", "image_path")
#: Sampler fields that the first server did not have: honoured, and repeated in the record, when sent.
_OPTIONAL = (
    "num_inference_steps",
    "infer_steps",
    "num_frames",
    "target_video_length",
    "height",
    "width",
    "fps",
    "seed",
    "guidance_scale",
)


class Gen1:
    """The tasks of the first generation, and how one more is taken."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.worker = calls.settings.worker
        self.refuses = calls.settings.lightx2v_admission == "refuse"
        self.tasks = Tasks(calls, origin_of(ORIGIN, self.worker), unique=False)

    async def generate(
        self, fields: Mapping[str, Any], upload: Upload | None = None, *, lenient: bool = False, place: str = "body"
    ) -> Response:
        """Take a task, with the picture that it brought as a file; the server's answer. Raises `EdgeError`."""
        order = self._read(fields, lenient=lenient, place=place)
        if upload is not None:
            image = await self._calls.image(upload.field, upload, allow_paths=False)
            labels = {**order.wanted.labels, "image": upload.field}
            wanted = msgspec.structs.replace(order.wanted, image=upload.file_name or "a file", labels=labels)
            echo = {**order.echo, "image_path": upload.file_name}
            order = msgspec.structs.replace(order, wanted=wanted, image=image, echo=echo)
        try:
            await self._calls.submit(order)
        except EdgeError as error:
            if error.kind in ("busy", "queue_full"):
                return json_response({"error": "Service busy"})
            if error.kind == "alias_taken":
                return json_response({"error": f"Task ID {order.alias} already exists"})
            raise
        return json_response(
            {"task_id": order.alias, "task_status": "processing", "save_video_path": order.echo["save_video_path"]}
        )

    def _read(self, fields: Mapping[str, Any], *, lenient: bool, place: str) -> Order:
        """The order in a request. Raises `EdgeError`."""
        absent = [name for name in _REQUIRED if fields.get(name) is None]
        if absent:
            raise missing(absent, place=place)
        # What else the client sent is ignored, under our names too: the first server knew none of them.
        known = {name: fields[name] for name in (*_OPTIONAL, *_TEXTS) if name in fields}
        reader = Reader({"image_path": "", **known}, aliases=_ALIASES, lenient=lenient, place=place)
        task_id = reader.required_text("task_id", max_chars=MAX_TASK_ID_CHARS, min_chars=1)
        save_path = reader.required_text("save_video_path", max_chars=MAX_PATH_CHARS, min_chars=1)
        wanted = read_wanted(reader)
        sampler = {reader.label(name) for name in _OPTIONAL if reader.raw(name) is not None}
        # The first server's validator took words and digits for these.
        options = Reader(fields, lenient=True, place=place)
        unique = options.flag("task_id_must_unique") or False
        fragments = options.integer("num_fragments", 1, 1_000_000)
        echo: dict[str, Scalar] = {
            "task_id": task_id,
            "task_id_must_unique": unique,
            "prompt": wanted.prompt,
            "use_prompt_enhancer": options.flag("use_prompt_enhancer") or False,
            "negative_prompt": wanted.negative_prompt or "",
            "image_path": echoed_image(wanted.image),
            "num_fragments": 1 if fragments is None else fragments,
            "save_video_path": save_path,
            **{name: fields[name] for name in _OPTIONAL if name in sampler},
        }
        return Order(
            # An absent negative prompt is an empty one here, not the model's own.
            wanted=msgspec.structs.replace(wanted, negative_prompt=wanted.negative_prompt or ""),
            origin=self.tasks.origin,
            alias=task_id,
            alias_unique=unique,
            only_if_idle=self.refuses,
            worker=self.worker,
            prefers="video",
            echo=echo,
            webhook=read_webhook(fields, lenient=True, place=place),
        )
