"""A job: five machines, each a table here; any other change of theirs is a bug and raises `IllegalMove`.

**state** (`TABLE`, by cause; only `Job.move` changes it). `queued` waits for a worker, `delayed` waits for a time (back-off), `parked`
waits for its client (it was paused, or is a draft), `assigned` has been granted to a worker that has not reported it yet, `running` is
in an engine. `succeeded`, `failed` and `cancelled` are final: nothing leads out of them.

**stop** (`STOPS`, by reason; only `Job.request_stop` changes it). Why a live job is being stopped. Durable and one-way: once set, the job
can only end as cancelled (or expired), also if its result arrives a moment later.

**park** (`PARKS`, by reason; only `Job.wish_park` changes it). Why a job is to be in no engine though nothing is wrong with it. "pause" is
its client's wish, durable, and holds until the client takes it back. "preempt" is a wish about one attempt, which is to make room, and to
go on when a worker is free; it ends with the attempt. A worker that is sent `Park` writes a checkpoint at its next step and hands the
job back, which counts neither as a failure nor as a loss. One that is past its last step ends as usual.

**fence** (`FENCES`, by event; only `Job.renew_fence` changes it). A fence names one grant: `epoch << 32 | counter`. The epoch is raised on
disk before the broker binds, so a fence is never given twice, even if the rows of the last moments before a crash are lost. It never falls,
but for that of a damaged row, once its operator decides about the job. A job begins with the last fence that was given before it came, so
that no attempt at an earlier job of its id (one that was deleted, or whose acceptance was lost with the broker) is taken for its own. A
result counts only if the job is not final and bears exactly the result's fence. When a failure has been counted, the fence moves on, so
that the same failure, resent because its acknowledgement was lost, counts once. A job whose worker was lost goes back to `queued` with its
fence unchanged: should that worker return before another is granted the job, it is adopted, or its finished result taken.

**holder** (`HOLDERS`, by event; only `Job.change_holder` changes it). Whether a worker has the current attempt, as far as is known: not
journaled, as workers report it. A job that was held when the broker stopped is an orphan until its worker comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from operator import ge, gt, lt
from typing import Literal

from msgspec import Struct, field

from broker.core.deliveries import Delivery
from broker.wire.jobspec import Phase, Profile, Result
from broker.wire.messages import Failure, HistoryEntry
from broker.wire.promises import Promise
from broker.wire.submission import Submission
from broker.wire.terms import FINAL, HELD, WAITING, JobState, ParkedName

#: The history is for people; that of a job which moves more often than this has its middle cut out.
MAX_HISTORY = 64


class Cause(StrEnum):
    """The cause of a move: a column of the history, the label of the metric."""

    #: An edge handed it in.
    SUBMITTED = "submitted"
    #: It was granted to a worker.
    DISPATCHED = "dispatched"
    #: The attempt is in an engine.
    STARTED = "started"
    #: A worker that was thought lost, or that the broker forgot in a restart, came back holding the job.
    ADOPTED = "adopted"
    #: The worker did not take it.
    REFUSED = "refused"
    #: The worker handed it back, or does not hold what it was granted.
    RETURNED = "returned"
    #: The worker or the link to it is gone.
    LOST = "lost"
    #: The attempt failed, and another one follows after a back-off.
    RETRIED = "retried"
    #: The back-off is over.
    DUE = "due"
    #: Its result is published.
    FINISHED = "finished"
    #: An attempt failed, and none follows.
    FAILED = "failed"
    #: Its deadline passed.
    EXPIRED = "expired"
    #: Too many attempts ended the engine, or too many workers were lost under it.
    QUARANTINED = "quarantined"
    #: Its worker is sent a cancel, for the reason in `stop`.
    STOP_REQUESTED = "stop_requested"
    #: It was stopped by its client's request.
    CANCELLED = "cancelled"
    #: Its worker is sent a request to hand it back, for the reason in `park`.
    PARK_REQUESTED = "park_requested"
    #: It is out of its engine, or kept out of one, by its client's request.
    PAUSED = "paused"
    #: Its draft is there.
    DRAFTED = "drafted"
    #: It was handed back to make room for a shorter job.
    PREEMPTED = "preempted"
    #: Its client lets it go on.
    RESUMED = "resumed"
    #: Its client has committed its draft.
    COMMITTED = "committed"
    #: The time promised for it cannot be kept, and another one has taken its place.
    PROMISE_BROKEN = "promise_broken"


#: Those of every job, as `terms.QUEUED`.
SUBMITTED, DISPATCHED = Cause.SUBMITTED, Cause.DISPATCHED
STARTED, FINISHED = Cause.STARTED, Cause.FINISHED

_S, _C = JobState, Cause

#: Moves that every state but the final ones allows, waiting ones too: the result of a worker that was thought lost may still come.
_ANY_LIVE: dict[Cause, JobState] = {
    _C.FINISHED: _S.SUCCEEDED,
    _C.FAILED: _S.FAILED,
    _C.EXPIRED: _S.FAILED,
    _C.QUARANTINED: _S.FAILED,
    _C.CANCELLED: _S.CANCELLED,
    _C.RETRIED: _S.DELAYED,
}
_HELD: dict[Cause, JobState] = {
    **_ANY_LIVE,
    _C.RETURNED: _S.QUEUED,
    _C.LOST: _S.QUEUED,
    _C.ADOPTED: _S.RUNNING,
    _C.PAUSED: _S.PARKED,
    _C.DRAFTED: _S.PARKED,
    _C.PREEMPTED: _S.QUEUED,
}

#: state -> cause -> next state. A missing pair is a bug and raises `IllegalMove`.
TABLE: dict[JobState, dict[Cause, JobState]] = {
    _S.QUEUED: {
        **_ANY_LIVE,
        _C.SUBMITTED: _S.QUEUED,
        _C.PROMISE_BROKEN: _S.QUEUED,
        _C.DISPATCHED: _S.ASSIGNED,
        _C.ADOPTED: _S.RUNNING,
        _C.PAUSED: _S.PARKED,
    },
    _S.DELAYED: {
        **_ANY_LIVE,
        _C.PROMISE_BROKEN: _S.DELAYED,
        _C.DUE: _S.QUEUED,
        _C.ADOPTED: _S.RUNNING,
        _C.PAUSED: _S.PARKED,
    },
    _S.PARKED: {
        **_ANY_LIVE,
        _C.ADOPTED: _S.RUNNING,
        _C.RESUMED: _S.QUEUED,
        _C.COMMITTED: _S.QUEUED,
        _C.DRAFTED: _S.PARKED,
        _C.PROMISE_BROKEN: _S.PARKED,
    },
    _S.ASSIGNED: {
        **_HELD,
        **dict.fromkeys((_C.STOP_REQUESTED, _C.PARK_REQUESTED, _C.RESUMED, _C.PROMISE_BROKEN), _S.ASSIGNED),
        _C.STARTED: _S.RUNNING,
        _C.REFUSED: _S.QUEUED,
    },
    _S.RUNNING: {
        **_HELD,
        **dict.fromkeys((_C.STOP_REQUESTED, _C.PARK_REQUESTED, _C.RESUMED, _C.PROMISE_BROKEN), _S.RUNNING),
        _C.REFUSED: _S.QUEUED,
    },
    _S.SUCCEEDED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}

#: "": it is not being stopped; its client requested it; its deadline passed.
Stop = Literal["", "cancel", "expired"]

#: reason in force -> reasons that may take its place.
STOPS: dict[Stop, frozenset[Stop]] = {
    "": frozenset(("cancel", "expired")),
    "cancel": frozenset(),
    "expired": frozenset(),
}

#: "": it may be in an engine; its client paused it; its worker's attempt is to make room.
Park = Literal["", "pause", "preempt"]

#: wish in force -> wishes that may take its place. A pause that is taken back after `Park` was sent becomes a preemption: the
#: job will come back, and goes on.
PARKS: dict[Park, frozenset[Park]] = {
    "": frozenset(("pause", "preempt")),
    "pause": frozenset(("", "preempt")),
    "preempt": frozenset(("", "pause")),
}

#: A worker is about to be sent the attempt; a worker has one that was granted before; nothing of the attempt counts any more; it is that of
#: a damaged row, which no grant can have borne.
FenceEvent = Literal["granted", "adopted", "closed", "voided"]

#: event -> how the next fence must compare to the one before.
FENCES: dict[FenceEvent, Callable[[int, int], bool]] = {"granted": gt, "adopted": ge, "closed": gt, "voided": lt}

Holder = Literal["nobody", "worker", "orphaned"]
HolderEvent = Literal["granted", "adopted", "released", "restored"]

#: event -> holder -> next holder.
HOLDERS: dict[HolderEvent, dict[Holder, Holder]] = {
    "granted": {"nobody": "worker"},
    "adopted": {"nobody": "worker", "worker": "worker", "orphaned": "worker"},
    "released": {"nobody": "nobody", "worker": "nobody", "orphaned": "nobody"},
    # Again, when the first attempt to take all jobs back raised over one of them.
    "restored": {"nobody": "orphaned", "orphaned": "orphaned"},
}

#: Moves whose row may be lost in a crash: the worker's next `Hello` reports them again, and fences never repeat.
LAZY = frozenset((Cause.DISPATCHED, Cause.STARTED, Cause.ADOPTED, Cause.DUE))


class IllegalMove(Exception):
    """A change that no table has: a bug in the core, never a peer's fault."""

    def __init__(self, job: Job, what: str) -> None:
        history = " | ".join(f"{m.source}->{m.target} ({m.cause})" for m in job.history)
        super().__init__(f"job {job.id} is {job.state}, {what}; history: {history}")


class DamagedRecord(Exception):
    """A job's bytes on disk are not those that were written."""


class SetAside(Struct, frozen=True, kw_only=True):
    """The mark of a live job that the core could not handle: nothing is done with it until its operator decides."""

    reason: str
    at: float
    #: The job's revision from then on.
    revision: int
    #: "cancel" when that was requested meanwhile: it ends so when it is released.
    stop: Stop = ""
    #: Its row could be read.
    readable: bool = True


class JobRecord(Struct, kw_only=True, array_like=True):
    """Mutable part of a job, of no use to a search: the journal packs it by position, so new fields go at the end, with a default."""

    revision: int = 0
    #: Attempts begun in an engine; crashes (`wire.failures`) and losses (worker or link gone) apart.
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    #: Ordinary errors raised by the pipeline.
    errors: int = 0
    stop: Stop = ""
    profile: Profile = "normal"
    #: Workers it crashed on; any other is preferred.
    excluded: tuple[str, ...] = ()
    started_at: float = 0.0
    finished_at: float = 0.0
    #: While delayed: when it is due.
    not_before: float = 0.0
    run_s: float = 0.0
    failure: Failure | None = None
    result: Result | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    #: Denoising steps of the job that lie in a checkpoint, by its workers' latest report.
    kept: int = 0
    park: Park = ""
    #: Its client took its draft for good.
    committed: bool = False
    #: Fence of the attempt whose directory holds the draft's picture.
    draft_fence: int = 0
    #: Since when it is parked (`Job.parked`); 0: it is not.
    parked_at: float = 0.0
    #: How often it made room for a shorter job, and for how many seconds in all it then waited.
    preemptions: int = 0
    preempted_s: float = 0.0
    promise: Promise | None = None
    #: Name of the machine on which that checkpoint was written; "": it is not known.
    kept_host: str = ""
    #: Denoising steps drawn, and of how many, as the last attempt that came to them reported.
    drawn: tuple[int, int] = (0, 0)


class Job(JobRecord, kw_only=True, array_like=False):
    """A job. Only the core changes it; the journal writes it and reads it back."""

    id: str
    submission: Submission
    #: The job spec's bytes, opaque here; read with `State.body`.
    body: bytes
    deadline_at: float = 0.0
    submitted_at: float = 0.0

    state: JobState = JobState.QUEUED
    fence: int = 0
    #: Name of the worker that holds it, or held it last.
    worker: str = ""
    #: Only on a job out of the archive, never on one in the core's memory.
    set_aside: SetAside | None = None
    #: Only on a job out of the archive that is over: why its record cannot be read; what is here of it is a guess.
    damaged: str = ""

    #: Its webhook's deliveries by number, at most one an event. In rows of their own; only on a job in the core's memory.
    deliveries: dict[int, Delivery] = field(default_factory=dict)

    # Not journaled: forgotten in a restart, rebuilt from workers' reports.
    holder: Holder = "nobody"
    #: `body` is empty because only the journal has it: see `spec_cache`.
    evicted: bool = False
    phase: Phase = ""
    step: int = 0
    total: int = 0
    #: When its worker last reported another step, in whichever attempt.
    stepped_at: float = 0.0
    #: Predicted run time when it was queued, seconds; its weight in the queue.
    cost: float = 0.0
    #: Seconds of other work that model affinity has put before it.
    skipped_s: float = 0.0
    #: GPUs of the worker that holds it, or held it last; 0: not known.
    held_gpus: int = 0
    #: When the current grant was sent, last.
    granted_at: float = 0.0
    #: How often it was sent again.
    resends: int = 0
    #: Fence of the last attempt counted in `attempts`.
    begun: int = 0
    #: `kept` when the current grant was made: what the attempt need not do.
    goes_on_from: int = 0
    #: The job for which this one made room, which goes first.
    yields_to: str = ""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def closed(self) -> bool:
        """Whether reports of workers about it are ignored."""
        return self.state in FINAL or self.set_aside is not None

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def held(self) -> bool:
        return self.state in HELD

    @property
    def draft_due(self) -> bool:
        """Whether it has come as far as its draft, which its client has not committed."""
        draft_steps = self.submission.draft_steps
        return bool(draft_steps) and not self.committed and self.kept >= draft_steps

    @property
    def parked(self) -> ParkedName:
        """Reason why it is parked."""
        if self.state is JobState.PARKED:
            return "paused" if self.park == "pause" else "draft"
        return "preempted" if self.parked_at and self.state is JobState.QUEUED else ""

    def left(self, units: float, done: int) -> float:
        """That part of `units` of work which is left when so many of its steps are done."""
        steps = self.submission.steps
        return units * max(0.0, 1.0 - done / steps) if steps and done else units

    def move(self, cause: Cause, now: float, note: str = "") -> JobState | None:
        """Apply a row of `TABLE`, write the history, return the state it left (None: it is new). Raises `IllegalMove`."""
        source: JobState | None = self.state
        try:
            target = TABLE[self.state][cause]
        except KeyError:
            raise IllegalMove(self, f"cannot move by {cause}") from None
        history = self.history
        if not history:
            source = None
        self.state = target
        if target in FINAL:
            self.finished_at = now
        if len(history) >= MAX_HISTORY:
            del history[MAX_HISTORY // 2]
        history.append(
            HistoryEntry(
                now, source or "", target, cause, self.attempts, self.worker, note and note[:200], self.held_gpus
            )
        )
        return source

    def move_through(self, via: Cause, via_at: float, cause: Cause, now: float) -> tuple[JobState | None, JobState]:
        """Make two moves at once; the states it left (None: it is new) and passed. Raises `IllegalMove`.

        The first, of `via_at`, is that of no worker where the job is new, the second that of the worker it has by now.
        """
        source: JobState | None = self.state
        try:
            between = TABLE[self.state][via]
            target = TABLE[between][cause]
        except KeyError:
            raise IllegalMove(self, f"cannot move by {via} and then {cause}") from None
        history, worker = self.history, self.worker
        if not history:
            source = None
        self.state = target
        if target in FINAL:
            self.finished_at = now
        if len(history) >= MAX_HISTORY - 1:
            del history[MAX_HISTORY // 2 : MAX_HISTORY // 2 + 2]
        gpus = self.held_gpus
        first = HistoryEntry(
            via_at, source or "", between, via, self.attempts, worker if source else "", "", gpus if source else 0
        )
        history += (first, HistoryEntry(now, between, target, cause, self.attempts, worker, "", gpus))
        return source, between

    def request_stop(self, reason: Stop) -> None:
        """Apply a row of `STOPS`. Raises `IllegalMove` for a job that is over, or has a reason."""
        if reason not in STOPS[self.stop] or self.state in FINAL:
            raise IllegalMove(self, f"stop {self.stop!r}, cannot be stopped by {reason!r}")
        self.stop = reason

    def wish_park(self, reason: Park) -> None:
        """Apply a row of `PARKS`. Raises `IllegalMove` for a job that is over, or has this wish."""
        if reason not in PARKS[self.park] or self.state in FINAL:
            raise IllegalMove(self, f"park {self.park!r}, cannot be {reason!r}")
        self.park = reason

    def renew_fence(self, event: FenceEvent, fence: int) -> None:
        """Apply a row of `FENCES`: the current attempt is that of `fence` from now on. Raises `IllegalMove`."""
        if not FENCES[event](fence, self.fence) or self.state in FINAL:
            raise IllegalMove(self, f"fence {self.fence:#x}, cannot be {event} with {fence:#x}")
        self.fence = fence

    def change_holder(self, event: HolderEvent) -> None:
        """Apply a row of `HOLDERS`. Raises `IllegalMove`."""
        targets = HOLDERS[event]
        if self.holder not in targets or (targets[self.holder] != "nobody" and self.state in FINAL):
            raise IllegalMove(self, f"held by {self.holder}, cannot be {event}")
        self.holder = targets[self.holder]

    def begin_attempt(self, now: float) -> None:
        """Count the attempt of the current fence, once."""
        if self.begun != self.fence:
            self.begun = self.fence
            self.attempts += 1
            self.started_at = now
            self.phase, self.step, self.total = "", 0, 0
