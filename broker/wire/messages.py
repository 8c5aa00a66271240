"""Every message that crosses a socket: tagged, frozen structs, one class a message, named by what its sender says.

On the wire a message is one frame `[header]` or two `[header, body]`. The header is a msgpack array: tag, protocol version, then the
fields in the order written here. New fields go at the end, with a default. Bodies: the job spec for `Submit` and `Run`
(opaque to the broker), and the struct named at the message for the others. Times named `_at` are seconds since the Unix epoch
on the broker's clock, those named `_s` are durations in seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from broker.wire.jobspec import ModelCard, Phase, Result

#: Raised when a message changes in a way an older reader would misread.
PROTOCOL = 1

#: `\Z`, not `$`, which would let a line break pass behind the id.
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Short = Annotated[str, Meta(max_length=256)]
Tenant = Annotated[str, Meta(max_length=64)]
Fence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]

JobStateName = Literal["queued", "delayed", "assigned", "running", "succeeded", "failed", "cancelled"]

FailureKind = Literal[
    "invalid_input", "out_of_memory", "engine_error", "engine_crashed", "hung", "expired", "quarantined"
]


#: The first attempt began; the job succeeded, failed, or was cancelled.
HookEvent = Literal["started", "completed", "failed", "cancelled"]

#: `failed`: tried as often as it is tried; `disabled`: the receiver wants no more of this job.
HookState = Literal["pending", "delivered", "failed", "disabled"]

#: ASCII, as it goes into the request. A header holds it beside a job's other names.
WebhookUrl = Annotated[str, Meta(pattern=r"^[!-~]{0,1024}\Z")]


class Message(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of all messages. Never sent itself."""

    v: int = PROTOCOL


# ---------------------------------------------------------------- edge -> broker


class Submit(Message, frozen=True, kw_only=True, tag="submit"):
    """Take this job (body: the job spec). Answered by `Accepted` after the commit, or by `Rejected`. Idempotent by `job_id`."""

    req: int
    job_id: Id
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    #: Cost feature: steps x latent tokens (`jobspec.cost_units`).
    units: Annotated[float, Meta(ge=0, le=1e15)]
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] = "default"
    #: 0 (last) to 9 (first); strict between priorities.
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    gpus: Annotated[int, Meta(ge=1, le=64)] = 1
    #: The job must be final by then, or it fails as `expired`. 0: no deadline.
    deadline_at: Seconds = 0.0
    #: Which API the job came through; lets that API list and stop its own.
    origin: Annotated[str, Meta(max_length=32)] = ""
    #: The client's own name for the job, looked up by (origin, alias); the newest job of that name answers.
    alias: Short = ""
    #: Refuse with code `alias_taken` when a job of this (origin, alias) exists.
    alias_unique: bool = False
    #: Name of the only worker that may run it; "" for any.
    worker: Annotated[str, Meta(max_length=128)] = ""
    #: Refuse with code `busy` unless a worker can start it at once.
    only_if_idle: bool = False
    #: Of the job's tenant, which of its jobs the newest says: jobs that may wait, and that workers may hold at once. 0: no limit.
    max_queued: Count = 0
    max_running: Count = 0
    #: Where the job's events are to be told, and which; none named: all of them.
    webhook: WebhookUrl = ""
    webhook_events: Annotated[tuple[HookEvent, ...], Meta(max_length=4)] = ()


class CancelJob(Message, frozen=True, kw_only=True, tag="cancel_job"):
    """End this job as cancelled. Answered by `CancelReply` once the request is on disk."""

    req: int
    job_id: Id
    #: Whose job it must be, or it is not found; "" for anybody's.
    tenant: Tenant = ""


class GetJob(Message, frozen=True, kw_only=True, tag="get_job"):
    """One job, by id or by (origin, alias). Answered by `JobReply`."""

    req: int
    job_id: Annotated[str, Meta(max_length=64)] = ""
    origin: Annotated[str, Meta(max_length=32)] = ""
    alias: Short = ""
    #: Whose job it must be, or it is not found; "" for anybody's.
    tenant: Tenant = ""


class ListJobs(Message, frozen=True, kw_only=True, tag="list_jobs"):
    """A page of jobs in the order in which they were accepted. Answered by `Jobs`. Empty filters match all."""

    req: int
    limit: Annotated[int, Meta(ge=0, le=1000)] = 50
    #: Continue behind this job id; an unknown one gives an empty page, unless `after_at` says where it was.
    after: Annotated[str, Meta(max_length=64)] = ""
    newest_first: bool = True
    states: Annotated[tuple[JobStateName, ...], Meta(max_length=7)] = ()
    origin: Annotated[str, Meta(max_length=32)] = ""
    model: Short = ""
    worker: Annotated[str, Meta(max_length=128)] = ""
    tenant: Tenant = ""
    #: When `after` is no job any more: continue behind what was accepted at this time; 0: an empty page.
    after_at: Seconds = 0.0


class Watch(Message, frozen=True, kw_only=True, tag="watch"):
    """Send me an `Event` for every visible change of every job, from now on (or no more). Answered by `Watching`."""

    req: int
    on: bool = True


class GetPool(Message, frozen=True, kw_only=True, tag="get_pool"):
    """All workers and the queue's totals. Answered by `Pool`."""

    req: int


class ForgetJobs(Message, frozen=True, kw_only=True, tag="forget_jobs"):
    """Delete the records of these jobs, those of them that are final. Answered by `Forgotten` after the commit.

    Whoever asks removes the files; a job's id is free again.
    """

    req: int
    job_ids: Annotated[tuple[Id, ...], Meta(max_length=50)]
    #: Only those that finished at or before; 0: whenever they did.
    finished_before: Seconds = 0.0


class ClaimHooks(Message, frozen=True, kw_only=True, tag="claim_hooks"):
    """Give me webhook deliveries that are due; each is to be reported within its lease, 60 s. Answered by `Hooks` after the commit."""

    req: int
    limit: Annotated[int, Meta(ge=1, le=64)] = 16


class HookDone(Message, frozen=True, kw_only=True, tag="hook_done"):
    """What became of a delivery. Answered by `HookNoted` after the commit.

    `retry`: again in `retry_s`; `failed`: never again; `disabled`: nothing more of this job.
    """

    req: int
    number: Fence
    claim: Fence
    outcome: Literal["delivered", "retry", "failed", "disabled"]
    #: HTTP status of the answer; 0 when there was none.
    status: Annotated[int, Meta(ge=0, le=999)] = 0
    retry_s: Seconds = 0.0
    #: What went wrong.
    note: Short = ""


# ---------------------------------------------------------------- broker -> edge


class Accepted(Message, frozen=True, kw_only=True, tag="accepted"):
    """The job is on disk (body: its `JobView`). `duplicate`: it was there before, with these very bytes."""

    req: int
    duplicate: bool = False


RejectCode = Literal["queue_full", "busy", "alias_taken", "id_conflict", "deadline", "invalid", "shutting_down"]


class Rejected(Message, frozen=True, kw_only=True, tag="rejected"):
    """The job was not taken; nothing of it is kept. `retry_after_s` 0: retrying will not help."""

    req: int
    code: RejectCode
    message: Annotated[str, Meta(max_length=1024)]
    retry_after_s: Seconds = 0.0


class JobReply(Message, frozen=True, kw_only=True, tag="job"):
    """The job asked for (body: its `JobView` with spec bytes and story), or `found` false."""

    req: int
    found: bool


class Jobs(Message, frozen=True, kw_only=True, tag="jobs"):
    """A page (body: list of `JobView` with spec bytes). `more`: there is at least one job behind the last."""

    req: int
    more: bool = False


CancelOutcome = Literal["cancelled", "requested", "already_final", "not_found"]


class CancelReply(Message, frozen=True, kw_only=True, tag="cancel_reply"):
    """What became of a cancel (body: the `JobView`, none when not found). `requested`: a worker is being told to stop."""

    req: int
    outcome: CancelOutcome


class Watching(Message, frozen=True, kw_only=True, tag="watching"):
    """The next `Event` to this peer bears `seq` + 1."""

    req: int
    seq: int


class Pool(Message, frozen=True, kw_only=True, tag="pool"):
    """Answer to `GetPool` (body: `PoolView`)."""

    req: int


class Event(Message, frozen=True, kw_only=True, tag="event"):
    """A job changed (body: its `JobView` without spec bytes and story). A gap in `seq` means: events were lost, ask again."""

    seq: int


class Forgotten(Message, frozen=True, kw_only=True, tag="forgotten"):
    """The jobs whose records this request deleted. A repeated request finds them deleted already."""

    req: int
    job_ids: tuple[Id, ...] = ()


class Gone(Message, frozen=True, kw_only=True, tag="gone"):
    """The records of these jobs were deleted: to watchers, numbered among the `Event`s."""

    seq: int
    job_ids: tuple[Id, ...]


class Hooks(Message, frozen=True, kw_only=True, tag="hooks"):
    """The deliveries that this edge now holds (body: list of `HookClaim`). `wait_s`: until another one is due; -1: there is none."""

    req: int
    wait_s: float = -1.0


class HookNoted(Message, frozen=True, kw_only=True, tag="hook_noted"):
    """A delivery's outcome is on disk, or was there before."""

    req: int


# ---------------------------------------------------------------- agent -> broker


class Held(Struct, frozen=True, kw_only=True, array_like=True):
    """One attempt that an agent holds: running, or computed and not yet acknowledged (`phase` "finished")."""

    job_id: Id
    fence: Fence
    phase: Phase = ""
    step: Count = 0
    total: Count = 0


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """This worker is here (body: `WorkerInfo`). Answered by `Welcome` or `Bye`.

    Sent at start, after a probe (an empty frame) and after `Who`.
    """

    name: Name
    #: Drawn at each start of the agent process: tells a reconnect from a rebirth.
    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    #: Highest fence this process ever received.
    seen: Fence
    #: How many more jobs it can take now, absolute.
    free: Count
    held: Annotated[tuple[Held, ...], Meta(max_length=64)] = ()


EngineState = Literal["starting", "loading", "ready", "busy", "restarting", "stopped"]


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Alive, with this much room; each second and at once when something changes. Answered by `HeartbeatAck`."""

    seen: Fence
    free: Count
    held: Annotated[tuple[Held, ...], Meta(max_length=64)] = ()
    engine: EngineState = "ready"
    #: The model in memory; "" when none.
    model: Short = ""
    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    #: Percent; -1 when not known.
    utilisation: float = -1.0
    temperature_c: float = -1.0
    draining: bool = False


class Started(Message, frozen=True, kw_only=True, tag="started"):
    """The attempt is in the engine."""

    job_id: Id
    fence: Fence


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The attempt was not taken (no room, engine not ready, draining); it goes back to the queue."""

    job_id: Id
    fence: Fence
    free: Count = 0
    reason: Annotated[str, Meta(max_length=1024)] = ""


class Finished(Message, frozen=True, kw_only=True, tag="finished"):
    """The files are on disk (body: `Result`). Resent until `ResultAck`."""

    job_id: Id
    fence: Fence
    free: Count = 0
    #: Seconds from start in the engine to the last fsync.
    run_s: Seconds = 0.0


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The attempt failed. Resent until `ResultAck`."""

    job_id: Id
    fence: Fence
    kind: FailureKind
    message: Annotated[str, Meta(max_length=2048)] = ""
    free: Count = 0


class Cancelled(Message, frozen=True, kw_only=True, tag="cancelled"):
    """The attempt was stopped as asked. Resent until `ResultAck`."""

    job_id: Id
    fence: Fence
    free: Count = 0


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """This worker leaves; what it holds goes back to the queue."""

    reason: Short = ""


# ---------------------------------------------------------------- broker -> agent


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """Registered."""

    epoch: int
    heartbeat_s: Seconds = 1.0
    lost_s: Seconds = 6.0


class Who(Message, frozen=True, kw_only=True, tag="who"):
    """I do not know this address: say `Hello`."""


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    """You are not wanted (another process bears your name, your protocol is unknown); do not come back."""

    reason: Short = ""


class Run(Message, frozen=True, kw_only=True, tag="run"):
    """Run this attempt (body: the job spec). Answered by `Started` or `Refused`."""

    job_id: Id
    fence: Fence
    lease_s: Seconds
    attempt: Count = 1
    #: "offload" after an out-of-memory: trade speed for memory.
    profile: Literal["normal", "offload"] = "normal"
    #: Predicted run time; 0 when not known.
    predicted_s: Seconds = 0.0


class HeartbeatAck(Message, frozen=True, kw_only=True, tag="heartbeat_ack"):
    """The broker's loop is alive; agents count silence from the last of these."""

    epoch: int = 0


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop this attempt. Resent with every `HeartbeatAck` until its result is in. `grace_s` 0: the agent's own rule (2 steps + 2 s)."""

    job_id: Id
    fence: Fence
    grace_s: Seconds = 0.0


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """Finish what you hold, take no more."""


class ResultAck(Message, frozen=True, kw_only=True, tag="result_ack"):
    """The result is committed (`accepted`), or it lost and its files are garbage. Stop resending either way."""

    job_id: Id
    fence: Fence
    accepted: bool


# ---------------------------------------------------------------- bodies


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """Body of `Hello`: what does not change while the agent lives."""

    host: Short = ""
    pid: int = 0
    #: As people know it: "NVIDIA H100", "cpu".
    device: Short = ""
    #: GPUs behind this worker (1 for a CPU worker).
    gpus: Count = 1
    version: Short = ""
    models: Annotated[tuple[ModelCard, ...], Meta(max_length=64)] = ()


class Move(Struct, frozen=True, array_like=True):
    """One line of a job's story: when it moved, between which states, why, in which attempt, on which worker."""

    at: float
    source: str
    target: str
    cause: str
    attempt: int = 0
    worker: str = ""
    note: str = ""


class Failure(Struct, frozen=True):
    """Why a job failed."""

    kind: FailureKind
    message: str = ""


class HookClaim(Struct, frozen=True, kw_only=True):
    """One webhook delivery, given to one edge."""

    #: Names the event, over all attempts; never given twice.
    number: Fence
    #: Names this claim.
    claim: Fence
    job_id: Id
    event: HookEvent
    #: When it happened.
    created_at: float
    #: Attempts begun, this one included.
    attempts: Count


class HookView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A webhook delivery as edges see it."""

    event: HookEvent
    state: HookState
    attempts: int = 0
    #: HTTP status of the last answer; 0 when there was none.
    status: int = 0
    #: What went wrong last.
    note: str = ""
    #: An edge is at it.
    sending: bool = False
    #: When it is tried (again); 0 when it is not, or is being tried.
    next_at: float = 0.0


class JobView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as edges see it."""

    id: str
    state: JobStateName
    model: str
    #: Grows with every visible change of this job, over broker restarts too: (epoch << 32) + n.
    revision: int
    tenant: str = "default"
    priority: int = 5
    origin: str = ""
    alias: str = ""
    gpus: int = 1
    #: Attempts begun; crashes and losses among them.
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    cancel_requested: bool = False
    fence: int = 0
    #: Name of the worker that holds it, or that ended it.
    worker: str = ""
    #: Name of the only worker that may run it; "" for any.
    pinned: str = ""
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
    failure: Failure | None = None
    result: Result | None = None
    story: tuple[Move, ...] = ()
    #: The spec's bytes (`jobspec.decode_spec`); empty in events.
    body: bytes = b""
    webhook: str = ""
    #: Which events the webhook is told, none: all; what became of those so far. Empty in events.
    webhook_events: tuple[HookEvent, ...] = ()
    hooks: tuple[HookView, ...] = ()


WorkerStateName = Literal["starting", "idle", "busy", "suspect", "draining", "lost"]


class WorkerView(Struct, frozen=True, kw_only=True):
    """A worker as edges see it."""

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
    #: Seconds since anything was heard.
    heartbeat_age_s: float = 0.0
    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    utilisation: float = -1.0
    temperature_c: float = -1.0
    #: Attempts ended here, by how, since the broker started.
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class PoolView(Struct, frozen=True, kw_only=True):
    """Body of `Pool`."""

    epoch: int
    workers: tuple[WorkerView, ...] = ()
    #: Live jobs by state, and final ones since the broker started.
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    #: Predicted GPU-seconds waiting, and the wait of a job that came now.
    backlog_s: float = 0.0
    wait_s: float = 0.0
    #: Jobs that may wait at once (`queued` and `delayed`); 0 when not known.
    queue_limit: int = 0


FromEdge = Submit | CancelJob | GetJob | ListJobs | Watch | GetPool | ForgetJobs | ClaimHooks | HookDone
ToEdge = (
    Accepted | Rejected | JobReply | Jobs | CancelReply | Watching | Pool | Event | Forgotten | Gone | Hooks | HookNoted
)
FromAgent = Hello | Heartbeat | Started | Refused | Finished | Failed | Cancelled | Goodbye
ToAgent = Welcome | Who | Bye | Run | HeartbeatAck | Cancel | Drain | ResultAck
AgentResult = Finished | Failed | Cancelled
