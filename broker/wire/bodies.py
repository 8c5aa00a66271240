"""The bodies of messages: structs encoded as msgpack maps, whose unknown keys are skipped."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from broker.wire.device import DeviceHealth
from broker.wire.failures import FailureKind
from broker.wire.jobspec import ModelCard, Phase, Result
from broker.wire.loras import LoraMemory, LoraNames
from broker.wire.promises import Promise
from broker.wire.submission import Submission
from broker.wire.terms import (
    Count,
    DeliveryState,
    DepotWait,
    Fence,
    Held,
    Id,
    JobStateName,
    Loading,
    ParkedName,
    Short,
    WebhookEvent,
    WorkerStateName,
)


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """Body of `Hello`: what does not change while the agent lives."""

    host: Short = ""
    pid: int = 0
    #: Product name: "NVIDIA H100", "cpu".
    device: Short = ""
    #: GPUs behind this worker (1 for a CPU worker).
    gpus: Count = 1
    version: Short = ""
    models: Annotated[tuple[ModelCard, ...], Meta(max_length=64)] = ()
    lora_memory: LoraMemory = LoraMemory()
    #: Library that has a part in what is drawn -> its version, this service's own among them.
    versions: Annotated[dict[Short, Short], Meta(max_length=16)] = msgspec.field(default_factory=dict)


class HistoryEntry(Struct, frozen=True, array_like=True, gc=False):
    """One line of a job's history: when it moved, between which states, why, in which attempt, on which worker."""

    at: float
    source: str
    target: str
    cause: str
    attempt: int = 0
    worker: str = ""
    note: str = ""
    #: GPUs of that worker; 0: none has the job yet, or they are not known.
    gpus: int = 0


class Failure(Struct, frozen=True):
    """Failure of a job: its class, and a sentence."""

    kind: FailureKind
    message: str = ""


class SetAside(Struct, frozen=True):
    """Reason why the broker took a live job out of its work, and since when. It waits for its operator, and is not over."""

    reason: str
    at: float = 0.0


class Parking(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a job that is, was, or is to be parked."""

    #: Why it is parked, and since when; "": it is not.
    reason: ParkedName = ""
    at: float = 0.0
    #: Its worker is to hand it back.
    requested: bool = False
    #: Whether its draft was committed; when one that is not expires (0: it does not).
    committed: bool = False
    draft_expires_at: float = 0.0
    #: Fence of the attempt whose files show the draft; 0: there is none.
    draft_fence: int = 0
    #: How often it made room for a shorter job.
    preemptions: int = 0


class ClaimedDelivery(Struct, frozen=True, kw_only=True):
    """One webhook delivery, given to one edge."""

    #: Names the event, over all attempts; never given twice.
    number: Fence
    #: Names this claim.
    claim: Fence
    job_id: Id
    event: WebhookEvent
    #: When it happened.
    created_at: float
    #: Attempts begun, this one included.
    attempts: Count


class DeliveryView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A webhook delivery, as sent to edges."""

    event: WebhookEvent
    state: DeliveryState
    attempts: int = 0
    #: HTTP status of the last answer; 0 when there was none.
    status: int = 0
    #: What went wrong last.
    note: str = ""
    #: An edge is at it.
    sending: bool = False
    #: When it is tried (again); 0 when it is not, or is being tried.
    next_at: float = 0.0


class JobView(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job, as sent to edges."""

    id: str
    state: JobStateName
    submission: Submission
    #: Grows with every visible change of this job, over broker restarts too: (epoch << 32) + n.
    revision: int
    #: Attempts begun; crashes and losses among them.
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    cancel_requested: bool = False
    fence: int = 0
    #: Name of the worker that holds it, or that ended it.
    worker: str = ""
    phase: Phase = ""
    step: int = 0
    total: int = 0
    #: Jobs ahead of it in the queue; -1 when it does not wait.
    position: int = -1
    #: Predicted seconds until it is final; -1 when not known.
    eta_s: float = -1.0
    submitted_at: float = 0.0
    #: Start and end of the last attempt and of the job; 0 when not yet.
    started_at: float = 0.0
    finished_at: float = 0.0
    deadline_at: float = 0.0
    run_s: float = 0.0
    #: Denoising steps that lie in a checkpoint, from which its next attempt goes on.
    kept: int = 0
    #: None where it is in no park.
    parking: Parking | None = None
    failure: Failure | None = None
    result: Result | None = None
    history: tuple[HistoryEntry, ...] = ()
    #: The spec's bytes (`jobspec.decode_spec`); empty in events.
    body: bytes = b""
    #: Deliveries to its webhook so far. Empty in events.
    deliveries: tuple[DeliveryView, ...] = ()
    #: None: it is not.
    set_aside: SetAside | None = None
    #: Why its record cannot be read, and nothing else here is to be relied on; "": it can.
    damaged: str = ""
    #: When it is final with the confidence of its promise, or with `promises.CONFIDENCE` without one; 0: not known, or it is over.
    ready_by: float = 0.0
    promise: Promise | None = None


class JobUpdate(Struct, frozen=True, array_like=True, gc=False):
    """A job as an `Event` has it: its `JobView` but for spec, history, deliveries and what only a job on disk has.

    By position, as it goes to every edge with every change of every job; the broker writes it as a tuple (`core.views.job_update`).
    """

    id: str
    state: JobStateName
    submission: Submission
    revision: int
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    cancel_requested: bool = False
    fence: int = 0
    worker: str = ""
    phase: Phase = ""
    step: int = 0
    total: int = 0
    position: int = -1
    eta_s: float = -1.0
    submitted_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    deadline_at: float = 0.0
    run_s: float = 0.0
    kept: int = 0
    ready_by: float = 0.0
    parking: Parking | None = None
    failure: Failure | None = None
    result: Result | None = None
    promise: Promise | None = None

    def view(self) -> JobView:
        """The job's view, as far as an event has it."""
        return JobView(**asdict(self))


class Admission(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Fields that the broker adds to a submission when it makes a job of it, which is queued then."""

    revision: int
    position: int
    eta_s: float
    submitted_at: float
    deadline_at: float
    ready_by: float = 0.0
    promise: Promise | None = None

    def view(self, job_id: str, submission: Submission, body: bytes) -> JobView:
        """The job's view at that moment."""
        return JobView(
            id=job_id,
            state="queued",
            submission=submission,
            revision=self.revision,
            position=self.position,
            eta_s=self.eta_s,
            submitted_at=self.submitted_at,
            deadline_at=self.deadline_at,
            ready_by=self.ready_by,
            promise=self.promise,
            history=(HistoryEntry(self.submitted_at, "", "queued", "submitted"),),
            body=body,
        )


class WorkerView(Struct, frozen=True, kw_only=True):
    """A worker, as sent to edges."""

    name: str
    state: WorkerStateName
    device: str = ""
    gpus: int = 1
    host: str = ""
    pid: int = 0
    engine: str = ""
    #: The model in memory; the cards of all it can run.
    model: str = ""
    models: tuple[ModelCard, ...] = ()
    jobs: tuple[Held, ...] = ()
    free: int = 0
    #: Seconds since its last message.
    heartbeat_age_s: float = 0.0
    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    utilisation: float = -1.0
    temperature_c: float = -1.0
    #: Attempts ended here, by how, since the broker started.
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    #: Seconds it still gets no work because jobs failed there; jobs that failed there, and only there, since one succeeded.
    tripped_s: float = 0.0
    failed_in_a_row: int = 0
    #: Power, clocks and errors of its device.
    health: DeviceHealth = DeviceHealth()
    #: LoRAs beside the weights of `model`, the most recently used first.
    loaded_loras: LoraNames = ()
    lora_memory: LoraMemory = LoraMemory()
    #: As `WorkerInfo`'s.
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    #: Why it takes no job yet, by its latest report; None: its engine is not loading.
    loading: Loading | None = None
    #: As `Heartbeat`'s.
    depot: DepotWait | None = None


class ClockStep(Struct, frozen=True, array_like=True):
    """The wall clock was set."""

    #: Seconds since then.
    age_s: float
    #: Seconds it was set forwards; negative: back.
    by_s: float


class OnDemandModel(Struct, frozen=True, kw_only=True):
    """A model of which jobs are taken although no worker has it now, as the last one that did was."""

    card: ModelCard
    device: Short = ""
    #: GPUs of a worker.
    size: Count = 1


class ClassBacklog(Struct, frozen=True, kw_only=True):
    """Jobs waiting for one model and one class of workers: GPUs of one kind, so many a worker."""

    model: str
    #: As the workers report it (`WorkerInfo`); "": no worker could run these jobs, and none that could is remembered.
    device: str
    #: GPUs of a worker, or those that the jobs need.
    size: int
    jobs: int = 0
    #: Predicted seconds that workers need for them.
    backlog_s: float = 0.0
    #: Workers of the class that can run the model; those of them that are at a job with the model in memory.
    workers: int = 0
    busy: int = 0

    @property
    def label(self) -> str:
        """The class as one name of small letters, digits, `-` and `x`: `1x-nvidia-h100-80gb-hbm3`."""
        return class_label(self.device, self.size)


def class_label(device: str, size: int) -> str:
    """The name of a class of workers."""
    return f"{size}x-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-') or 'unknown'}"


class PoolView(Struct, frozen=True, kw_only=True):
    """Body of `Pool`."""

    epoch: int
    workers: tuple[WorkerView, ...] = ()
    #: Live jobs by state, and final ones since the broker started.
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    #: Predicted seconds that workers need for what waits, and the wait of a job that came now.
    backlog_s: float = 0.0
    wait_s: float = 0.0
    #: Jobs that may wait at once (`queued` and `delayed`); 0 when not known.
    queue_limit: int = 0
    #: By model: how far predicted run times were off lately, as a share of what the jobs took.
    prediction_errors: dict[str, float] = msgspec.field(default_factory=dict)
    #: Jobs that wait for their operator.
    set_aside: int = 0
    #: Why no new job is taken now, whatever workers there are; "": one is.
    refusing: str = ""
    #: Records of jobs that are over which were found damaged since the broker started.
    damaged: int = 0
    #: The broker's time now, by which all times in its answers are to be read; 0: not given.
    now: float = 0.0
    #: Seconds until the wall clock is trusted again, after it was set; 0: it is.
    settling_s: float = 0.0
    #: When the wall clock was set, the oldest first.
    clock_steps: tuple[ClockStep, ...] = ()
    #: Indexes of the journal that were damaged and built anew since the broker started.
    rebuilt_indexes: int = 0
    #: Jobs that are queued, by model.
    waiting: dict[str, int] = msgspec.field(default_factory=dict)
    #: Predicted seconds that workers need for them, by model.
    backlog_by_model: dict[str, float] = msgspec.field(default_factory=dict)
    #: The same jobs by model and class; a model of a class for which nothing waits has an entry, too.
    backlog_by_class: tuple[ClassBacklog, ...] = ()
    #: Models of which jobs are taken while no worker has them.
    on_demand: tuple[OnDemandModel, ...] = ()
    #: Whether there are workers behind these, by name.
    more: bool = False
