"""States, names and bounds that messages and their bodies are made of."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from broker.wire.jobspec import JOB_ID_PATTERN, Phase

#: Raised when a message changes in a way an older reader would misread. 1: a header and a body in two frames. 2, of no release: a message
#: of its own for an attempt's start, and the whole view in `Accepted`. 3, of no release: one message a frame.
PROTOCOL = 4

#: A job's id where its reader makes a path of it (`Run`); where it enters (`Submit`), `jobspec.is_job_id` checks the same for less. `\Z`,
#: not `$`, which would let a line break pass behind the id.
Id = Annotated[str, Meta(pattern=rf"^{JOB_ID_PATTERN}\Z")]
#: Longest `Id`: a tenant's tag of 12 and a point before a client's 64.
MAX_ID = 77
#: A job's id that is only looked up: one that no `Submit` brought finds no job. The pattern costs as much as the rest of such a message.
KnownId = Annotated[str, Meta(max_length=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Short = Annotated[str, Meta(max_length=256)]
Tenant = Annotated[str, Meta(max_length=64)]
Fence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
#: Seconds since an attempt was given to the engine, when this is sent. A start has no message of its own: whatever reports an attempt
#: has when it began.
Age = Annotated[float, Meta(ge=0, le=1e10)]

#: Longest wait in a refusal, seconds: the OpenAI SDKs give up at once instead of waiting for longer.
MAX_RETRY_AFTER_S = 120.0
#: Wait in a refusal for want of disk, seconds.
DISK_RETRY_S = 30.0

JobStateName = Literal["queued", "delayed", "parked", "assigned", "running", "succeeded", "failed", "cancelled"]


class JobState(StrEnum):
    """The states of a job; the values are those on the wire, in the journal and in answers."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: Waits for a time: back-off after a failed attempt.
    DELAYED = "delayed"
    #: Waits for its client: it was paused, or is a draft.
    PARKED = "parked"
    #: Granted to a worker that has not reported it yet.
    ASSIGNED = "assigned"
    #: In an engine.
    RUNNING = "running"
    #: Its result is published.
    SUCCEEDED = "succeeded"
    #: It is over without a result; `Failure.kind` is the class.
    FAILED = "failed"
    #: Its client requested that.
    CANCELLED = "cancelled"


#: The states of what is done for every job: in Python 3.11 an attribute of an enum's class costs as much as two calls.
QUEUED, DELAYED, PARKED = JobState.QUEUED, JobState.DELAYED, JobState.PARKED
ASSIGNED, RUNNING, SUCCEEDED = JobState.ASSIGNED, JobState.RUNNING, JobState.SUCCEEDED

#: The states as plain strings: `StrEnum.value` is a Python function, called for every row and every view.
STATE_NAMES: dict[JobState, JobStateName] = {state: state.value for state in JobState}

FINAL = frozenset((JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED))
FINAL_NAMES: tuple[JobStateName, ...] = ("succeeded", "failed", "cancelled")
#: States of a job that has not started, and of one that is not over.
UNSTARTED_NAMES: tuple[JobStateName, ...] = ("queued", "delayed", "parked", "assigned")
LIVE_NAMES: tuple[JobStateName, ...] = (*UNSTARTED_NAMES, "running")
#: States of a job that a worker has.
HELD_NAMES: tuple[JobStateName, ...] = ("assigned", "running")
WAITING = frozenset((JobState.QUEUED, JobState.DELAYED, JobState.PARKED))
HELD = frozenset((JobState.ASSIGNED, JobState.RUNNING))


#: Why a job that was begun, or could be, is in no engine: its client paused it; it is a draft, which its client commits or lets go; it made
#: room for a shorter one, and waits for a worker again. "": it is not parked.
ParkedName = Literal["", "paused", "draft", "preempted"]

#: The first attempt began; the job succeeded, failed, or was cancelled; the time promised for it cannot be kept; its draft waits to be
#: committed; it was first parked, and first goes on, by its client's request. Each once a job.
WebhookEvent = Literal[
    "started", "completed", "failed", "cancelled", "promise_broken", "draft_ready", "parked", "resumed"
]

#: `failed`: tried as often as it is tried; `disabled`: the receiver refused all further ones of this job.
DeliveryState = Literal["pending", "delivered", "failed", "disabled"]

#: A header holds it beside a job's other names. Printable ASCII: see `Submission`.
WebhookUrl = Annotated[str, Meta(max_length=1024)]

EngineState = Literal["starting", "loading", "ready", "busy", "restarting", "stopped"]

#: `tripped`: gets no work for a while, because job after job failed there. `faulty`: its device is broken, and it gets no work.
WorkerStateName = Literal["starting", "idle", "busy", "suspect", "draining", "tripped", "faulty", "lost"]

#: State of a worker -> its name in 0.1.0; metrics have both until the next version.
OLD_WORKER_STATES: dict[WorkerStateName, str] = {"tripped": "benched"}


class Held(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One attempt that an agent holds: running, or computed and not yet acknowledged (`phase` "finished")."""

    job_id: KnownId
    fence: Fence
    phase: Phase = ""
    step: Count = 0
    total: Count = 0
    age_s: Age = 0.0
    #: Denoising steps of the job that lie in a checkpoint on disk.
    kept: Count = 0


class Loading(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Stage of an engine that takes no job yet: "load" or "warm_up", which of so many steps of it, and seconds since its process began; "":
    there is no process."""

    phase: Phase = "load"
    step: Count = 0
    total: Count = 0
    age_s: Age = 0.0
    #: Why the process before it could not load the model, or what it waits for before it starts; "": neither.
    error: Annotated[str, Meta(max_length=2048)] = ""


class DepotWait(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Wait of a worker for its depot: results that are not there yet, with their MB, and jobs whose inputs have not come."""

    results: Count = 0
    size_mb: Annotated[float, Meta(ge=0, le=1e10)] = 0.0
    inputs: Count = 0
    #: Seconds since the first of these jobs was given to the worker.
    age_s: Age = 0.0
    #: Why the last try failed; "": none did.
    fault: Annotated[str, Meta(max_length=1024)] = ""
    #: Whether the worker takes no job because of these results.
    full: bool = False


class Message(Struct, frozen=True, kw_only=True, array_like=True, tag=True, gc=False):
    """Base of all messages. Never sent itself. Plain data is in no circle, so it is not tracked by the collector (`gc`)."""

    v: int = PROTOCOL
