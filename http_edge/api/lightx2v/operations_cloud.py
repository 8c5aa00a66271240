"""The operations of LightX2V's cloud API."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from http_edge.api.common.openapi_types import (
    BODY,
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
from http_edge.api.common.operations import FILE_ANSWERS, RANGES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.operations_lightx2v import BY_TASK_ID, TASK_ID

_CLOUD = "LightX2V cloud"
_Status = Literal["ALL", "CREATED", "PENDING", "RUNNING", "SUCCEED", "FAILED", "CANCEL"]
_NEXT = ("cloudQuery", "cloudResultUrl", "cloudResult", "cloudCancelByGet", "cloudResumeByGet", "cloudDelete")


def _cloud(method: Method, word: str, name: str, summary: str) -> Operation:
    gone = word == "delete"
    by_body = method == "POST"
    return Operation(
        method=method,
        path=f"/api/v1/task/{word}",
        id=name,
        tag=_CLOUD,
        summary=summary,
        about="" if method == "GET" else "The id may come in the query or in a JSON body.",
        params=() if by_body else (BY_TASK_ID if gone else TASK_ID,),
        body=Body(type=lx.TaskIdRequest, forms=False) if by_body else None,
        answers={200: Answer(about="It is done.", types=(lx.CloudDeleted if gone else lx.CloudDone,))},
        errors=(*LOOKUP, *BODY, "unsupported", "forbidden", *(MAKE if word == "resume" else ())),
    )


CLOUD = (
    Operation(
        method="GET",
        path="/api/v1/model/list",
        id="cloudModels",
        tag=_CLOUD,
        summary="Which kind of task each model can do",
        answers={200: Answer(about="The models.", types=(lx.CloudModels,))},
        errors=BROKER,
    ),
    Operation(
        method="POST",
        path="/api/v1/task/submit",
        id="cloudSubmit",
        tag=_CLOUD,
        summary="Take a task",
        body=Body(type=lx.CloudRequest),
        answers={200: Answer(about="It was taken.", types=(lx.CloudTaken,), links=_NEXT)},
        errors=MAKE,
        keyed=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/task/query",
        id="cloudQuery",
        tag=_CLOUD,
        summary="One task, or several",
        params=(BY_TASK_ID, Param(name="task_ids", about="Several ids, with commas, at most 100.")),
        answers={200: Answer(about="The task, or the tasks that exist.", types=(lx.CloudTask, lx.CloudTasks))},
        errors=(*LOOKUP, *QUERY),
    ),
    Operation(
        method="GET",
        path="/api/v1/task/result_url",
        id="cloudResultUrl",
        tag=_CLOUD,
        summary="Where a finished task's file can be fetched",
        params=(TASK_ID, Param(name="name", about="output_video or output_image.")),
        answers={200: Answer(about="The address.", types=(lx.CloudUrl,))},
        errors=(*LOOKUP, *QUERY, "not_ready"),
    ),
    Operation(
        method="GET",
        path="/api/v1/task/list",
        id="cloudList",
        tag=_CLOUD,
        summary="A page of tasks, newest first",
        params=(
            Param(name="page", type=Annotated[int, Meta(ge=1, le=1_000_000)], about="From 1."),
            Param(name="page_size", type=Annotated[int, Meta(ge=1, le=100)], about="Default 10."),
            Param(name="status", type=_Status, about="Default ALL."),
        ),
        answers={200: Answer(about="The page.", types=(lx.CloudPage,))},
        errors=(*BROKER, *QUERY, "too_many_requests"),
    ),
    _cloud("GET", "cancel", "cloudCancelByGet", "Stop a task"),
    _cloud("POST", "cancel", "cloudCancel", "Stop a task"),
    _cloud("GET", "resume", "cloudResumeByGet", "Draw a failed or cancelled task once more"),
    _cloud("POST", "resume", "cloudResume", "Draw a failed or cancelled task once more"),
    _cloud("DELETE", "delete", "cloudDelete", "Delete a task that is over"),
    Operation(
        method="GET",
        path="/assets/task/result",
        id="cloudResult",
        tag=_CLOUD,
        summary="A finished task's file",
        params=(TASK_ID, Param(name="name", about="output_video or output_image."), *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, *QUERY),
    ),
)
