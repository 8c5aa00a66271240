"""The routes that LightX2V's first server had in its distributed variant only: a form with a file, and downloads.

It answered 200 to everything, errors too, with a `status` of the fault. Its `get_task_result` looked for keys that never were
in its records and so never found a file; here it sends the file.
"""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.operations import RANGES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.downloads import find_by_path, result_response
from http_edge.api.lightx2v.operations import BY_TASK_ID, FILE_OR_NOT, GEN1, GEN1_TAKEN, IMAGE, PATH
from http_edge.api.lightx2v.submissions import TaskSubmitter
from http_edge.api.lightx2v.task_fields import MAX_TASK_ID_CHARS
from http_edge.api.lightx2v.video_tasks import BASE, Gen1
from http_edge.base.error_table import Kind
from http_edge.base.errors import EdgeError
from http_edge.body.fields import Reader
from http_edge.body.forms import read_fields
from http_edge.body.json_body import json_response, read_object
from http_edge.http.operation import BODY, DOWNLOAD, MAKE, Body, Param, again, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService

#: Kinds of error that have a name of their own in a file's answer.
_FILE_STATUS: dict[Kind, Literal["forbidden", "not_found"]] = {
    "forbidden": "forbidden",
    "not_found": "not_found",
    "not_ready": "not_found",
}


class LightX2VDistApi:
    """Handlers of the distributed variant's own routes."""

    def __init__(self, calls: JobService, submitter: TaskSubmitter) -> None:
        self._calls = calls
        self._gen1 = Gen1(calls)
        self._groups = (self._gen1.tasks, submitter.tasks)

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/local/video/generate_form", POST=self.generate_form),
            route(
                f"{BASE}/get_task_result",
                GET=self.get_task_result,
                POST=again(
                    self.get_task_result,
                    "gen1TaskResultByBody",
                    params=RANGES,
                    body=Body(type=lx.TaskIdRequest, forms=False),
                ),
            ),
            route("/v1/file/download/{path:path}", GET=self.download),
            route(
                "/v1/file/download",
                GET=again(
                    self.download, "gen1DownloadByQuery", params=(Param(name="file_path", about="The path."), *RANGES)
                ),
            ),
        ]

    @operation(
        "gen1GenerateForm",
        GEN1,
        params=tuple(Param(name=name) for name in ("task_id", "prompt", "save_video_path", "negative_prompt")),
        body=Body(type=lx.Gen1FormRequest, files=IMAGE, json=False, required=False),
        answers=GEN1_TAKEN,
        errors=MAKE,
        keyed=True,
    )
    async def generate_form(self, request: Request) -> Response:
        """Take a task: scalars in the query or in the form, the picture as `image_file`."""
        query = dict(request.query_params)
        place = "query" if query else "body"
        if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            return await self._gen1.generate(query, place=place)
        async with await read_fields(request) as fields:
            values = {**fields.values, **query}
            return await self._gen1.generate(values, fields, place=place)

    @operation("gen1TaskResult", GEN1, params=(BY_TASK_ID, *RANGES), answers=FILE_OR_NOT, errors=(*DOWNLOAD, *BODY))
    async def get_task_result(self, request: Request) -> Response:
        """A finished task's file.

        The id may come in the query or in a JSON body, whatever the method.
        """
        if "task_id" in request.query_params:
            reader = Reader(request.query_params, place="query")
        else:
            reader = Reader(await read_object(request))
        task_id = reader.required_text("task_id", max_chars=MAX_TASK_ID_CHARS)
        job = await self._gen1.tasks.find(task_id)
        if job is None or job.view.state != "succeeded":
            return _not_found("Task result not found")
        try:
            return await result_response(self._calls, request, job)
        except EdgeError as error:
            return _file_error(error)

    @operation(
        "gen1Download",
        GEN1,
        params=(PATH, *RANGES),
        answers=FILE_OR_NOT,
        errors=DOWNLOAD,
    )
    async def download(self, request: Request) -> Response:
        """A result by its path."""
        path = request.path_params.get("path") or request.query_params.get("file_path", "")
        try:
            job = await find_by_path(self._calls, path, *self._groups)
            return await result_response(self._calls, request, job)
        except EdgeError as error:
            return _file_error(error)


def _file_error(error: EdgeError) -> Response:
    if error.kind in ("precondition_failed", "range_not_satisfiable"):
        raise error
    return json_response(lx.FileStatus(status=_FILE_STATUS.get(error.kind, "error"), message=error.message))


def _not_found(message: str) -> Response:
    return json_response(lx.FileStatus(status="not_found", message=message))
