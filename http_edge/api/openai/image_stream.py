"""A picture's drawing as server-sent events: real previews while it is denoised, then the finished pictures.

The engine puts previews into the attempt's directory (`job_files.preview_name`); each is sent once, in order, when it is there, and removed
when the stream ends. A job that is tried again shows no preview twice. Models that cannot give previews give none. The job is
cancelled when its client leaves.
"""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from broker.wire.job_files import preview_name
from http_edge.api.common.error_bodies import error_member
from http_edge.api.common.job_json import warnings_of
from http_edge.api.common.sse import STREAM_HEADERS
from http_edge.api.common.waiting import cancel_quietly
from http_edge.api.openai.pictures import Pictures, Presentation, appearance, usage
from http_edge.api.openai.schema_openai import ImageEvent
from http_edge.api.openai.views import measured, model_of
from http_edge.api.openai.waiting_results import succeeded, unfinished
from http_edge.base.errors import EdgeError
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.media.thumbnails import Format, encoded

#: How often the attempt's directory is looked at.
_LOOK_S = 0.25


class DrawingStream(StreamingResponse):
    """The events of one image job. `prefix`, of their types, is `image_generation` or `image_edit`."""

    def __init__(self, calls: JobService, pictures: Pictures, job: Job, how: Presentation, prefix: str) -> None:
        super().__init__(self._events(), media_type="text/event-stream", headers=STREAM_HEADERS)
        self._calls = calls
        self._pictures = pictures
        self._job = job
        self._how = how
        self._prefix = prefix
        self._shown: set[int] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The client left, or the server is being stopped: its previews are not read any more.
            if not self._job.is_final:
                await cancel_quietly(self._calls, self._job.id)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove_previews, self._directory(), self._previews())

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._drawing():
                yield event
            job = succeeded(self._job)
            async for event in self._finished(job):
                yield event
        except EdgeError as error:
            yield _block("error", _error(error))

    async def _drawing(self) -> AsyncIterator[bytes]:
        """Previews and keep-alives until the job has ended. Raises `EdgeError`."""
        settings = self._calls.settings
        sent_at = time.monotonic()
        deadline = sent_at + settings.sync_timeout_s
        async with contextlib.aclosing(self._calls.follower.follow(self._job.id, _LOOK_S)) as versions:
            async for version in versions:
                self._job = version or self._job
                async for event in self._new_previews():
                    yield event
                    sent_at = time.monotonic()
                if self._job.is_final:
                    return
                if time.monotonic() > deadline:
                    break
                if time.monotonic() - sent_at >= settings.keep_alive_s:
                    yield b": keep-alive\n\n"
                    sent_at = time.monotonic()
        raise unfinished(self._calls, self._job.id, settings.sync_timeout_s)

    async def _new_previews(self) -> AsyncIterator[bytes]:
        for number in range(1, self._previews() + 1):
            if number in self._shown:
                continue
            path = self._directory() / preview_name(number)
            data = await anyio.to_thread.run_sync(_read_preview, path, self._how.format, self._how.quality)
            if data is None:
                continue
            self._shown.add(number)
            output, index = divmod(number - 1, self._how.previews)
            body = self._body("partial_image", data, output)
            body.partial_image_index = index
            yield _block(body.type, body)

    async def _finished(self, job: Job) -> AsyncIterator[bytes]:
        assert job.view.result is not None
        for index, artefact in enumerate(job.view.result.artefacts):
            body = self._body("completed", await self._pictures.b64(job, artefact, self._how), index)
            took = measured(job)
            body.usage, body.warnings = usage(job), list(warnings_of(job))
            body.inference_time_s, body.stage_durations = took.inference_time_s, took.stage_durations
            body.peak_memory_mb, body.num_outputs = took.peak_memory_mb, took.num_outputs
            yield _block(body.type, body)

    def _body(self, event: str, picture: str, output: int) -> ImageEvent:
        look = appearance(self._job, self._how)
        return ImageEvent(
            type=f"{self._prefix}.{event}",
            id=self._job.id,
            b64_json=picture,
            created_at=int(time.time()),
            model=model_of(self._job),
            background=look.background,
            output_format=look.output_format,
            quality=look.quality,
            size=look.size,
            output_index=output,
        )

    def _previews(self) -> int:
        outputs = self._job.spec.num_outputs if self._job.spec else 1
        return self._how.previews * outputs

    def _directory(self) -> Path:
        view = self._job.view
        return self._calls.settings.artefacts_path / view.id / str(view.fence)


def _read_preview(path: Path, to: Format, quality: int | None) -> str | None:
    """A preview as base64 in this format; None while it is not there. Blocks."""
    try:
        data = path.read_bytes()
        if to != "png":
            with Image.open(io.BytesIO(data)) as image:
                data = encoded(image, to, quality)
    except OSError:
        return None
    return base64.b64encode(data).decode("ascii")


def _remove_previews(directory: Path, count: int) -> None:
    """Remove a job's previews, which are no artefacts. Blocks."""
    for number in range(1, count + 1):
        with contextlib.suppress(OSError):
            (directory / preview_name(number)).unlink(missing_ok=True)


def _error(error: EdgeError) -> dict[str, Any]:
    return {"type": "error", "error": error_member(error)}


def _block(event: str, data: Any) -> bytes:
    # JSON escapes line ends inside strings, so the data is one line.
    return f"event: {event}\n".encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
