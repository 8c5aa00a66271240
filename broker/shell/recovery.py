"""Recovery from an error of the core: the job it was about is set aside, and the others go on.

An exception out of the core is a bug, or a row that no core can have written. What it left in memory cannot be trusted, and neither can
what this pass has staged. So the broker does what a kill and a restart would do, which every peer is used to, without closing its sockets:
what is not committed is forgotten, the epoch is raised, the job is marked on disk, and the core is filled anew from the journal. Workers
are sent `Identify`; requests that were not answered are repeated by their senders.

The job is found in the traceback: the innermost function that was at work on one. This costs nothing while nothing goes wrong, and cannot
be forgotten in a function that is written later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from traceback import format_exception_only, walk_tb
from types import FrameType

import msgspec

from broker.core.deliveries import Delivery
from broker.core.effects import PeerGone, Send
from broker.core.jobs import Job
from broker.core.machine import Core, UnsoundJob
from broker.runtime.errors import IdTaken, JournalConflict, ShellError
from broker.runtime.log_actions import Action
from broker.shell.journal.journal import Journal
from broker.shell.lookups import with_spec
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: So many failures at once may be of single jobs; one more every so many seconds for ever. Faster than that, it is not the jobs.
BUDGET = 32
REFILL_S = 5.0

#: Questions, whose handlers change nothing.
_QUESTIONS = (m.GetJob, m.ListJobs, m.GetPool, m.ListSetAside, m.GetUsage)


class Recovery:
    """Loads the core from the journal, at the start and whenever it has raised."""

    def __init__(self, core: Core, journal: Journal) -> None:
        self._core = core
        self._journal = journal
        #: Exceptions out of the core that the broker has gone on after.
        self.failures = 0
        self._left: float = BUDGET
        self._left_at = 0.0

    def load(self, now: float) -> int:
        """Fill the core with what the journal holds; how many live jobs that is. A job that cannot be taken is set aside.

        Raises `ShellError`, or what the core raised when that is about no job, or about too many.
        """
        if not self._left_at:  # a broker that ends for too many failures is likely started again
            self._left -= self._journal.asides.since(now - BUDGET * REFILL_S)
            self._left_at = now
        jobs, rates = self._journal.live(now), self._journal.rates()
        while True:
            self._core.reset(self._journal.epoch, now)
            try:
                self._core.restore(jobs, rates, now, empty=self._journal.empty)
            except ShellError:
                raise
            except Exception as error:
                job_id, _ = subject(error)
                if not any(job.id == job_id for job in jobs):
                    raise
                self._spend(error, now)
                self._set_aside(job_id, error, now)
                jobs = [job for job in jobs if job.id != job_id]
            else:
                return len(jobs)

    def recover(
        self, error: Exception, now: float, peer: bytes = b"", message: m.Message | PeerGone | None = None
    ) -> list[Send]:
        """Go on after this exception, in answer to `message` if there was one; what is to be sent now.

        Raises it again when it is no single job's: a `ShellError`, or one too many.
        """
        if isinstance(error, ShellError) and not isinstance(error, JournalConflict):
            raise error
        if isinstance(error, IdTaken):
            return self._look_up_fresh_ids(error, now)
        job_id, delivery = subject(error)
        if not job_id and message is not None:
            job_id = getattr(message, "job_id", "")
        if isinstance(message, _QUESTIONS) and not _gave_out_work(error):
            self._log("question not answered", job_id, error)
            self.failures += 1
            return []
        self._spend(error, now)
        workers = [worker.peer for worker in self._core.state.pool if not worker.lost]
        self._journal.discard()
        if delivery is not None:
            self._give_up(delivery, error)
        elif not (job_id and self._set_aside(job_id, error, now)):
            self._log("the core raised", job_id, error)
        self.load(now)
        sends = [Send(worker, m.Identify()) for worker in workers]
        if delivery is not None and isinstance(message, m.DeliveryDone):
            sends.append(Send(peer, m.DeliveryNoted(req=message.req)))
        if getattr(message, "job_id", "") != job_id:
            return sends
        if isinstance(message, m.SettleSetAside):
            sends.append(Send(peer, m.SetAsideSettled(req=message.req, outcome="raised")))
        elif isinstance(message, m.Submit) and self._journal.find(job_id) is None:
            text = f"the broker cannot handle this job: {_sentence(error)}"
            sends.append(Send(peer, m.Rejected(req=message.req, code="invalid", message=text)))
        return sends

    def _look_up_fresh_ids(self, error: IdTaken, now: float) -> list[Send]:
        """Begin anew: for a while after that ids are looked up, so that the repeated request is answered by what is there."""
        workers = [worker.peer for worker in self._core.state.pool if not worker.lost]
        extra = {"action": Action.ID_TAKEN, "job_id": error.job_ids[0], "reason": str(error)}
        logger.warning("a fresh id is taken", extra=extra)
        self._journal.discard()
        self.load(now)
        return [Send(worker, m.Identify()) for worker in workers]

    def _spend(self, error: Exception, now: float) -> None:
        """Count a failure. Raises the error when it is one too many."""
        self._left = min(BUDGET, self._left + max(0.0, now - self._left_at) / REFILL_S)
        self._left_at = now
        if self._left < 1:
            logger.critical("too many failures to be of single jobs", extra={"action": Action.CORE_FAILED})
            raise error
        self._left -= 1
        self.failures += 1

    def _set_aside(self, job_id: str, error: Exception, now: float) -> bool:
        """False when there is no such live job on disk."""
        readable = not isinstance(error, UnsoundJob)
        if not self._journal.set_aside(job_id, _sentence(error), now, readable=readable):
            return False
        job = self._journal.find(job_id)
        moves = [f"{move.source or 'new'} > {move.target} ({move.cause})" for move in job.history] if job else []
        self._log("job set aside", job_id, error, action=Action.SET_ASIDE, moves="; ".join(moves))
        return True

    def _give_up(self, delivery: Delivery, error: Exception) -> None:
        """A delivery that cannot be handled is tried no more."""
        self._journal.deliveries.stage(
            msgspec.structs.replace(delivery, state="failed", claim=0, note=_sentence(error)[:200])
        )
        self._journal.commit()
        self._log("webhook delivery given up", delivery.job_id, error)

    @staticmethod
    def _log(what: str, job_id: str, error: Exception, action: Action = Action.CORE_FAILED, **more: str) -> None:
        extra = {"action": action, "job_id": job_id or None, "reason": _sentence(error), **more}
        logger.error(what, extra=extra, exc_info=error)


def subject(error: Exception) -> tuple[str, Delivery | None]:
    """(job, webhook delivery) that the core was at work on when it raised, as far as that can be determined; ("", None) when not."""
    if isinstance(error, JournalConflict):
        return error.job_id, None
    for frame in _frames(error):
        found = frame.f_locals
        for name in ("job", "self", "delivery"):
            value = found.get(name)
            if isinstance(value, Job):
                return value.id, None
            if isinstance(value, Delivery):
                return value.job_id, value
        if isinstance(job_id := found.get("job_id"), str):
            return job_id, None
    return "", None


def _gave_out_work(error: Exception) -> bool:
    """Whether it was raised behind the handler, where every call gives out work."""
    behind = (Core.finish_pass.__code__, with_spec.__code__)
    return any(frame.f_code in behind for frame in _frames(error))


def _frames(error: Exception) -> Iterator[FrameType]:
    """The functions it came through, innermost first."""
    return reversed([frame for frame, _ in walk_tb(error.__traceback__)])


def _sentence(error: Exception) -> str:
    return format_exception_only(error)[-1].strip()[:256]
