"""Videos of OpenAI's API: jobs of origin `openai-videos`, looked up, shown, and answered when they are made."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.waiting import awaited, is_fresh, with_prefer
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai import views as shapes
from http_edge.base.errors import EdgeError, not_found
from http_edge.body.json_body import json_response
from http_edge.http.operation import Answer, Param, Tag
from http_edge.http.prefer import read_prefer
from http_edge.http.routing import base_url
from http_edge.jobs.job import Job
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService

TAG = Tag("Videos", "OpenAI's Videos API, with the fields of vLLM-Omni and SGLang.")

VIDEO = Param(name="id", place="path", required=True, about="The video's id.")
_NEXT = ("showVideo", "downloadVideo", "remixVideo", "deleteVideo")
TAKEN = {
    200: Answer(about="The video, queued.", types=(openai.Video,), links=_NEXT),
    202: Answer(about="The same, with `Prefer: respond-async`.", types=(openai.Video,), links=_NEXT),
}


class Videos:
    """The videos of one edge."""

    def __init__(self, calls: JobService, progress: Progress) -> None:
        self._calls = calls
        self._progress = progress

    async def find(self, video_id: str) -> Job:
        """The video of this id: a job of this API. Raises `EdgeError`."""
        try:
            job = await self._calls.jobs.get(video_id)
        except EdgeError as error:
            raise not_found("video", video_id) if error.kind == "not_found" else error from None
        if job.view.submission.origin != shapes.VIDEO_ORIGIN:
            raise not_found("video", video_id)
        return job

    def view(self, job: Job, base: str | None) -> openai.Video:
        """Build the `Video` object. `base`: as of `base_url`."""
        return shapes.video_json(job, self._progress, base)

    def json(self, job: Job, base: str | None) -> bytes:
        """Encode the `Video` object, once for each `base`."""
        return job.json(f"video {base}", lambda job: self.view(job, base))

    async def created(self, request: Request, job: Job) -> Response:
        """Answer the creation of a video."""
        prefer = read_prefer(request)
        job = await awaited(self._calls, request, prefer, job)
        body = shapes.video_json(job, self._progress, self.base_url(request), fresh=is_fresh(prefer, job))
        headers = {"openai-poll-after-ms": shapes.poll_after_ms(job.view)}
        return with_prefer(json_response(body, headers=headers), prefer, job, f"/v1/videos/{job.id}")

    def base_url(self, request: Request) -> str | None:
        """Return what links to a video's file begin with; None: there are no links, as they would need a key."""
        return None if self._calls.settings.keys_path else base_url(request, self._calls.settings.public_url)
