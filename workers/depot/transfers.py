"""The thread that moves a worker's files to its depot and the inputs of its jobs to its machine, beside the engine's next job.

`orders` decides what is tried when. Outcomes are read from `take`, after `fileno` became readable.
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

from broker.depot import tokens
from broker.runtime.job_paths import read_regular, regular_names
from broker.runtime.log_actions import Action
from broker.wire.job_files import checkpoint_name, checkpoint_of, newest_checkpoints
from workers.depot.depot import Depot, DepotFile, InputGone, NotNow, Refused, Revoked
from workers.depot.input_cache import InputCache
from workers.depot.orders import (
    Attempted,
    Backlog,
    Delay,
    Discard,
    Fetch,
    Kept,
    Order,
    Outcome,
    Put,
    PutCheckpoints,
    PutExtra,
)

logger = logging.getLogger(__name__)

#: For so long an engine waits for checkpoints that its job may go on from.
_CHECKPOINTS_S = 60.0


class _Lane:
    """A thread that carries out orders one after the other; it starts with the first."""

    def __init__(self, depot: Depot, cache: InputCache, report: Callable[[Outcome | Delay], None]) -> None:
        self._depot = depot
        self._cache = cache
        self._report = report
        self._changed = threading.Condition()
        self._backlog = Backlog()
        self._thread: threading.Thread | None = None
        self._ended = False

    def order(self, order: Order) -> None:
        with self._changed:
            self._backlog.add(order, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="depot", daemon=True)
                self._thread.start()
            self._changed.notify()

    def revoke(self, fence: int) -> None:
        with self._changed:
            self._backlog.revoke(fence)

    def hurry(self) -> None:
        with self._changed:
            self._backlog.hurry()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._backlog.clear()
            self._changed.notify()

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while (one := self._next()) is not None:
            outcome = self._try(one)
            with self._changed:
                if outcome is None or one not in self._backlog:
                    continue
                self._backlog.done(one)
            if _awaited(one.order):
                self._report(outcome)

    def _next(self) -> Attempted | None:
        """Wait for the next order that is due; None: it is over."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                due = self._backlog.next()
                if due is not None and due.next_at <= now:
                    return due
                self._changed.wait(None if due is None else due.next_at - now)
        return None

    def _try(self, one: Attempted) -> Outcome | None:
        """Try once; None: it is to be tried again."""
        try:
            self._carry_out(one, lambda: one not in self._backlog)
        except InputGone as error:
            return Outcome(order=one.order, fault=str(error), gone=True)
        except (NotNow, OSError) as error:
            return self._put_off(one, str(error))
        except Exception as error:  # the thread's outermost point: the other orders go on, and this one's budget ends
            return self._put_off(one, f"{type(error).__name__}: {error}")
        if one.fault:
            logger.info("depot answers again", extra={"action": Action.DEPOT, "detail": f"after {one.tries} tries"})
        return Outcome(order=one.order)

    def _put_off(self, one: Attempted, fault: str) -> Outcome | None:
        logged = one.fault
        with self._changed:
            outcome = self._backlog.put_off(one, fault, time.monotonic())
            reusable = outcome is None and one in self._backlog
        if reusable and fault != logged:
            logger.warning("depot", extra={"action": Action.DEPOT, "detail": f"{fault}; it is tried again"})
            if _awaited(one.order):
                self._report(Delay(fence=one.order.fence, fault=fault))
        return outcome

    def _carry_out(self, one: Attempted, revoked: Revoked) -> None:
        match one.order:
            case Put(files=files, again=again):
                for file in files[one.done :]:
                    self._depot.put(file, revoked, again=again or one.tries > 0)
                    one.done += 1
            case Fetch(names=names, budget_s=budget_s):
                for name in names:
                    if not self._cache.holds(name, time.time()):
                        self._depot.fetch(name, self._cache.path(name), revoked)
                self._cache.trim(time.time())
                if one.order.kept is not None:
                    self._fetch_checkpoints(one.order.kept, one.began_at + min(_CHECKPOINTS_S, budget_s / 2), revoked)
            case Discard(job_id=job_id, fence=fence):
                self._depot.discard(job_id, fence)
            case PutExtra(key=key, path=path):
                data = read_regular(path)
                file = DepotFile(key=key, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
                self._depot.put(file, revoked, again=False)
            case PutCheckpoints(kept=kept):
                for output, step in newest_checkpoints(regular_names(kept.directory)).items():
                    self._depot.put(_checkpoint(kept, checkpoint_name(output, step)), revoked, again=False)

    def _fetch_checkpoints(self, kept: Kept, give_up_at: float, revoked: Revoked) -> None:
        """Fetch what a job may go on from and is not here. Where that cannot be had by then the job begins anew, or from what is here.

        Raises `NotNow` if it may be had a little later.
        """

        def over() -> bool:
            return revoked() or time.monotonic() > give_up_at

        try:
            here = newest_checkpoints(regular_names(kept.directory)) if kept.directory.is_dir() else {}
            for key in self._depot.checkpoints(kept.job_id, kept.fence):
                name = key.rpartition("/")[2]
                output, step = checkpoint_of(name) or (0, 0)
                if step > here.get(output, 0):
                    self._depot.fetch_checkpoint(key, kept.directory / name, over)
        except (NotNow, OSError) as error:
            if isinstance(error, NotNow) and not isinstance(error, Refused) and not over():
                raise
            extra = {"action": Action.CHECKPOINT, "job_id": kept.job_id, "detail": str(error)}
            logger.warning("checkpoints of another machine cannot be had", extra=extra)


def _awaited(order: Order) -> bool:
    """Whether an attempt waits for it."""
    return isinstance(order, Put | Fetch) or (isinstance(order, PutCheckpoints) and order.awaited)


def _checkpoint(kept: Kept, name: str) -> DepotFile:
    path = kept.directory / name
    data = read_regular(path)
    key = tokens.checkpoint_key(kept.job_id, kept.fence, name)
    return DepotFile(key=key, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


class Transfers:
    """The orders of one worker. What is fetched, for an engine that waits, does not wait for what is put, nor results for checkpoints."""

    def __init__(self, depot: Depot, cache: InputCache) -> None:
        self._depot = depot
        self._outcomes: deque[Outcome | Delay] = deque()
        self._readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._fetches = _Lane(depot, cache, self._report)
        self._puts = _Lane(depot, cache, self._report)
        self._checkpoints = _Lane(depot, cache, self._report)
        self._lanes = (self._fetches, self._puts, self._checkpoints)

    def fileno(self) -> int:
        """Descriptor that is readable when there are outcomes."""
        return self._readable

    def set_key(self, key: str) -> None:
        """Sign with this key from now on; what waits for one is tried at once."""
        if key != self._depot.key:
            self._depot.key = key
            for lane in self._lanes:
                lane.hurry()

    def order(self, order: Order) -> None:
        """Do this when its turn comes."""
        match order:
            case Fetch():
                self._fetches.order(order)
            case PutCheckpoints() | PutExtra(parked=True):
                self._checkpoints.order(order)
            case _:
                self._puts.order(order)

    def revoke(self, fence: int) -> None:
        """Do not put or fetch for this attempt any more."""
        for lane in self._lanes:
            lane.revoke(fence)

    def take(self) -> list[Outcome | Delay]:
        """The outcomes since the last call, and the reasons why others are delayed."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._readable, 4096):
                pass
        outcomes: list[Outcome | Delay] = []
        with contextlib.suppress(IndexError):
            while True:
                outcomes.append(self._outcomes.popleft())
        return outcomes

    def close(self) -> None:
        """End the threads soon, whatever they are at."""
        for lane in self._lanes:
            lane.close()

    def _report(self, outcome: Outcome | Delay) -> None:
        self._outcomes.append(outcome)
        with contextlib.suppress(BlockingIOError):
            os.write(self._writable, b".")
