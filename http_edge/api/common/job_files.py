"""Files of jobs as answers: beside the file, a header lists what of the request was changed or ignored."""

from __future__ import annotations

import json

import msgspec

from broker.wire.jobspec import Artefact
from http_edge.api.common.job_json import warnings_of
from http_edge.http.file_response import Download
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.jobs.urls import urls

WARNINGS_HEADER = "X-Zoetrope-Warnings"

#: Longest value, characters: proxies take 4 KiB for all headers of an answer together.
_MOST_CHARS = 2048


def warnings_header(job: Job) -> dict[str, str]:
    """The job's warnings as a JSON list in ASCII; no header where there are none. Those that find no room are counted in the last entry."""
    warnings = warnings_of(job)
    if not warnings:
        return {}
    value = json.dumps(warnings)
    kept = len(warnings)
    while len(value) > _MOST_CHARS:
        kept -= 1
        value = json.dumps([*warnings[:kept], f"{len(warnings) - kept} more: GET {urls(job.id)['self']}"])
    return {WARNINGS_HEADER: value}


def with_warnings(file: Download, job: Job) -> Download:
    """A file made by this job, to be sent with the job's warnings."""
    return msgspec.structs.replace(file, headers=warnings_header(job))


def job_file(
    calls: JobService, job: Job, index: int, artefact: Artefact, *, name: str = "", inline: bool = True
) -> Download:
    """An artefact of a job as a file to send. `name`: what the client should call it, if not by its job."""
    file = calls.results.file(job.view, index, artefact, name=name, inline=inline)
    return with_warnings(file, job)
