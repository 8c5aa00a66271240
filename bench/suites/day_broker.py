"""A broker on a made-up clock, for a simulated day: the real core over a real journal, which is killed and started again.

Messages of `PASS_S` seconds are one pass: it commits once, and what it sends arrives at its end. A pass in which the broker is killed is
lost, with all that it has not committed.
"""

from __future__ import annotations

import gc
import heapq
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker.core.effects import Effect, Send, Transition
from broker.core.machine import Core, Policy
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import SqliteStore
from broker.testing import feed, quiet_executor
from broker.wire import messages as m
from broker.wire.terms import FINAL, JobState

PASS_S = 0.25
#: How often rows that may be lost are written all the same, seconds.
TIDY_S = 60.0

#: What the core's clock begins at.
_START = 1_000_000.0

#: By their numbers in `Outcome.states`; the first stands for a job that is not over.
STATES = (JobState.QUEUED, *sorted(FINAL))


class Clock:
    """What is to happen, in order of time, seconds."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, second: float, what: Callable[..., None], *about: Any) -> None:
        """Have `what` called then, with what it is about and the time."""
        self._order += 1
        heapq.heappush(self._events, (second, self._order, what, about))

    @property
    def next_at(self) -> float:
        """When the next thing happens. Raises `IndexError` when nothing does."""
        return self._events[0][0]

    def run_until(self, end: float, before: Callable[[float], None]) -> None:
        """Let everything happen that is due before `end`; `before` is called with the time of each."""
        events = self._events
        while events and events[0][0] < end:
            now, _, what, about = heapq.heappop(events)
            before(now)
            what(*about, now)


class Outcome(Struct):
    """What became of the jobs. Arrays are by job; -1: it never was."""

    starts: array[float]
    ends: array[float]
    states: bytearray
    #: Jobs that ended once more after their end, and those of them that were published twice.
    ended_twice: int = 0
    published_twice: int = 0
    #: Attempts that died with their machine, and worker-seconds of all that came to nothing.
    lost_attempts: int = 0
    wasted_s: float = 0.0
    #: How often the broker was killed and started again.
    kills: int = 0
    passes: int = 0
    messages: int = 0
    most_waiting: int = 0
    #: Of the slowest start over the journal, processor seconds.
    slowest_start_s: float = 0.0

    @classmethod
    def of(cls, jobs: int) -> Outcome:
        """None has begun."""
        return cls(array("d", [-1.0]) * jobs, array("d", [-1.0]) * jobs, bytearray(jobs))


class DayBroker:
    """All lives of the broker on one journal."""

    def __init__(self, path: Path, outcome: Outcome) -> None:
        # Heartbeats that change nothing are left out, so that silence has no meaning here: workers that die are reported when their leases
        # end.
        self._policy = Policy(queue_limit=10_000_000, suspect_after_s=1e9, lost_after_s=2e9)
        self._path = path
        self._outcome = outcome
        self._tidy_at = TIDY_S
        #: Messages of this pass, and the jobs that ended in it.
        self._taken: list[tuple[bytes, m.Message]] = []
        self._endings: list[tuple[int, JobState, float]] = []
        self.up = False
        self.start(0.0)

    def start(self, now: float) -> None:
        """Open the journal, and take back what it holds."""
        begun = time.process_time()
        gc.disable()  # as the broker does until it serves
        self._journal = Journal(SqliteStore(self._path))
        self._executor = quiet_executor(self._journal)
        self._core = Core(self._journal.epoch, self._policy, _START + now)
        jobs, rates = self._journal.live(_START + now), self._journal.rates()
        self._core.restore(jobs, rates, _START + now, empty=self._journal.empty)
        gc.enable()
        self.up = True
        self._outcome.slowest_start_s = max(self._outcome.slowest_start_s, time.process_time() - begun)

    def kill(self) -> list[tuple[bytes, m.Message]]:
        """End as `kill -9` does, in the middle of a pass; the messages of which nothing is left."""
        lost, self._taken = self._taken, []
        self.close()
        self._endings.clear()
        self._outcome.kills += 1
        return lost

    def close(self) -> None:
        """Close the journal without a commit."""
        self.up = False
        self._journal.close()

    def receive(self, peer: bytes, message: m.Message, now: float) -> None:
        """Take a message; while there is no broker it is lost."""
        if self.up:
            self._taken.append((peer, message))
            self._outcome.messages += 1
            self._carry_out(feed(self._core, self._journal, peer, message, _START + now), now)

    def tick(self, now: float) -> None:
        """Run the timers that are due."""
        while self.up and (due := self._core.next_deadline()) is not None and due <= _START + now:
            self._carry_out(self._core.tick(due), due - _START)

    def end_pass(self, now: float) -> list[Send]:
        """Commit; returns the messages that may be sent from now on."""
        if not self.up:
            return []
        tidy = now >= self._tidy_at
        if self._executor.durable or tidy:
            self._executor.durable = False
            self._journal.commit(lazy=tidy)
            self._core.committed()
        if tidy:
            self._tidy_at = now + TIDY_S
            self._journal.checkpoint()
            self._outcome.most_waiting = max(self._outcome.most_waiting, self._core.state.counts[JobState.QUEUED])
        self._outcome.passes += 1
        self._taken.clear()
        self._note_endings()
        sends = self._executor.early + self._executor.sends
        self._executor.early, self._executor.sends = [], []
        self._core.sent()
        return sends

    def _carry_out(self, effects: Sequence[Effect], now: float) -> None:
        self._endings += [
            (number_of(effect.job_id), effect.target, now)
            for effect in effects
            if type(effect) is Transition and effect.target in FINAL
        ]
        self._executor.carry_out(effects)

    def _note_endings(self) -> None:
        outcome = self._outcome
        for number, state, now in self._endings:
            if outcome.states[number]:
                outcome.ended_twice += 1
                outcome.published_twice += state is JobState.SUCCEEDED
            else:
                outcome.states[number] = STATES.index(state)
                outcome.ends[number] = now
        self._endings.clear()


def job_id(number: int) -> str:
    """The id of a job by its number."""
    return f"j{number:07}"


def number_of(name: str) -> int:
    """The number of a job by its id."""
    return int(name[1:])
