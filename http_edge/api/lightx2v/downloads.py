"""Downloads of tasks' results, by task and by the paths that LightX2V's clients take them to have."""

from __future__ import annotations

from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.job_files import job_file
from http_edge.api.lightx2v.views import Tasks, result_name
from http_edge.base.errors import EdgeError
from http_edge.http.file_response import download
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.media.artefacts import find_artefact
from http_edge.media.exports import SUFFIXES

#: Where LightX2V's servers kept results in their own directories; clients put these before a file name.
_FOLDERS = ("", ".", "outputs", "outputs/videos", "outputs/images", "videos", "images", "save_results")

_MAX_PATH_CHARS = 4096


async def result_response(calls: JobService, request: Request, job: Job) -> Response:
    """The file of a task that is completed. Raises `EdgeError`."""
    try:
        index, artefact = find_artefact(job.view)
        file = job_file(calls, job, index, artefact, name=result_name(job), inline=False)
        return await download(request, file)
    except EdgeError as error:
        if error.kind in ("gone", "not_found"):
            raise EdgeError("not_found", "Task result file does not exist", param="task_id") from None
        raise


async def find_by_path(calls: JobService, path: str, *tasks: Tasks) -> Job:
    """The completed task whose result a path means: its id (with or without a suffix), or the path that it was saved to.

    Raises `EdgeError` `forbidden` for a path out of the output directories, `not_found` for one where no task's result is.
    """
    if path and len(path) <= _MAX_PATH_CHARS and "\0" not in path:
        job = await _named(PurePosixPath(path), tasks) or await _saved(calls, path)
        if job is not None and job.view.state == "succeeded":
            return job
    raise EdgeError("not_found", f"File not found: {path[:200]}", param="path", place="path")


async def _named(path: PurePosixPath, tasks: tuple[Tasks, ...]) -> Job | None:
    """The task that the path's last part is the id of."""
    if str(path.parent) not in _FOLDERS:
        return None
    names = [path.name]
    if path.suffix in SUFFIXES.values():
        names.append(path.stem)
    for name in names:
        for group in tasks:
            job = await group.find(name)
            if job is not None and (name == path.name or path.suffix == PurePosixPath(result_name(job)).suffix):
                return job
    return None


async def _saved(calls: JobService, path: str) -> Job | None:
    """The job whose result lies at this path, as far as this service wrote it there."""
    job_id = await calls.jobs.saved_at(path)
    if job_id is None:
        return None
    try:
        return await calls.jobs.get(job_id)
    except EdgeError as error:
        if error.kind == "not_found":
            return None
        raise
