"""The thread that moves a worker's files to its depot and the inputs of its jobs to its machine, beside the engine's next job.

Orders are tried again with growing pauses until they are done, revoked, or over their budget of time. Outcomes are read from `take`, after
`fileno` became readable.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from broker.runtime.log_actions import Action
from workers.depot.depot import Depot, DepotFile, InputGone, NotNow, Revoked
from workers.depot.input_cache import InputCache

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0

#: Removals of what does not count are tried so often: the edge's sweep finds the rest.
_DISCARD_TRIES = 5


class Put(Struct, frozen=True, kw_only=True):
    """Put an attempt's files. Done: `Outcome` of this fence."""

    job_id: str
    fence: int
    files: tuple[DepotFile, ...]
    budget_s: float


class Fetch(Struct, frozen=True, kw_only=True):
    """Fetch the inputs of an attempt. Done: `Outcome` of this fence."""

    fence: int
    names: tuple[str, ...]
    budget_s: float


class Discard(Struct, frozen=True, kw_only=True):
    """Remove what was put of an attempt. Nobody waits for it."""

    job_id: str
    fence: int


class PutExtra(Struct, frozen=True, kw_only=True):
    """Put a picture of a job that is not over, if it can be put now: nobody waits for it."""

    fence: int
    key: str
    path: Path


Order = Put | Fetch | Discard | PutExtra


class Outcome(Struct, frozen=True, kw_only=True):
    """An order of this fence is over. `fault`: why it failed; "": it did not."""

    order: Order
    fault: str = ""
    #: An input is not there any more, and never will be.
    gone: bool = False


class _Job:
    """An order and its tries."""

    def __init__(self, order: Order, now: float) -> None:
        self.order = order
        self.next_at = now
        self.began_at = now
        self.tries = 0
        self.done = 0
        self.fault = ""


class _Lane:
    """A thread that carries out orders one after the other; it starts with the first."""

    def __init__(self, depot: Depot, cache: InputCache, report: Callable[[Outcome], None]) -> None:
        self._depot = depot
        self._cache = cache
        self._report = report
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._ended = False

    def order(self, order: Order) -> None:
        with self._changed:
            self._jobs.append(_Job(order, time.monotonic()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="depot", daemon=True)
                self._thread.start()
            self._changed.notify()

    def revoke(self, fence: int) -> None:
        with self._changed:
            self._jobs = [job for job in self._jobs if isinstance(job.order, Discard) or job.order.fence != fence]

    def hurry(self) -> None:
        with self._changed:
            for job in self._jobs:
                job.next_at = 0.0
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._jobs.clear()
            self._changed.notify()

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while (job := self._next()) is not None:
            outcome = self._try(job)
            with self._changed:
                if outcome is None or job not in self._jobs:
                    continue
                self._jobs.remove(job)
            if isinstance(job.order, Put | Fetch):
                self._report(outcome)

    def _next(self) -> _Job | None:
        """Wait for the next job that is due; None: it is over."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                due = min(self._jobs, key=lambda job: job.next_at, default=None)
                if due is not None and due.next_at <= now:
                    return due
                self._changed.wait(None if due is None else due.next_at - now)
        return None

    def _try(self, job: _Job) -> Outcome | None:
        """Try once; None: it is to be tried again."""
        try:
            self._carry_out(job, lambda: job not in self._jobs)
        except InputGone as error:
            return Outcome(order=job.order, fault=str(error), gone=True)
        except (NotNow, OSError) as error:
            return self._put_off(job, str(error))
        except Exception as error:  # the thread's outermost point: the other orders go on, and this one's budget ends
            return self._put_off(job, f"{type(error).__name__}: {error}")
        if job.fault:
            logger.info("depot answers again", extra={"action": Action.DEPOT, "detail": f"after {job.tries} tries"})
        return Outcome(order=job.order)

    def _put_off(self, job: _Job, fault: str) -> Outcome | None:
        now = time.monotonic()
        job.tries += 1
        if isinstance(job.order, PutExtra):
            return Outcome(order=job.order, fault=fault)
        if fault != job.fault and job in self._jobs:
            logger.warning("depot", extra={"action": Action.DEPOT, "detail": f"{fault}; it is tried again"})
        job.fault = fault
        waited_s = now - job.began_at
        over = job.tries >= _DISCARD_TRIES if isinstance(job.order, Discard) else waited_s >= job.order.budget_s
        if over:
            return Outcome(order=job.order, fault=f"{fault} (tried {job.tries} times in {waited_s:.0f} s)")
        job.next_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(job.tries - 1, 8))
        return None

    def _carry_out(self, job: _Job, revoked: Revoked) -> None:
        match job.order:
            case Put(files=files):
                for file in files[job.done :]:
                    self._depot.put(file, revoked, again=job.tries > 0)
                    job.done += 1
            case Fetch(names=names):
                for name in names:
                    if not self._cache.holds(name, time.time()):
                        self._depot.fetch(name, self._cache.path(name), revoked)
                self._cache.trim(time.time())
            case Discard(job_id=job_id, fence=fence):
                self._depot.discard(job_id, fence)
            case PutExtra(key=key, path=path):
                data = path.read_bytes()
                file = DepotFile(key=key, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
                self._depot.put(file, revoked, again=False)


class Transfers:
    """The orders of one worker. What is fetched, for an engine that waits, does not wait for what is put."""

    def __init__(self, depot: Depot, cache: InputCache) -> None:
        self._depot = depot
        self._outcomes: deque[Outcome] = deque()
        self._readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._fetches = _Lane(depot, cache, self._report)
        self._puts = _Lane(depot, cache, self._report)

    def fileno(self) -> int:
        """Descriptor that is readable when there are outcomes."""
        return self._readable

    def set_key(self, key: str) -> None:
        """Sign with this key from now on; what waits for one is tried at once."""
        if key != self._depot.key:
            self._depot.key = key
            self._fetches.hurry()
            self._puts.hurry()

    def order(self, order: Order) -> None:
        """Do this when its turn comes."""
        (self._fetches if isinstance(order, Fetch) else self._puts).order(order)

    def revoke(self, fence: int) -> None:
        """Do not put or fetch for this attempt any more."""
        self._fetches.revoke(fence)
        self._puts.revoke(fence)

    def take(self) -> list[Outcome]:
        """The outcomes since the last call."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._readable, 4096):
                pass
        outcomes = []
        with contextlib.suppress(IndexError):
            while True:
                outcomes.append(self._outcomes.popleft())
        return outcomes

    def close(self) -> None:
        """End the threads soon, whatever they are at."""
        self._fetches.close()
        self._puts.close()

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        with contextlib.suppress(BlockingIOError):
            os.write(self._writable, b".")
