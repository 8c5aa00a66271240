"""The operations of the native API and of the service itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from broker.wire.messages import JobStateName
from http_edge.api.common import schema_jobs as jobs
from http_edge.api.common.openapi_types import (
    BROKER,
    DOWNLOAD,
    FILES,
    LOOKUP,
    MAKE,
    QUERY,
    Answer,
    Body,
    Method,
    Operation,
    Param,
)
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, FOLLOW, FOLLOWED, ORDER, RANGES

_JOB = Param(name="id", place="path", required=True, about="The job's id.")

_WORKER = Param(name="name", place="path", required=True, about="The worker's name.")

_NEXT = ("showJob", "followJob", "downloadJobResult", "pinJob", "showJobPin", "unpinJob", "cancelJob", "deleteJob")


def _pin(method: Method, name: str, summary: str) -> Operation:
    return Operation(
        method=method,
        path="/v1/jobs/{id}/pin",
        id=name,
        tag="Jobs",
        summary=summary,
        params=(_JOB,),
        answers={200: Answer(about="Whether it is kept.", types=(jobs.JobPin,))},
        errors=(*LOOKUP, "unsupported"),
    )


JOBS = (
    Operation(
        method="POST",
        path="/v1/jobs",
        id="createJob",
        tag="Jobs",
        summary="Submit a job",
        about="200 with the job, also when this very job was there before.",
        body=Body(type=jobs.JobRequest, files={"image": False}),
        answers={
            200: Answer(about="The job.", types=(jobs.JobTaken,), links=_NEXT),
            202: Answer(about="The job, with `Prefer: respond-async`.", types=(jobs.JobTaken,), links=_NEXT),
        },
        errors=MAKE,
        prefer=True,
        keyed=True,
    ),
    Operation(
        method="GET",
        path="/v1/jobs",
        id="listJobs",
        tag="Jobs",
        summary="A page of jobs",
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=0, le=200)], about="At most so many; default 20."),
            AFTER,
            ORDER,
            Param(name="state", type=list[JobStateName], about="Of these states; commas may stand between them."),
            Param(name="model", type=Annotated[str, Meta(max_length=256)], about="Of this model."),
            Param(name="worker", type=Annotated[str, Meta(max_length=128)], about="Of this worker."),
        ),
        answers={200: Answer(about="The page.", types=(jobs.JobPage,))},
        errors=(*BROKER, *QUERY, "too_many_requests"),
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{id}",
        id="showJob",
        tag="Jobs",
        summary="One job, with its story",
        params=(_JOB,),
        answers={200: Answer(about="The job.", types=(jobs.Job,))},
        errors=LOOKUP,
        prefer=True,
    ),
    Operation(
        method="DELETE",
        path="/v1/jobs/{id}",
        id="deleteJob",
        tag="Jobs",
        summary="Cancel a job, or delete it",
        about="With `purge` record and files go, a job that is not over being cancelled first; it is 404 from then on.",
        params=(_JOB, Param(name="purge", type=bool, about="Delete it; default false: only cancel it.")),
        answers={200: Answer(about="What became of it.", types=(jobs.JobCancel, jobs.JobDeleted))},
        errors=(*LOOKUP, *QUERY, "still_stopping"),
    ),
    Operation(
        method="POST",
        path="/v1/jobs/{id}/cancel",
        id="cancelJob",
        tag="Jobs",
        summary="Cancel a job",
        params=(_JOB,),
        answers={200: Answer(about="What became of it.", types=(jobs.JobCancel,))},
        errors=LOOKUP,
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{id}/events",
        id="followJob",
        tag="Jobs",
        summary="A job's changes as server-sent events",
        about="`state` events hold the whole job, `progress` events what moves. The stream ends after the final event.",
        params=(_JOB, *FOLLOW),
        answers=FOLLOWED,
        errors=LOOKUP,
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{id}/result",
        id="downloadJobResult",
        tag="Jobs",
        summary="A file of a finished job",
        params=(
            _JOB,
            Param(name="name", type=Annotated[str, Meta(max_length=128)], about="The file's name."),
            Param(name="index", type=Annotated[int, Meta(ge=0, le=1000)], about="Its number, from 0."),
            *RANGES,
        ),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=DOWNLOAD,
    ),
    _pin("GET", "showJobPin", "Whether a job is kept beyond its time"),
    _pin("PUT", "pinJob", "Keep a job beyond its time and the disk quota"),
    _pin("DELETE", "unpinJob", "Let a job go when its time comes"),
)


def _health(path: str, name: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        id=name,
        tag="Service",
        summary="Whether a job sent now could run",
        answers={
            200: Answer(about="It could.", types=(jobs.Ready,)),
            503: Answer(about="It could not.", types=(jobs.NotReady,)),
        },
    )


def _alive(path: str, name: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        id=name,
        tag="Service",
        summary="Whether the process answers",
        answers={200: Answer(about="It does.", types=(jobs.Alive,))},
    )


SERVICE = (
    _health("/health", "showHealth"),
    _health("/readyz", "showReadiness"),
    _health("/healthz", "showHealthz"),
    _health("/health_generate", "showHealthGenerate"),
    _alive("/livez", "showLiveness"),
    _alive("/liveness", "showLivenessAlias"),
    Operation(
        method="GET",
        path="/v1/workers",
        id="listWorkers",
        tag="Service",
        summary="Every worker, and the queue in numbers",
        answers={200: Answer(about="The workers.", types=(jobs.WorkerList,))},
        errors=(*BROKER, "too_many_requests"),
    ),
    Operation(
        method="POST",
        path="/v1/workers/{name}/drain",
        id="drainWorker",
        tag="Service",
        summary="Let a worker finish what it holds and leave",
        params=(_WORKER,),
        about="It takes no more jobs. `GET /v1/workers` shows it until it has left.",
        answers={202: Answer(about="The worker, `draining`.", types=(jobs.Worker,))},
        errors=(*BROKER, "forbidden", "not_found"),
    ),
    Operation(
        method="GET",
        path="/metrics",
        id="showMetrics",
        tag="Service",
        summary="Metrics for Prometheus",
        answers={200: Answer(about="The metrics.", types=(str,), media=("text/plain", "application/openmetrics-text"))},
        errors=("too_many_requests",),
    ),
    Operation(
        method="GET",
        path="/",
        id="showIndex",
        tag="Service",
        summary="What is here",
        about="Browsers are led to /docs.",
        answers={
            200: Answer(about="The index.", types=(jobs.Index,)),
            307: Answer(about="To /docs, where `Accept` asks for HTML first."),
        },
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        id="showOpenApi",
        tag="Service",
        summary="This document",
        params=(RANGES[1],),
        answers={
            200: Answer(about="The document.", types=(dict,)),
            304: Answer(about="The copy of which `If-None-Match` is the ETag is good."),
        },
    ),
    Operation(
        method="GET",
        path="/docs",
        id="showDocs",
        tag="Service",
        summary="This document as a page",
        params=(RANGES[1],),
        answers={
            200: Answer(about="The page.", types=(str,), media=("text/html",)),
            304: Answer(about="The copy of which `If-None-Match` is the ETag is good."),
        },
    ),
)
