"""The operations of LightX2V's APIs, all generations."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from http_edge import schema_lightx2v as lx
from http_edge.lightx2v_gen1 import BASE
from http_edge.openapi_types import (
    BODY,
    BROKER,
    DOWNLOAD,
    FILES,
    JSON,
    LOOKUP,
    MAKE,
    QUERY,
    WAIT,
    Answer,
    Body,
    Method,
    Operation,
    Param,
)
from http_edge.operations_jobs import FILE_ANSWERS, RANGES

_GEN1, _TASKS, _CLOUD = "LightX2V, first generation", "LightX2V tasks", "LightX2V cloud"
_IMAGE = {"image_file": False}
_TASK_ID = Annotated[str, Meta(max_length=lx.MAX_TASK_ID_CHARS)]

_ID = Param(name="id", place="path", required=True, about="The task's id.")
_BY_ID = Param(name="task_id", type=_TASK_ID, about="The task's id.")
_NAMED = Param(name="task_id", type=_TASK_ID, about="The task's id.", required=True)
_PATH = Param(name="path", place="path", required=True, about="A task's id, or where it was asked to save its result.")
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
        params=() if by_body else (_NAMED,),
        body=Body(type=lx.TaskIdRequest, forms=False) if by_body else None,
        answers={200: Answer(about="How it is.", types=(lx.Gen1Status,))},
        errors=(*BROKER, *BODY),
    )


def _task_result(method: Method, name: str) -> Operation:
    return Operation(
        method=method,
        path=f"{BASE}/get_task_result",
        id=name,
        tag=_GEN1,
        summary="A finished task's file",
        about="The id comes in the query, or in a JSON body, also of a GET.",
        params=(_BY_ID, *RANGES),
        body=Body(type=lx.TaskIdRequest, forms=False, required=False) if method == "POST" else None,
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
        answers={200: Answer(about="It was taken, or `error` says why not.", types=(lx.Gen1Taken,))},
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
        answers={200: Answer(about="It was taken, or `error` says why not.", types=(lx.Gen1Taken,))},
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
        errors=BROKER,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/stop_running_task",
        id="gen1Stop",
        tag=_GEN1,
        summary="Stop what runs, and answer when it has really stopped",
        params=(Param(name="task_id", about="Only this task."),),
        answers=_STOPPED,
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
    taken = Answer(about="The task.", types=(lx.TaskTaken,))
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
    return Operation(
        method="DELETE", path=path, id=name, tag=_TASKS, summary=summary, params=params, answers=_STOPPED
    )


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
            200: Answer(
                about="The image, or where it was put.", types=(lx.UploadedTask,), media=("image/png", JSON)
            )
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
        errors=BROKER,
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


def _cloud(method: Method, word: str, name: str, summary: str) -> Operation:
    gone = word == "delete"
    with_body = method != "GET"
    return Operation(
        method=method,
        path=f"/api/v1/task/{word}",
        id=name,
        tag=_CLOUD,
        summary=summary,
        params=(_BY_ID if with_body else _NAMED,),
        body=Body(type=lx.TaskIdRequest, forms=False, required=False) if method == "POST" else None,
        answers={200: Answer(about="It is done.", types=(lx.CloudDeleted if gone else lx.CloudDone,))},
        errors=(*LOOKUP, *BODY, "unsupported", *(MAKE if word == "resume" else ())),
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
        answers={200: Answer(about="It was taken.", types=(lx.CloudTaken,))},
        errors=MAKE,
        keyed=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/task/query",
        id="cloudQuery",
        tag=_CLOUD,
        summary="One task, or several",
        params=(_BY_ID, Param(name="task_ids", about="Several ids, with commas, at most 100.")),
        answers={200: Answer(about="The task, or the tasks that exist.", types=(lx.CloudTask, lx.CloudTasks))},
        errors=(*LOOKUP, *QUERY),
    ),
    Operation(
        method="GET",
        path="/api/v1/task/result_url",
        id="cloudResultUrl",
        tag=_CLOUD,
        summary="Where a finished task's file can be fetched",
        params=(_NAMED, Param(name="name", about="output_video or output_image.")),
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
            Param(name="status", about="ALL (default) or a task's status."),
        ),
        answers={200: Answer(about="The page.", types=(lx.CloudPage,))},
        errors=(*BROKER, *QUERY),
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
        params=(_NAMED, Param(name="name", about="output_video or output_image."), *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, *QUERY),
    ),
)
