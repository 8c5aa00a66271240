"""Documents of LightX2V's APIs, all generations. Requests are read leniently; unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from http_edge.lightx2v_shapes import MAX_TASK_ID_CHARS
from http_edge.openapi_types import FlagText, NumberText, WholeText
from http_edge.schema_common import Fps, Frames, Hooked, NegativePrompt, Prompt, Scale, Seed, Side, Steps
from http_edge.specs import MAX_PATH_CHARS

TaskId = Annotated[str, Meta(min_length=1, max_length=MAX_TASK_ID_CHARS)]
SavePath = Annotated[str, Meta(max_length=MAX_PATH_CHARS, description="Where to save the result.")] | None
Flag = bool | FlagText | None
Fragments = Annotated[int, Meta(ge=1, le=1_000_000)] | WholeText | None
ImagePath = Annotated[str | None, Meta(description="A path, URL, data URL or base64.")]
Shape = Annotated[
    list[int | WholeText] | str | None, Meta(description="[height, width] in pixels.", examples=[[480, 832]])
]
Duration = Annotated[float, Meta(ge=0.001, le=3600)] | NumberText | None
TaskWord = Literal["t2v", "i2v", "t2i", "i2i"]


class Gen1Request(Hooked, kw_only=True):
    """A task of the first generation."""

    task_id: Annotated[str, Meta(min_length=1, max_length=MAX_TASK_ID_CHARS, pattern=r"\S")]
    prompt: Prompt
    save_video_path: Annotated[
        str, Meta(min_length=1, max_length=MAX_PATH_CHARS, pattern=r"\S", description="Where to save the video (.mp4).")
    ]
    task_id_must_unique: Flag = None
    use_prompt_enhancer: Flag = None
    negative_prompt: NegativePrompt = None
    image_path: ImagePath = None
    num_fragments: Fragments = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    infer_steps: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    num_frames: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    target_video_length: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    width: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    height: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    fps: Annotated[float, Meta(ge=1, le=240)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=100)] | None = None


class Gen1FormRequest(Struct, kw_only=True):
    """A task of the first generation in a form; what it leaves out comes in the query."""

    image_file: str | None = None
    task_id: Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS)] | None = None
    prompt: str | None = None
    save_video_path: SavePath = None
    negative_prompt: NegativePrompt = None


class TaskIdRequest(Struct, kw_only=True):
    """Names a task."""

    task_id: Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS)]


class Gen1Taken(Struct, kw_only=True):
    """A task of the first generation was taken; or `error` says why not (`Service busy`)."""

    task_id: str | UnsetType = UNSET
    task_status: Literal["processing"] | UnsetType = UNSET
    save_video_path: str | UnsetType = UNSET
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


class Gen1Status(Struct, kw_only=True):
    """How a task is, with its record when it is over."""

    task_status: Literal["processing", "completed", "not_found"]
    success: bool | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    start_time: str | UnsetType = UNSET
    completion_time: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class StopAnswer(Struct, kw_only=True):
    """What became of a request to stop."""

    stop_status: Literal["success", "do_nothing", "warning", "error"]
    reason: str


class FileStatus(Struct, kw_only=True):
    """Why there is no file: the distributed variant answers 200 to errors too."""

    status: Literal["forbidden", "not_found", "error"]
    message: str


# ---------------------------------------------------------------- second and third generation


class TaskRequest(Hooked, kw_only=True):
    """A task of the second or third generation. Numbers may be text."""

    prompt: Prompt
    task: TaskWord | None = None
    task_id: (
        Annotated[str, Meta(max_length=MAX_TASK_ID_CHARS, pattern=r"^[^/]*$", description="One is made when absent.")]
        | None
    ) = None
    negative_prompt: NegativePrompt = None
    model: Annotated[str, Meta(max_length=256)] | None = None
    image_path: ImagePath = None
    save_result_path: SavePath = None
    save_video_path: SavePath = None
    infer_steps: Steps = None
    num_inference_steps: Steps = None
    sample_guide_scale: Scale = None
    guidance_scale: Scale = None
    guidance_scale_2: Scale = None
    seed: Seed = None
    width: Side = None
    height: Side = None
    size: Shape = None
    target_shape: Shape = None
    custom_shape: Shape = None
    aspect_ratio: Annotated[str, Meta(max_length=16, description='As in "16:9".')] | None = None
    use_prompt_enhancer: Flag = None
    num_fragments: Fragments = None
    target_video_length: Frames = None
    num_frames: Frames = None
    target_fps: Fps = None
    fps: Fps = None
    video_duration: Duration = None


class SyncTaskRequest(TaskRequest, kw_only=True):
    """An image task whose client waits."""

    presigned_url: Annotated[str, Meta(max_length=8192, description="Where to PUT the image.")] | None = None


class TaskTaken(Struct, kw_only=True):
    """A task that was taken."""

    task_id: str
    task_status: Literal["pending", "processing", "completed", "failed", "cancelled"]
    save_result_path: str
    save_video_path: str
    warnings: list[str] | UnsetType = UNSET


class TaskStatus(Struct, kw_only=True):
    """A task: the fields of both generations. Times are local, ISO 8601 without a zone."""

    task_id: str
    status: Literal["pending", "processing", "completed", "failed", "cancelled"]
    success: bool | None
    start_time: str
    end_time: str | None
    completion_time: str | None
    error: str | None
    error_type: str
    progress: Annotated[float, Meta(ge=0, le=1)]
    save_result_path: str
    save_video_path: str


class UploadedTask(Struct, kw_only=True):
    """An image that was put where its client asked."""

    task_id: str
    task_status: Literal["completed"]
    uploaded_to_presigned_url: Literal[True]
    presigned_url: str


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


class CloudRequest(Hooked, kw_only=True):
    """A task of the cloud API."""

    task: TaskWord
    prompt: Prompt
    model_cls: Annotated[str, Meta(max_length=256)] | None = None
    stage: str | None = None
    negative_prompt: NegativePrompt = None
    seed: Seed = None
    aspect_ratio: Annotated[str, Meta(max_length=16)] | None = None
    input_image: CloudImage | str | None = None
    infer_steps: Steps = None
    cfg_scale: Scale = None
    custom_shape: Shape = None
    video_duration: Duration = None


class CloudTaken(Struct, kw_only=True):
    """A task that was taken."""

    task_id: str
    workers: dict[str, Any]
    params: dict[str, Any]
    wait_time: float


class CloudTask(Struct, kw_only=True):
    """A task with its only subtask. `_t` are Unix seconds."""

    task_id: str
    task_type: str
    model_cls: str
    stage: str
    params: dict[str, Any]
    status: Literal["PENDING", "RUNNING", "SUCCEED", "FAILED", "CANCEL"]
    create_t: float
    update_t: float
    inputs: dict[str, str]
    outputs: dict[str, str]
    extra_info: dict[str, Any]
    tag: str
    subtasks: list[dict[str, Any]]


class CloudTasks(Struct, kw_only=True):
    """Several tasks."""

    tasks: list[CloudTask]


class CloudPagination(Struct, kw_only=True):
    """Where a page is."""

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
    """Where a task's file can be fetched."""

    url: str


class CloudDone(Struct, kw_only=True):
    """It is done."""

    msg: str


class CloudDeleted(Struct, kw_only=True):
    """A task that is no more."""

    message: str
