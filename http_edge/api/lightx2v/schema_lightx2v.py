"""Documents of LightX2V's APIs, all generations. Requests are read leniently; unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from http_edge.api.common.schema_common import ErrorMember, FaultItem, FlagText, Hooked, WholeText, request_type
from http_edge.api.lightx2v.task_fields import GEN1_POLICY, MAX_TASK_ID_CHARS, POLICY
from http_edge.base.limits import MAX_PATH_CHARS

SavePath = Annotated[str, Meta(max_length=MAX_PATH_CHARS, description="Where to save the result.")] | None
Flag = bool | FlagText | None
Fragments = Annotated[int, Meta(ge=1, le=1_000_000)] | WholeText | None
TaskState = Literal["pending", "processing", "completed", "failed", "cancelled"]
TaskName = Literal["t2v", "i2v", "t2i", "i2i"]


class _Gen1Fields(Hooked, kw_only=True):
    """A task of the first generation."""

    task_id: Annotated[str, Meta(min_length=1, max_length=MAX_TASK_ID_CHARS, pattern=r"\S", examples=["cat-1"])]
    save_video_path: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PATH_CHARS,
            pattern=r"\S",
            description="Where to save the video (.mp4).",
            examples=["cat.mp4"],
        ),
    ]
    task_id_must_unique: Flag = None
    use_prompt_enhancer: Flag = None
    num_fragments: Fragments = None


Gen1Request = request_type("Gen1Request", _Gen1Fields, without=GEN1_POLICY.without, height_first=True)


class Gen1FormRequest(Struct, kw_only=True):
    """A task of the first generation in a form; what it leaves out comes in the query."""

    image_file: str | None = None
    task_id: Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS)] | None = None
    prompt: str | None = None
    save_video_path: SavePath = None
    negative_prompt: str | None = None


class TaskIdRequest(Struct, kw_only=True):
    """Names a task."""

    task_id: Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS, examples=["cat-1"])]


class Gen1Taken(Struct, kw_only=True):
    """A task of the first generation was taken; or `error` is the reason why not (`Service busy`)."""

    task_id: str | UnsetType = UNSET
    task_status: Literal["processing"] | UnsetType = UNSET
    save_video_path: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class ServiceStatus(Struct, kw_only=True):
    """Idle while a task would be taken at once."""

    service_status: Literal["idle", "busy"]
    task_id: str | UnsetType = UNSET


class Gen1Record(Struct, kw_only=True):
    """A finished task as the first server kept it; a failed or stopped one has `error` and no `completion_time`."""

    success: bool
    message: dict[str, Any]
    start_time: str
    completion_time: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class Gen1Status(Struct, kw_only=True):
    """State of a task, with its record when it is over."""

    task_status: Literal["processing", "completed", "not_found"]
    success: bool | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    start_time: str | UnsetType = UNSET
    completion_time: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


StopStatus = Literal["success", "do_nothing", "warning", "error"]


class StopAnswer(Struct, kw_only=True):
    """Outcome of a request to stop."""

    stop_status: StopStatus
    reason: str


class FileStatus(Struct, kw_only=True):
    """Reason why there is no file: the distributed variant answers 200 to errors too."""

    status: Literal["forbidden", "not_found", "error"]
    message: str


# ---------------------------------------------------------------- second and third generation


class _TaskFields(Hooked, kw_only=True):
    """A task of the second or third generation."""

    task: TaskName | None = None
    task_id: (
        Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS, pattern=r"^[^/]*$", description="One is made when absent.")]
        | None
    ) = None
    use_prompt_enhancer: Flag = None
    num_fragments: Fragments = None


class _SyncTaskFields(_TaskFields, kw_only=True):
    """An image task whose client waits."""

    presigned_url: Annotated[str, Meta(max_length=8192, description="Where to PUT the image.")] | None = None


TaskRequest = request_type("TaskRequest", _TaskFields, without=POLICY.without, height_first=True)
SyncTaskRequest = request_type("SyncTaskRequest", _SyncTaskFields, without=POLICY.without, height_first=True)


class TaskTaken(Struct, kw_only=True):
    """A task that was taken."""

    task_id: str
    task_status: TaskState
    save_result_path: str
    save_video_path: str
    warnings: list[str] | UnsetType = UNSET


class TaskStatus(Struct, kw_only=True):
    """A task: the fields of both generations. Times are local, ISO 8601 without a zone."""

    task_id: str
    status: TaskState
    success: bool | None
    start_time: str
    end_time: str | None
    completion_time: str | None
    error: str | None
    error_type: str
    progress: Annotated[float, Meta(ge=0, le=1)]
    save_result_path: str
    save_video_path: str
    warnings: list[str] | UnsetType = UNSET


class UploadedTask(Struct, kw_only=True):
    """An image that was put to its client's URL."""

    task_id: str
    task_status: Literal["completed"]
    uploaded_to_presigned_url: Literal[True]
    presigned_url: str
    warnings: list[str] | UnsetType = UNSET


class NoTask(Struct, kw_only=True):
    """There is no task of this id; scripts read `status` whatever the HTTP status."""

    detail: str
    status: Literal["not_found"]
    task_id: str
    error: ErrorMember


class TaskQueue(Struct, kw_only=True):
    """The queue in numbers."""

    is_processing: bool
    current_task: str | None
    pending_count: int
    active_count: int
    queue_size: int
    queue_available: int


class TaskService(Struct, kw_only=True):
    """The service in numbers."""

    service_status: Literal["idle", "busy"]
    task_id: str | None
    start_time: str | None
    current_task: str | None
    active_tasks: list[str]
    pending_tasks: int
    queue_size: int
    total_tasks: int
    completed_tasks: int
    failed_tasks: int


class ServiceMetadata(Struct, kw_only=True):
    """The model that tasks get, and how many GPUs there are."""

    nproc_per_node: int
    model_cls: str | None
    model_path: str | None
    models: list[str]


# ---------------------------------------------------------------- the cloud API


class CloudImage(Struct, kw_only=True):
    """A picture: its URL, or its bytes as base64."""

    data: str
    type: Literal["url", "base64"] = "url"


class _CloudFields(Hooked, kw_only=True):
    """A task of the cloud API."""

    task: TaskName
    stage: str | None = None
    input_image: CloudImage | str | None = None


CloudRequest = request_type(
    "CloudRequest", _CloudFields, without=POLICY.without | {"image", "save_to"}, height_first=True
)


class CloudTaken(Struct, kw_only=True):
    """A task that was taken."""

    task_id: str
    workers: dict[str, Any]
    params: dict[str, Any]
    wait_time: float
    warnings: list[str] | UnsetType = UNSET


CloudStatus = Literal["PENDING", "RUNNING", "SUCCEED", "FAILED", "CANCEL"]


class CloudTask(Struct, kw_only=True):
    """A task with its only subtask. `_t` are Unix seconds."""

    task_id: str
    task_type: str
    model_cls: str
    stage: str
    params: dict[str, Any]
    status: CloudStatus
    create_t: float
    update_t: float
    inputs: dict[str, str]
    outputs: dict[str, str]
    extra_info: dict[str, Any]
    tag: str
    warnings: list[str] | UnsetType = UNSET
    subtasks: list[dict[str, Any]]


class CloudTasks(Struct, kw_only=True):
    """Several tasks."""

    tasks: list[CloudTask]


class CloudPagination(Struct, kw_only=True):
    """Position of a page."""

    page: int
    page_size: int
    total: int
    total_pages: int


class CloudPage(CloudTasks, kw_only=True):
    """A page of tasks, newest first."""

    pagination: CloudPagination


class CloudModel(Struct, kw_only=True):
    """A kind of task that a model can do."""

    task: str
    model_cls: str
    stage: str
    supported_plans: list[str]


class CloudModels(Struct, kw_only=True):
    """Which kind of task each model can do."""

    models: list[CloudModel]


class CloudUrl(Struct, kw_only=True):
    """Address of a task's file."""

    url: str


class CloudDone(Struct, kw_only=True):
    """It is done."""

    msg: str


class CloudDeleted(Struct, kw_only=True):
    """A task that is no more."""

    message: str


# ---------------------------------------------------------------- errors


class LightX2VError(Struct, kw_only=True):
    """An error of the first generation."""

    error: str | UnsetType = UNSET
    detail: str | list[FaultItem] | UnsetType = UNSET


class TasksError(Struct, kw_only=True):
    """An error of the second and third generation."""

    detail: str | list[FaultItem]
    error: ErrorMember


class CloudError(Struct, kw_only=True):
    """An error of the cloud API."""

    message: str
    detail: str
    error: ErrorMember
