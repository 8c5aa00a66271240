"""Submission of tasks of LightX2V's first generation: its server and its distributed variant read the same fields.

That server ran one task at a time and answered 200 to everything but validation. Here a task is taken only while a worker is free, unless
the setting `lightx2v_admission` is queue. The newest job of a task id answers for it: "the newer record replaces the older".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from broker.wire.inputs import ROLES
from broker.wire.jobspec import Scalar
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.task_fields import GEN1_POLICY, MAX_TASK_ID_CHARS, with_upload
from http_edge.api.lightx2v.views import GEN1_ORIGIN, Tasks, origin_of, warnings_member
from http_edge.base.errors import EdgeError
from http_edge.base.limits import MAX_PATH_CHARS
from http_edge.body.fields import Reader, missing
from http_edge.body.forms import Fields, Upload
from http_edge.body.json_body import json_response
from http_edge.jobs.fields import FIELDS, NAMES
from http_edge.jobs.generation_reader import read_generation
from http_edge.jobs.input_files import fields_of, input_files, with_files
from http_edge.jobs.service import JobService
from http_edge.jobs.specs import echoed_image
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, read_webhook

BASE = "/v1/local/video/generate"

ORIGIN = GEN1_ORIGIN

_REQUIRED = ("task_id", "prompt", "save_video_path")
_OWN = ("task_id", "task_id_must_unique", "num_fragments", *WEBHOOK_FIELDS)

#: Fields of the record whether they were sent or not.
_RECORDED = ("prompt", "negative_prompt", "image", "save_to", *ROLES)


class Gen1:
    """The tasks of the first generation, and how one more is taken."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self.worker = calls.settings.worker
        self.refuses = calls.settings.lightx2v_admission == "refuse"
        self.tasks = Tasks(calls, origin_of(ORIGIN, self.worker), unique=False)

    async def generate(
        self, values: Mapping[str, Any], fields: Fields | None = None, *, place: str = "body"
    ) -> Response:
        """Take a task, with the picture among the files of `fields`; the server's answer. Raises `EdgeError`."""
        upload = fields.upload(*FIELDS["image"].names) if fields else None
        submission = self._read(values, upload, fields.uploads if fields else {}, place)
        if fields:
            submission = msgspec.structs.replace(
                submission, inputs=await self._calls.inputs.uploaded(input_files(fields.uploads))
            )
        if upload is not None:
            image = await self._calls.inputs.image(upload.field, upload, allow_paths=False)
            generation = with_upload(submission.generation, upload)
            echo = {**submission.echo, "image_path": upload.file_name}
            submission = msgspec.structs.replace(submission, generation=generation, image=image, echo=echo)
        try:
            job, _ = await self._calls.submit(submission)
        except EdgeError as error:
            if error.kind in ("busy", "queue_full"):
                return json_response(lx.Gen1Taken(error="Service busy"))
            if error.kind == "alias_taken":
                return json_response(lx.Gen1Taken(error=f"Task ID {submission.alias} already exists"))
            raise
        answer = lx.Gen1Taken(
            task_id=submission.alias,
            task_status="processing",
            save_video_path=str(submission.echo["save_video_path"]),
            warnings=warnings_member(job),
        )
        return json_response(answer)

    def _read(
        self, values: Mapping[str, Any], upload: Upload | None, files: Mapping[str, list[Upload]], place: str
    ) -> Submission:
        """The submission in a request. Raises `EdgeError`."""
        absent = [name for name in _REQUIRED if values.get(name) is None]
        if absent:
            raise missing(absent, place=place)
        options = Reader(values, place=place)
        task_id = options.required_text("task_id", max_chars=MAX_TASK_ID_CHARS, min_chars=1)
        save_path = options.required_text("save_video_path", max_chars=MAX_PATH_CHARS, min_chars=1)
        inputs = input_files(files)
        own = (*_OWN, *(() if upload is None else (upload.field,)), *fields_of(inputs))
        reading = read_generation(values, GEN1_POLICY, own=own, files=files, place=place)
        generation = with_files(reading.generation, values, inputs)
        unique = options.flag("task_id_must_unique") or False
        fragments = options.integer("num_fragments", 1, 1_000_000)
        echo: dict[str, Scalar] = {
            "task_id": task_id,
            "task_id_must_unique": unique,
            "prompt": generation.prompt,
            "use_prompt_enhancer": generation.use_prompt_enhancer or False,
            "negative_prompt": generation.negative_prompt or "",
            "image_path": echoed_image(generation.image),
            "num_fragments": 1 if fragments is None else fragments,
            "save_video_path": save_path,
            **_sampler(values),
        }
        return Submission(
            # An absent negative prompt is an empty one here, not the model's own.
            generation=msgspec.structs.replace(generation, negative_prompt=generation.negative_prompt or ""),
            warnings=reading.warnings,
            origin=self.tasks.origin,
            alias=task_id,
            alias_unique=unique,
            only_if_idle=self.refuses,
            worker=self.worker,
            prefers="video",
            echo=echo,
            webhook=read_webhook(values, place=place),
        )


def _sampler(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Sampler fields that the first server did not have, as they were sent: honoured, and repeated in the record."""
    unrecorded = {*_RECORDED, *GEN1_POLICY.without}
    return {
        name: value
        for name, value in values.items()
        if NAMES.get(name, name) in FIELDS.keys() - unrecorded and isinstance(value, str | int | float)
    }
