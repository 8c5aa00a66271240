"""The operations of LightX2V's servers, three generations."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from http_edge.api.common.openapi_types import (
    BODY,
    BROKER,
    DOWNLOAD,
    FILES,
    JSON,
    LOOKUP,
    MAKE,
    WAIT,
    Answer,
    Body,
    Method,
    Operation,
    Param,
)
from http_edge.api.common.operations import FILE_ANSWERS, RANGES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.video_tasks import BASE

_GEN1, _TASKS = "LightX2V, first generation", "LightX2V tasks"
_IMAGE = {"image_file": False}
_TASK_ID = Annotated[str, Meta(max_length=lx.MAX_TASK_ID_CHARS)]

_ID = Param(name="id", place="path", required=True, about="The task's id.")
BY_TASK_ID = Param(name="task_id", type=_TASK_ID, about="The task's id.")
TASK_ID = Param(name="task_id", type=_TASK_ID, about="The task's id.", required=True)
_PATH = Param(name="path", place="path", required=True, about="A task's id, or where it was asked to save its result.")
_GEN1_NEXT = ("gen1TaskStatusByQuery", "gen1TaskResult")
_STOPPED = {200: Answer(about="What became of it.", types=(lx.StopAnswer,))}
_FILE_OR_NOT = {
    200: Answer(about="The file, or why there is none.", types=(lx.FileStatus,), media=(*FILES, JSON)),
    **FILE_ANSWERS,
}


def _task_status(method: Method, name: str) -> Operation:
    by_body = method == "POST"
    return Operation(
        method=method,
        path=f"{BASE}/task_status",
        id=name,
        tag=_GEN1,
        summary="How a task is, with its record when it is over",
        params=() if by_body else (TASK_ID,),
        body=Body(type=lx.TaskIdRequest, forms=False) if by_body else None,
        answers={200: Answer(about="How it is.", types=(lx.Gen1Status,))},
        errors=(*BROKER, *BODY),
    )


def _task_result(method: Method, name: str) -> Operation:
    by_body = method == "POST"
    return Operation(
        method=method,
        path=f"{BASE}/get_task_result",
        id=name,
        tag=_GEN1,
        summary="A finished task's file",
        about="The id may come in the query or in a JSON body, whatever the method.",
        params=RANGES if by_body else (BY_TASK_ID, *RANGES),
        body=Body(type=lx.TaskIdRequest, forms=False) if by_body else None,
        answers=_FILE_OR_NOT,
        errors=(*DOWNLOAD, *BODY),
    )


GEN1 = (
    Operation(
        method="POST",
        path=BASE,
        id="gen1Generate",
        tag=_GEN1,
        summary="Take a task, while a worker is free",
        body=Body(type=lx.Gen1Request),
        answers={200: Answer(about="It was taken, or `error` says why not.", types=(lx.Gen1Taken,), links=_GEN1_NEXT)},
        errors=MAKE,
        keyed=True,
    ),
    Operation(
        method="POST",
        path="/v1/local/video/generate_form",
        id="gen1GenerateForm",
        tag=_GEN1,
        summary="Take a task: scalars in the query or in the form, the picture as `image_file`",
        params=tuple(Param(name=name) for name in ("task_id", "prompt", "save_video_path", "negative_prompt")),
        body=Body(type=lx.Gen1FormRequest, files=_IMAGE, json=False, required=False),
        answers={200: Answer(about="It was taken, or `error` says why not.", types=(lx.Gen1Taken,), links=_GEN1_NEXT)},
        errors=MAKE,
        keyed=True,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/service_status",
        id="gen1ServiceStatus",
        tag=_GEN1,
        summary="Idle while a task would be taken at once",
        answers={200: Answer(about="Idle or busy.", types=(lx.ServiceStatus,))},
        errors=BROKER,
    ),
    _task_status("POST", "gen1TaskStatus"),
    _task_status("GET", "gen1TaskStatusByQuery"),
    Operation(
        method="GET",
        path=f"{BASE}/get_all_tasks",
        id="gen1Tasks",
        tag=_GEN1,
        summary="The finished tasks by id",
        answers={200: Answer(about="The records.", types=(dict[str, lx.Gen1Record],))},
        errors=(*BROKER, "too_many_requests"),
    ),
    Operation(
        method="GET",
        path=f"{BASE}/stop_running_task",
        id="gen1Stop",
        tag=_GEN1,
        summary="Stop what runs, and answer when it has really stopped",
        params=(Param(name="task_id", about="Only this task."),),
        answers=_STOPPED,
        errors=("forbidden",),
    ),
    _task_result("GET", "gen1TaskResult"),
    _task_result("POST", "gen1TaskResultByBody"),
    Operation(
        method="GET",
        path="/v1/file/download/{path}",
        id="gen1Download",
        tag=_GEN1,
        summary="A result by its path",
        params=(_PATH, *RANGES),
        answers=_FILE_OR_NOT,
        errors=DOWNLOAD,
    ),
    Operation(
        method="GET",
        path="/v1/file/download",
        id="gen1DownloadByQuery",
        tag=_GEN1,
        summary="A result by its path",
        params=(Param(name="file_path", about="The path."), *RANGES),
        answers=_FILE_OR_NOT,
        errors=DOWNLOAD,
    ),
)


def _create(path: str, name: str, what: str) -> Operation:
    taken = Answer(about="The task.", types=(lx.TaskTaken,), links=("showTask", "downloadTask", "stopTask"))
    return Operation(
        method="POST",
        path=path,
        id=name,
        tag=_TASKS,
        summary=f"Take {what}",
        body=Body(type=lx.TaskRequest, files=_IMAGE),
        answers={200: taken, 202: Answer(about="The same, with `Prefer: respond-async`.", types=(lx.TaskTaken,))},
        errors=MAKE,
        prefer=True,
        keyed=True,
    )


def _stop(path: str, name: str, summary: str, *params: Param) -> Operation:
    return Operation(method="DELETE", path=path, id=name, tag=_TASKS, summary=summary, params=params, answers=_STOPPED)


TASKS = (
    _create("/v1/tasks", "createTask", "a task"),
    _create("/v1/tasks/form", "createTaskForm", "a task"),
    _create("/v1/tasks/video", "createVideoTask", "a video task"),
    _create("/v1/tasks/video/form", "createVideoTaskForm", "a video task"),
    _create("/v1/tasks/image", "createImageTask", "an image task"),
    _create("/v1/tasks/image/form", "createImageTaskForm", "an image task"),
    Operation(
        method="POST",
        path="/v1/tasks/image/sync",
        id="drawImageTask",
        tag=_TASKS,
        summary="Draw an image, and wait for it",
        params=(
            Param(name="timeout_seconds", type=Annotated[int, Meta(ge=1, le=86_400)], about="Default 600."),
            Param(name="poll_interval_seconds", type=Annotated[float, Meta(gt=0)], about="Without effect."),
        ),
        body=Body(type=lx.SyncTaskRequest, files=_IMAGE),
        answers={
            200: Answer(about="The image, or where it was put.", types=(lx.UploadedTask,), media=("image/png", JSON))
        },
        errors=(*MAKE, *WAIT, "upload_failed", "too_large"),
        keyed=True,
    ),
    Operation(
        method="GET",
        path="/v1/tasks",
        id="listTasks",
        tag=_TASKS,
        summary="All tasks by id",
        answers={200: Answer(about="The tasks.", types=(dict[str, lx.TaskStatus],))},
        errors=(*BROKER, "too_many_requests"),
    ),
    Operation(
        method="GET",
        path="/v1/tasks/queue/status",
        id="showTaskQueue",
        tag=_TASKS,
        summary="The queue in numbers",
        answers={200: Answer(about="The queue.", types=(lx.TaskQueue,))},
        errors=BROKER,
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{id}/status",
        id="showTask",
        tag=_TASKS,
        summary="One task",
        params=(_ID,),
        answers={200: Answer(about="The task.", types=(lx.TaskStatus,))},
        errors=LOOKUP,
        prefer=True,
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{id}/result",
        id="downloadTask",
        tag=_TASKS,
        summary="A finished task's file",
        params=(_ID, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=DOWNLOAD,
    ),
    _stop("/v1/tasks/{id}", "stopTask", "Stop one task", _ID),
    _stop("/v1/tasks/all/running", "stopAllTasks", "Stop every task, waiting or running"),
    _stop("/v1/tasks/running", "stopRunningTasks", "Stop what runs; what waits goes on waiting"),
    Operation(
        method="GET",
        path="/v1/service/status",
        id="showTaskService",
        tag=_TASKS,
        summary="Idle or busy, and the service in numbers",
        answers={200: Answer(about="The service.", types=(lx.TaskService,))},
        errors=BROKER,
    ),
    Operation(
        method="GET",
        path="/v1/service/metadata",
        id="showTaskMetadata",
        tag=_TASKS,
        summary="The model that tasks get",
        answers={200: Answer(about="The model.", types=(lx.ServiceMetadata,))},
        errors=BROKER,
    ),
    Operation(
        method="GET",
        path="/v1/files/download/{path}",
        id="downloadByPath",
        tag=_TASKS,
        summary="A result by its path",
        params=(_PATH, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "forbidden"),
    ),
)
