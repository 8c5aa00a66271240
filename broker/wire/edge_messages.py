"""Messages between edges and the broker."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from broker.wire.bodies import Admission
from broker.wire.jobspec import JOB_ID_RULE, is_job_id
from broker.wire.promises import CONFIDENCE, Confidence, PromiseWish
from broker.wire.submission import Submission
from broker.wire.terms import (
    Count,
    Fence,
    Id,
    JobStateName,
    KnownId,
    Message,
    Name,
    Seconds,
    Short,
    Tenant,
)
from broker.wire.usage import UsageGroup

#: The year 9999 is the last that dates can be written in.
MAX_DAY = 2_932_896
#: Jobs in one `Follow`, whose ids are as long as they may be: what is not body has 4 KiB.
MAX_FOLLOW = 50

# ---------------------------------------------------------------- edge -> broker


class Submit(Message, frozen=True, kw_only=True, tag="submit"):
    """Take this job. Answered by `Accepted` after the commit, or by `Rejected`. Idempotent by `job_id`."""

    req: int
    job_id: KnownId
    submission: Submission
    #: Refuse with code `alias_taken` when a job of this (origin, alias) exists.
    alias_unique: bool = False
    #: Refuse with code `busy` unless a worker can start it at once.
    only_if_idle: bool = False
    #: Jobs of its tenant that may wait, this one included. 0: no limit.
    max_queued: Count = 0
    #: The job must be final so long after it was accepted, or it fails as `expired`. 0: no deadline.
    deadline_s: Seconds = 0.0
    #: The edge has just drawn the id: no job can bear it, but one that this very message, sent before, has made.
    fresh: bool = False
    #: The job spec, opaque to the broker.
    body: bytes
    #: Refuse with code `promise` unless this can be promised. None: no promise is requested.
    promise: PromiseWish | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for an id that no job may have: it becomes part of paths."""
        if not is_job_id(self.job_id):
            raise ValueError(f"job_id must be {JOB_ID_RULE}, behind a tenant's tag or none")


class CancelJob(Message, frozen=True, kw_only=True, tag="cancel_job"):
    """End this job as cancelled. Answered by `CancelReply` once the request is on disk."""

    req: int
    job_id: KnownId
    #: Tenant whose job it must be, or it is not found; "": of any.
    tenant: Tenant = ""


JobAction = Literal["pause", "resume", "commit"]


class ControlJob(Message, frozen=True, kw_only=True, tag="control_job"):
    """Pause this job, let it go on, or commit its draft. Answered by `ControlReply` once that is on disk."""

    req: int
    job_id: KnownId
    action: JobAction
    #: Tenant whose job it must be, or it is not found; "": of any.
    tenant: Tenant = ""


class GetJob(Message, frozen=True, kw_only=True, tag="get_job"):
    """One job, by id or by (origin, alias). Answered by `JobReply`."""

    req: int
    job_id: KnownId = ""
    origin: Annotated[str, Meta(max_length=32)] = ""
    alias: Short = ""
    #: Tenant whose job it must be, or it is not found; "": of any.
    tenant: Tenant = ""


class ListJobs(Message, frozen=True, kw_only=True, tag="list_jobs"):
    """A page of jobs in the order in which they were accepted. Answered by `Jobs`. Empty filters match all."""

    req: int
    limit: Annotated[int, Meta(ge=0, le=1000)] = 50
    #: Continue behind this job id; an unknown one gives an empty page, unless `after_at` has where it was.
    after: KnownId = ""
    newest_first: bool = True
    states: Annotated[tuple[JobStateName, ...], Meta(max_length=8)] = ()
    origin: Annotated[str, Meta(max_length=32)] = ""
    model: Short = ""
    worker: Annotated[str, Meta(max_length=128)] = ""
    tenant: Tenant = ""
    #: When `after` is no job any more: continue behind what was accepted at this time; 0: an empty page.
    after_at: Seconds = 0.0
    #: Continue from here, which was in the answer before (`Jobs.behind`), whatever `after` is; 0: from there.
    behind: Fence = 0
    #: Whose prompt has this in it, in upper or lower case.
    text: Annotated[str, Meta(max_length=256)] = ""
    #: Accepted at or after the one time, and before the other; 0: whenever.
    since: Seconds = 0.0
    until: Seconds = 0.0


class Watch(Message, frozen=True, kw_only=True, tag="watch"):
    """Send me an `Event` for every visible change of every job, from now on (or no more). Answered by `Watching`."""

    req: int
    on: bool = True
    #: Whether what moves within a running job (phase, step, what is in a checkpoint) is sent of all jobs, or of followed ones alone.
    steps: bool = True


class Follow(Message, frozen=True, kw_only=True, tag="follow"):
    """Send me the steps of these jobs, too, until they are over (or no more): answered by an `Event` with those of them that live.

    From a peer that does not watch it has no effect. It ends with the stream: it is sent again after a gap in that.
    """

    job_ids: Annotated[tuple[KnownId, ...], Meta(max_length=MAX_FOLLOW)]
    on: bool = True


class GetPool(Message, frozen=True, kw_only=True, tag="get_pool"):
    """Workers by name, and the queue's totals. Answered by `Pool`.

    Thousands are requested page by page, as the broker does nothing else while it writes an answer.
    """

    req: int
    #: Those behind this name; "": the first, and the totals, which come with them alone.
    after: Short = ""
    #: So many; 0: all.
    limit: Count = 0


class GetLoadHistory(Message, frozen=True, kw_only=True, tag="get_load_history"):
    """Get the pool's load over the last hour. Answered by `LoadSamples`."""

    req: int


class GetUsage(Message, frozen=True, kw_only=True, tag="get_usage"):
    """Sums of what was used on these days, by these groups. Answered by `Usage`."""

    req: int
    #: Days since 1970-01-01, UTC, both counted in.
    first_day: Annotated[int, Meta(ge=0, le=MAX_DAY)]
    last_day: Annotated[int, Meta(ge=0, le=MAX_DAY)]
    by: Annotated[tuple[UsageGroup, ...], Meta(max_length=4)] = ()
    #: "" for all.
    tenant: Tenant = ""
    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000


class Estimate(Message, frozen=True, kw_only=True, tag="estimate"):
    """Forecast such a job, were it to come now. Answered by `Estimated`; nothing is kept."""

    req: int
    submission: Submission
    confidence: Confidence = CONFIDENCE


class DrainWorker(Message, frozen=True, kw_only=True, tag="drain_worker"):
    """Give this worker no more work; it ends when it holds none. Answered by `WorkerReply`."""

    req: int
    name: Name
    #: Hand back at once what it holds and can go on with elsewhere, instead of finishing it.
    hand_back: bool = False


class UndrainWorker(Message, frozen=True, kw_only=True, tag="undrain_worker"):
    """Give work again to a worker that was drained and has not left. Answered by `WorkerReply`."""

    req: int
    name: Name


class ForgetJobs(Message, frozen=True, kw_only=True, tag="forget_jobs"):
    """Delete the records of these jobs, those of them that are final. Answered by `Forgotten` after the commit.

    The requesting edge removes the files; a job's id is free again.
    """

    req: int
    job_ids: Annotated[tuple[KnownId, ...], Meta(max_length=50)]
    #: Only those that finished so long ago or longer, whatever the wall clock was set to since.
    finished_s: Seconds = 0.0


class ClaimDeliveries(Message, frozen=True, kw_only=True, tag="claim_hooks"):
    """Give me webhook deliveries that are due; each is to be reported within its lease, 60 s. Answered by `Deliveries` after the commit."""

    req: int
    limit: Annotated[int, Meta(ge=1, le=64)] = 16


DeliveryOutcome = Literal["delivered", "retry", "failed", "disabled", "released"]


class DeliveryDone(Message, frozen=True, kw_only=True, tag="hook_done"):
    """Report the outcome of a delivery. Answered by `DeliveryNoted` after the commit.

    `retry`: again in `retry_s`; `released`: again in `retry_s`, and it was not tried; `failed`: never again; `disabled`: nothing more of
    this job.
    """

    req: int
    number: Fence
    claim: Fence
    outcome: DeliveryOutcome
    #: HTTP status of the answer; 0 when there was none.
    status: Annotated[int, Meta(ge=0, le=999)] = 0
    retry_s: Seconds = 0.0
    #: What went wrong.
    note: Short = ""


class ListSetAside(Message, frozen=True, kw_only=True, tag="list_set_aside"):
    """The jobs that the broker set aside, at most 1,000. Answered by `Jobs`, without spec bytes."""

    req: int


class SettleSetAside(Message, frozen=True, kw_only=True, tag="settle_set_aside"):
    """End the waiting of a job that was set aside. Answered by `SetAsideSettled` after the commit.

    `release`: back to the queue; `fail`: it has failed; `delete`: its record is deleted.
    """

    req: int
    #: As it is listed; a damaged row may have an id that is none.
    job_id: Short
    action: Literal["release", "fail", "delete"]


# ---------------------------------------------------------------- broker -> edge


class Accepted(Message, frozen=True, kw_only=True, tag="accepted"):
    """The job is on disk. `duplicate`: it was there before, with these very bytes."""

    req: int
    job_id: KnownId
    duplicate: bool = False
    #: Of a new job.
    admission: Admission | None = None
    #: `JobView` of a job that was there before.
    body: bytes = b""


RejectCode = Literal[
    "queue_full", "busy", "alias_taken", "id_conflict", "deadline", "invalid", "shutting_down", "promise", "gpus"
]


class Rejected(Message, frozen=True, kw_only=True, tag="rejected"):
    """The job was not taken; nothing of it is kept. `retry_after_s` 0: retrying will not help."""

    req: int
    code: RejectCode
    message: Annotated[str, Meta(max_length=1024)]
    retry_after_s: Seconds = 0.0
    #: With code `promise`: the earliest that could be promised, seconds from now; 0: nothing can.
    earliest_s: Seconds = 0.0


class JobReply(Message, frozen=True, kw_only=True, tag="job"):
    """The job requested, or `found` false."""

    req: int
    found: bool
    #: Its `JobView` with spec bytes and history; empty when not found.
    body: bytes = b""


class Jobs(Message, frozen=True, kw_only=True, tag="jobs"):
    """A page of jobs. `more`: there is at least one job behind the last."""

    req: int
    more: bool = False
    #: The broker has looked long enough: go on from here for what is missing, and for whether more follow; 0: it is all here.
    behind: Fence = 0
    #: A list of `JobView` with spec bytes.
    body: bytes
    #: When the job at `behind` was accepted, as far as is known; 0: it is not.
    behind_at: Seconds = 0.0


CancelOutcome = Literal["cancelled", "requested", "already_final", "not_found"]


class CancelReply(Message, frozen=True, kw_only=True, tag="cancel_reply"):
    """Outcome of a cancel. `requested`: its worker is being stopped."""

    req: int
    outcome: CancelOutcome
    #: The job's `JobView`; empty when not found.
    body: bytes = b""


ControlOutcome = Literal["done", "requested", "refused", "not_found"]


class ControlReply(Message, frozen=True, kw_only=True, tag="control_reply"):
    """Outcome of a `ControlJob`. `done`: the job is as requested; `requested`: its worker is to hand it back; `refused`: for `reason`."""

    req: int
    outcome: ControlOutcome
    reason: Annotated[str, Meta(max_length=1024)] = ""
    #: The job's `JobView`; empty when not found.
    body: bytes = b""


class Watching(Message, frozen=True, kw_only=True, tag="watching"):
    """The next `Event` to this peer bears `seq` + 1."""

    req: int
    seq: int


class Pool(Message, frozen=True, kw_only=True, tag="pool"):
    """Answer to `GetPool`."""

    req: int
    #: A `PoolView`.
    body: bytes


class LoadSamples(Message, frozen=True, kw_only=True, tag="load_samples"):
    """Answer to `GetLoadHistory`."""

    req: int
    #: A list of `LoadSample`, the oldest first; the last is of now.
    body: bytes


class Usage(Message, frozen=True, kw_only=True, tag="usage"):
    """Answer to `GetUsage`. `more`: there are more rows than its limit."""

    req: int
    more: bool = False
    #: A list of `UsageRow`.
    body: bytes


class Estimated(Message, frozen=True, kw_only=True, tag="estimated"):
    """Answer to `Estimate`."""

    req: int
    #: A `Forecast`.
    body: bytes


class WorkerReply(Message, frozen=True, kw_only=True, tag="worker"):
    """The worker that was named, or `found` false."""

    req: int
    found: bool
    #: Its `WorkerView`; empty when not found.
    body: bytes = b""


class SetAsideSettled(Message, frozen=True, kw_only=True, tag="set_aside_settled"):
    """Outcome of a `SettleSetAside`.

    `unreadable`: its row cannot be read, so it can be failed or deleted, not released. `raised`: the broker failed on it once more.
    """

    req: int
    outcome: Literal["done", "not_set_aside", "unreadable", "raised"]


class Event(Message, frozen=True, kw_only=True, tag="event"):
    """Jobs changed. A gap in `seq` means: events were lost, read anew."""

    seq: int
    #: A list of `JobUpdate`, no job twice.
    body: bytes


class Forgotten(Message, frozen=True, kw_only=True, tag="forgotten"):
    """The jobs whose records this request deleted. A repeated request finds them deleted already."""

    req: int
    job_ids: tuple[Id, ...] = ()


class JobsDeleted(Message, frozen=True, kw_only=True, tag="gone"):
    """The records of these jobs were deleted: to watchers, numbered among the `Event`s. A later one may be about another job of the id."""

    seq: int
    job_ids: tuple[Id, ...]


class Deliveries(Message, frozen=True, kw_only=True, tag="hooks"):
    """The deliveries that this edge now holds. `wait_s`: until another one is due; -1: there is none."""

    req: int
    wait_s: float = -1.0
    #: A list of `HookClaim`.
    body: bytes


class DeliveryNoted(Message, frozen=True, kw_only=True, tag="hook_noted"):
    """A delivery's outcome is on disk, or was there before."""

    req: int
