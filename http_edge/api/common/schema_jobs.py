"""Documents of the native API and of the service: requests as their readers take them, answers as `job_json` makes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from broker.wire.jobspec import Artefact, MediaKind, Scalar
from broker.wire.load import LoadSample
from broker.wire.loras import LoraMemory
from broker.wire.messages import JobStateName
from http_edge.api.common.schema_common import Hooked, NumberText, Priority, request_type

Seconds = Annotated[float, Meta(description="seconds")]
UnixTime = Annotated[float, Meta(description="Unix seconds")]


class _JobFields(Hooked, kw_only=True):
    """A job to submit. Only `prompt` is required; what is left out comes from the model's defaults. Unknown fields are refused."""

    id: (
        Annotated[
            str,
            Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Your own id: the same request again is the same job."),
        ]
        | None
    ) = None
    priority: Priority = None
    deadline_s: Annotated[
        Annotated[float, Meta(ge=0.001, le=2_678_400)] | NumberText | None,
        Meta(description="The job must be final within so many seconds."),
    ] = None


JobRequest = request_type("JobRequest", _JobFields, closed=True)


class JobTimings(Struct, kw_only=True):
    """Seconds: waiting, running, from submission to the end, and by stage of the engine."""

    queued_s: float | None
    run_s: float | None
    total_s: float | None
    stages: dict[str, float]


class JobError(Struct, kw_only=True):
    """Why a job failed."""

    code: str
    message: str


class JobFile(Artefact, frozen=True, kw_only=True):
    """A file of a job that succeeded."""

    url: str


class JobUrls(Struct, kw_only=True):
    """Where to go on with a job; paths on this server."""

    self: str
    events: str
    cancel: str
    result: str


class JobMove(Struct, kw_only=True, rename={"source": "from"}):
    """A move of a job from one state to another."""

    at: UnixTime
    source: Annotated[str | None, Meta(description="null: it was submitted")]
    to: str
    cause: str
    attempt: int
    worker: str | None
    note: str | None


class JobLora(Struct, kw_only=True):
    """A LoRA that a job is drawn with; `components` are those with a scale of their own."""

    name: str
    scale: float
    components: dict[str, float]


class JobSpecView(Struct, kw_only=True):
    """What a job draws, every default filled in."""

    model: str
    output: MediaKind
    prompt: Annotated[str, Meta(description="As it was asked for.")]
    #: What it is drawn with instead, where a prompt enhancer wrote that; absent where none did.
    enhanced_prompt: str | UnsetType = UNSET
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float | None
    guidance_scale_2: float | None
    max_sequence_length: int | None
    seed: int
    num_outputs: int
    preset: str
    cache: str
    loras: list[JobLora]
    extra: dict[str, Scalar]
    image: Scalar | UnsetType = UNSET
    save_to: Scalar | UnsetType = UNSET
    inputs: Annotated[
        dict[str, int] | UnsetType, Meta(description="How many further media of each kind it is drawn from.")
    ] = UNSET


class HookDelivery(Struct, kw_only=True):
    """One event of a webhook, and what became of it."""

    type: str
    state: Literal["pending", "sending", "delivered", "failed", "disabled"]
    attempts: int
    last_status: int | None
    last_error: str | None
    next_at: UnixTime | None


class JobSetAside(Struct, kw_only=True):
    """Why the service took a job that is not over out of its work, and since when: it waits for the operator."""

    reason: str
    at: UnixTime


class JobParking(Struct, kw_only=True):
    """Of a job that is, was, or is to be out of its engine though nothing is wrong with it."""

    reason: Annotated[
        Literal["paused", "draft", "preempted"] | None,
        Meta(
            description="Why it is parked: by its client, as a draft, or to make room for a shorter job; null: it is not."
        ),
    ]
    at: UnixTime | None
    requested: Annotated[bool, Meta(description="Whether its worker is to hand it back.")]
    committed: Annotated[bool, Meta(description="Whether its draft was committed.")]
    draft_expires_at: Annotated[UnixTime | None, Meta(description="When it fails, if its draft is not committed.")]
    preemptions: Annotated[int, Meta(description="How often it made room for a shorter job.")]


class JobWebhook(Struct, kw_only=True):
    """A job's webhook and its deliveries."""

    url: str
    wanted: list[str]
    events: list[HookDelivery]


class JobPromise(Struct, kw_only=True):
    """The time by which a job is promised to be done. One that cannot be kept is told at once, and another takes its place."""

    ready_by: UnixTime
    ready_confidence: float
    first_ready_by: Annotated[float | None, Meta(description="What was promised at first, once that was broken.")]
    broken_at: UnixTime | None


class JobEstimate(Struct, kw_only=True):
    """What would become of a job that came now; null means not known, and `unknown` says why."""

    object: Literal["estimate"]
    model: str
    position: Annotated[int, Meta(description="Jobs that would be given out before it.")]
    workers: Annotated[int, Meta(description="Workers that could run it.")]
    starts_at: UnixTime | None
    done_at: UnixTime | None
    ready_by: Annotated[float | None, Meta(description="The earliest end that could be promised.")]
    ready_within_s: Annotated[float | None, Meta(description="The same in seconds: the least that a job can ask for.")]
    ready_confidence: float
    takes_s: Annotated[float | None, Meta(description="Predicted run time, without loading the model.")]
    unknown: str | None


class Job(Struct, kw_only=True):
    """A job. `_at` are Unix seconds, `_s` durations; null means not known, or not yet."""

    id: str
    object: Literal["job"]
    state: JobStateName
    model: str
    output: MediaKind | None
    progress: Annotated[int, Meta(ge=0, le=100)]
    phase: str | None
    step: int
    total: int
    position: Annotated[int | None, Meta(description="Place in the queue, from 0.")]
    eta_s: float | None
    worker: str | None
    priority: int
    attempts: int
    crashes: int
    losses: int
    cancel_requested: bool
    kept: Annotated[int, Meta(description="Denoising steps in a checkpoint, from which its next attempt goes on.")]
    draft_steps: int | None
    parking: JobParking | None
    submitted_at: UnixTime
    started_at: UnixTime | None
    finished_at: UnixTime | None
    deadline_at: UnixTime | None
    ready_by: Annotated[
        float | None,
        Meta(description="When it is done, as promised; without a promise as predicted, with a confidence of 0.95."),
    ]
    promise: JobPromise | None
    expires_at: UnixTime | None
    timings: JobTimings
    set_aside: JobSetAside | None
    error: JobError | None
    spec: JobSpecView | None
    artefacts: list[JobFile]
    save_error: str | None
    warnings: Annotated[list[str], Meta(description="What of the request was changed or is ignored.")]
    used: Annotated[
        dict[str, str],
        Meta(
            description="What it was drawn with beside the model as it is stored: name -> words, as "
            '`"quantize": "transformer fp8"`. Empty until it is done.'
        ),
    ]
    webhook: JobWebhook | None
    preview: Annotated[
        str | None,
        Meta(description="Path of the newest picture of what is being drawn, where `previews` were asked for."),
    ]
    urls: JobUrls
    history: list[JobMove] | UnsetType = UNSET
    story: Annotated[
        list[JobMove] | UnsetType,
        Meta(description="The same as `history`, under its name of 0.1.0; it goes with the next version."),
    ] = UNSET


class JobStep(Struct, kw_only=True):
    """What changes while a job waits or runs."""

    id: str
    state: JobStateName
    progress: int
    phase: str | None
    step: int
    total: int
    position: int | None
    eta_s: float | None
    worker: str | None
    preview: str | None


class JobTaken(Job, kw_only=True):
    """A job that was submitted."""

    duplicate: Annotated[bool, Meta(description="Whether this very job was there before.")]


class JobPage(Struct, kw_only=True):
    """A page of jobs. `last_id` is the next page's `after`."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool
    first_id: str | None
    last_id: str | None


class JobCancel(Struct, kw_only=True):
    """What became of a cancel. `requested`: a worker is being told to stop."""

    id: str
    outcome: Literal["cancelled", "requested", "already_final"]
    job: Job


class JobControl(Struct, kw_only=True):
    """What became of a pause, a resume or a commit. `requested`: a worker is being told to hand the job back."""

    id: str
    outcome: Literal["done", "requested"]
    job: Job


class JobDeleted(Struct, kw_only=True):
    """A job that is no more."""

    id: str
    object: Literal["job.deleted"]
    deleted: Literal[True]


class JobPin(Struct, kw_only=True):
    """Whether a job is kept beyond its time and the disk quota."""

    id: str
    object: Literal["job.pin"]
    pinned: bool


# ---------------------------------------------------------------- the service


class Ready(Struct, kw_only=True):
    """A job sent now could run."""

    status: Literal["healthy"]
    workers_ready: int
    workers: int
    #: What an operator should look at: clocks that differ.
    warnings: list[str] | UnsetType = UNSET


class NotReady(Struct, kw_only=True):
    """A job sent now could not run, and why."""

    status: Literal["unhealthy"]
    reasons: list[str]


class Alive(Struct, kw_only=True):
    """The process answers."""

    status: Literal["alive"]


class WorkerJob(Struct, kw_only=True):
    """A job that a worker holds."""

    id: str
    phase: str | None
    step: int
    total: int


class WorkerLoading(Struct, kw_only=True):
    """Why a worker takes no job yet: its model is loaded, or called for the first time and compiled."""

    phase: Annotated[str, Meta(description="load, or warm_up: the first calls, in which what is compiled is.")]
    step: Annotated[int, Meta(description="Sizes of the warm-up that are done.")]
    total: int
    seconds: Annotated[float, Meta(description="Since its process began.")]
    error: Annotated[str | None, Meta(description="Why the last try to load the model failed; null: none did.")]


class Worker(Struct, kw_only=True):
    """A worker: its device, model, state, what it holds, and its counts since the broker started."""

    name: str
    object: Literal["worker"]
    state: str
    device: str
    gpus: int
    host: str
    pid: int
    engine: str
    model: str | None
    models: list[str]
    job: str | None
    jobs: list[WorkerJob]
    free: int
    heartbeat_age_s: float
    memory_used_mb: float
    memory_total_mb: float
    utilisation: float | None
    temperature_c: float | None
    succeeded: int
    failed: int
    cancelled: int
    tripped_s: Annotated[float, Meta(description="Seconds it still gets no job because several failed there; else 0.")]
    benched_s: Annotated[
        float, Meta(description="The same as `tripped_s`, under its name of 0.1.0; it goes with the next version.")
    ]
    failed_in_a_row: Annotated[int, Meta(description="Jobs that failed there, and only there, since one succeeded.")]
    power_w: Annotated[float | None, Meta(description="Power that its device draws; null where not known.")]
    power_limit_w: float | None
    clock_mhz: Annotated[float | None, Meta(description="Clock of the device's multiprocessors.")]
    clock_max_mhz: float | None
    throttled: Annotated[list[str], Meta(description="Why the device's clocks are held back now, as `power_cap`.")]
    ecc_uncorrected: Annotated[
        int | None, Meta(description="Memory errors that could not be corrected since the driver was loaded.")
    ]
    xids: Annotated[
        dict[str, int],
        Meta(description="Errors that the GPU's driver reported since the worker started: Xid, how often."),
    ]
    fault: Annotated[str | None, Meta(description="Why its device is broken and it gets no jobs; null: it is not.")]
    loaded_loras: Annotated[
        list[str], Meta(description="LoRAs beside the weights of `model`, the most recently used first.")
    ]
    lora_memory: Annotated[
        LoraMemory, Meta(description="MB up to which it keeps LoRAs: as read, and beside the weights of each model.")
    ]
    versions: Annotated[
        dict[str, str], Meta(description="Libraries that have a part in what it draws, and their versions.")
    ]
    loading: Annotated[
        WorkerLoading | None, Meta(description="What keeps it from taking a job; null: its engine is not loading.")
    ]


class RecipeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A file of a result."""

    file: Annotated[bytes, Meta(description="A PNG, JPEG, WebP or MP4 as this service gave it.")]


class RecipeAnswer(Struct, kw_only=True):
    """What a file was drawn with."""

    object: Literal["recipe"]
    request: Annotated[
        dict[str, Any],
        Meta(description="Body of a `POST /v1/jobs` that draws it again; its inputs are yet to be added."),
    ]
    repeatable: Annotated[
        bool, Meta(description="Whether that gives the same picture here: there are no `differences`.")
    ]
    differences: Annotated[
        list[str], Meta(description="Why the request would be refused here, or draw another picture; a sentence each.")
    ]
    pipeline: str | None
    used: Annotated[dict[str, str], Meta(description="As `used` of the job.")]
    inputs: Annotated[
        dict[str, list[str]],
        Meta(
            description="Pictures and clips that it was drawn from: field -> SHA-256 of each, as the service kept it."
        ),
    ]
    versions: dict[str, str]


class CredentialsAnswer(Struct, kw_only=True):
    """What a file's content credentials say, and whether they hold."""

    object: Literal["credentials"]
    state: Literal["valid", "untrusted", "invalid"]
    failures: Annotated[
        list[str],
        Meta(description="What does not hold, in the codes of the C2PA specification: `assertion.dataHash.mismatch`."),
    ]
    generated: Annotated[bool, Meta(description="Whether they say that a model made it, or a part of it.")]
    source_type: Annotated[
        str | None,
        Meta(description="Where it came from, in IPTC's words: `trainedAlgorithmicMedia` for all that a model made."),
    ]
    issuer: Annotated[str | None, Meta(description="The organisation in the certificate of the signer.")]
    signer: Annotated[str | None, Meta(description="The name in that certificate.")]
    generator: Annotated[str | None, Meta(description="The program that wrote them, and its version.")]
    unsigned_sha256: Annotated[
        str | None,
        Meta(description="SHA-256 of the file before it was signed: the same for every file that was drawn alike."),
    ]
    recipe: Annotated[
        dict[str, Any] | None, Meta(description="What it was drawn with, as this service wrote it, where it says so.")
    ]


class QueueNumbers(Struct, kw_only=True):
    """The queue: jobs by state, and the seconds of work in it."""

    counts: dict[str, int]
    by_model: Annotated[dict[str, int], Meta(description="Jobs that are queued, by model.")]
    backlog_by_model: Annotated[
        dict[str, float],
        Meta(description="Predicted GPU-seconds of them, by model: what the workers of one model scale by."),
    ]
    backlog_s: float
    wait_s: float


class WorkerList(Struct, kw_only=True):
    """Every worker, and the queue in numbers."""

    object: Literal["list"]
    data: list[Worker]
    queue: QueueNumbers
    epoch: int


class LoadSamples(Struct, kw_only=True):
    """How busy the pool was over the last hour."""

    object: Literal["list"]
    data: list[LoadSample]
    period_s: float


class Index(Struct, kw_only=True):
    """What is here."""

    name: str
    version: str
    links: dict[str, str]
