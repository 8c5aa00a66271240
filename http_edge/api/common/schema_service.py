"""Documents about the service itself: health, workers, queue, load, recipes and content credentials of files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from broker.wire.load import LoadSample
from broker.wire.loras import LoraMemory


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
    """Reason why a worker takes no job yet: its model is loaded, or called for the first time and compiled."""

    phase: Annotated[
        str,
        Meta(
            description='load, or warm_up: the first calls, in which what is compiled is; "": its process is not started yet.'
        ),
    ]
    step: Annotated[int, Meta(description="Sizes of the warm-up that are done.")]
    total: int
    seconds: Annotated[float, Meta(description="Since its process began.")]
    error: Annotated[
        str | None,
        Meta(
            description="Why the last try to load the model failed, or what it waits for (machines of its group); null: neither."
        ),
    ]


class WorkerDepot(Struct, kw_only=True):
    """Results of a worker that are not in the depot yet, and jobs whose inputs have not come from there."""

    results: int
    size_mb: Annotated[float, Meta(description="Of these results, on the worker's disk.")]
    inputs: Annotated[int, Meta(description="Jobs that wait for their inputs.")]
    seconds: Annotated[float, Meta(description="Since the first of these jobs was given to the worker.")]
    fault: Annotated[str | None, Meta(description="Why the last try failed; null: none did.")]
    full: Annotated[bool, Meta(description="Whether the worker takes no job because of these results.")]


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
    depot: Annotated[
        WorkerDepot | None,
        Meta(description="What waits for the depot; null: nothing does, or the depot is its own disk."),
    ]


class RecipeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A file of a result."""

    file: Annotated[bytes, Meta(description="A PNG, JPEG, WebP or MP4 as this service gave it.")]


class RecipeAnswer(Struct, kw_only=True):
    """Recipe of a file: the request that drew it."""

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
    """Content credentials of a file, and whether they hold."""

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


class ClassBacklog(Struct, kw_only=True):
    """Jobs waiting for one model and one class of workers."""

    device: Annotated[str | None, Meta(description="Card of these workers; null: no worker could run these jobs.")]
    size: Annotated[int, Meta(description="GPUs that each of these workers has, or that the jobs need.")] = field(
        name="gpus"
    )
    waiting: Annotated[int, Meta(description="Jobs that are queued.")]
    backlog_s: Annotated[float, Meta(description="Predicted seconds that workers need for them.")]
    workers: Annotated[int, Meta(description="Workers of the class that can run the model.")]
    busy: Annotated[int, Meta(description="Those of them that are at a job with the model in memory.")]


class QueueNumbers(Struct, kw_only=True):
    """The queue: jobs by state, and the seconds of work in it."""

    counts: dict[str, int]
    by_model: Annotated[dict[str, int], Meta(description="Jobs that are queued, by model.")]
    backlog_by_model: Annotated[
        dict[str, float],
        Meta(
            description="Predicted seconds that workers need for them, by model: what the workers of one model scale by."
        ),
    ]
    backlog_by_class: Annotated[
        dict[str, dict[str, ClassBacklog]],
        Meta(
            description="The same by model and class of workers (GPUs of a worker and card, `1x-nvidia-h100-80gb-hbm3`): each job counts"
            " for the smallest class that can run it, of equally large ones for that with the most workers."
        ),
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
    """Load of the pool over the last hour."""

    object: Literal["list"]
    data: list[LoadSample]
    period_s: float


class Index(Struct, kw_only=True):
    """Index of the service."""

    name: str
    version: str
    links: dict[str, str]
