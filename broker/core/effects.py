"""Effects: orders of the core to its shell, and `PeerGone`, a report of the shell to the core."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

from broker.core.deliveries import Delivery
from broker.core.jobs import Cause, Job, SetAside
from broker.wire.messages import Message, Run
from broker.wire.terms import JobState


class Send(Struct, frozen=True, gc=False):
    """Send a message to a peer, after the commit unless it is `early`. A peer that cannot be reached comes back as `PeerGone`."""

    peer: bytes
    message: Message
    #: It may go before the commit, and before all that is not early: see `State.send_run`.
    early: bool = False


class SendRun(Struct, frozen=True, gc=False):
    """As `Send`, for a grant of a job whose spec the journal alone has: the shell puts it in. One that cannot be read is an
    error over the job."""

    peer: bytes
    message: Run
    early: bool


class Step(NamedTuple):
    """One move of a job: a line of its history, of the log, and a count."""

    source: JobState | None
    target: JobState
    cause: Cause
    worker: str
    note: str = ""


class Transition(Struct, frozen=True, gc=False):
    """Move of a job: the single source of its log line, its journal row and its metric.

    `durable`: the row must be on disk before anything of this pass is sent. Two moves at once are one: see `Step`.
    """

    #: As it is now; the other fields are of the move.
    job: Job
    attempt: int
    source: JobState | None
    target: JobState
    cause: Cause
    durable: bool
    worker: str = ""
    note: str = ""
    #: The state between, where it was two moves, and the cause of the first.
    via: tuple[JobState, Cause] | None = None

    @property
    def job_id(self) -> str:
        return self.job.id

    def steps(self) -> tuple[Step, ...]:
        """The moves, in order."""
        if self.via is None:
            return (Step(self.source, self.target, self.cause, self.worker, self.note),)
        between, cause = self.via
        first = Step(self.source, between, cause, self.worker if self.source else "")
        return first, Step(between, self.target, self.cause, self.worker, self.note)


class RecordDeleted(Struct, frozen=True, gc=False):
    """Delete the row of a final job before anything of this pass is sent."""

    job_id: str


class Marked(Struct, frozen=True, gc=False):
    """Write a job's mark (None: it is set aside no more) before anything of this pass is sent, and before its next row."""

    job: Job
    mark: SetAside | None


class DeliveryChanged(Struct, frozen=True, gc=False):
    """Write the row of a webhook delivery, new or changed, before anything of this pass is sent."""

    delivery: Delivery


class WorkerNoted(Struct, frozen=True, gc=False):
    """Log and count an event of a worker that its operator should read."""

    worker: str
    action: Literal[
        "worker_tripped",
        "worker_restored",
        "drain_requested",
        "undrain_requested",
        "device_fault",
        "depot_full",
        "depot_room",
    ]
    text: str


class PeerGone(Struct, frozen=True):
    """Report to `receive`: this address cannot be reached any more."""


Effect = Send | SendRun | Transition | RecordDeleted | Marked | DeliveryChanged | WorkerNoted
