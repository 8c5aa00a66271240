"""The depot of one worker and its own disk: results and checkpoints that are on their way. Results outlive the agent that drew them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result
from workers.agent import effects as fx
from workers.agent.dirs import WorkerDirs
from workers.agent.spooled_results import SpooledResult

if TYPE_CHECKING:
    from tests.simulation.world import World

#: One seed in so many has a worker whose files go into a depot.
_ONE_IN = 3

#: Seconds that files take to get there, and checkpoints from there.
_PUT_S = (0.0, 0.1, 1.0, 8.0)
_FETCH_S = (0.0, 0.0, 0.1, 2.0)

#: How likely the depot takes no checkpoint of a parked attempt, for as long as it is waited for; and one of an attempt that runs.
_AWAY, _SENT = 0.1, 0.3

#: How likely the agent is killed meanwhile, and after how many seconds it is back: before its lease is over, and behind that.
_KILLED, _BACK_S = 0.1, (0.1, 1.0, 9.0)


class Spool:
    """Files between a worker and its depot. Everything is drawn by itself, so that all else is what it would be without."""

    def __init__(self, world: World, name: str, seed: int, kill: Callable[[float], None]) -> None:
        """`kill` kills the agent, which is back after so many seconds."""
        self._world = world
        self._kill = kill
        self._random = Random(f"spool {seed} {name}")
        # Where all takes as long as it did, nothing waits for a depot.
        self.remote = self._random.randrange(_ONE_IN) == 0 and not world.plan.exact
        #: Fence -> a result on this disk, and when its attempt began.
        self._results: dict[int, tuple[m.Finished, float]] = {}
        self._revoked: set[int] = set()
        #: Steps of each job in its newest checkpoint on this worker's disk.
        self.checkpoints: dict[str, int] = {} if self.remote else world.checkpoints
        #: Parked attempts -> until when it is waited for their checkpoints.
        self._parked: dict[int, float] = {}
        #: Those that a new agent took up.
        self.resumed: set[int] = set()

    @property
    def dirs(self) -> WorkerDirs:
        return WorkerDirs(artefacts="/a", spool="/s", inputs="/i") if self.remote else WorkerDirs(artefacts="/a")

    def left(self) -> tuple[SpooledResult, ...]:
        """What a new agent finds."""
        now = self._world.timeline.now
        found = tuple(
            SpooledResult(message=message, age_s=now - begun_at, files=_files(message))
            for _, (message, begun_at) in sorted(self._results.items())
        )
        for one in found:
            self.resumed.add(one.message.fence)
            self._world.count("depot: a result outlives its agent")
        return found

    def keep(self, message: m.Finished, age_s: float) -> None:
        self._results[message.fence] = message, self._world.timeline.now - age_s

    def remove(self, fence: int) -> bool:
        """Remove what is here of an attempt; False: this worker's disk is the depot."""
        self._results.pop(fence, None)
        return self.remote

    def revoke(self, fence: int) -> None:
        self._revoked.add(fence)

    def put(self, order: fx.PutFiles, tell: Callable[[], bool]) -> None:
        """Send files; the agent that ordered it is told when they are there, unless it is gone: then they are not."""

        def arrived() -> None:
            if order.fence not in self._revoked and tell():
                self._world.checker.made(order.job_id, order.fence)

        after_s = self._random.choice(_PUT_S)
        self._world.timeline.after(after_s, arrived)
        if self._random.random() < _KILLED:
            back_s = self._random.choice(_BACK_S)
            self._world.timeline.after(self._random.random() * after_s, lambda: self._kill(back_s))

    def put_parked(self, order: fx.PutParked, tell: Callable[[], bool]) -> None:
        """Send the checkpoints of a parked attempt; the agent is told when they are there, or it has waited for them for long enough."""
        away = not self._world.calm and self._random.random() < _AWAY
        after_s = order.budget_s if away else self._random.choice(_PUT_S)
        self._parked[order.fence] = self._world.timeline.now + after_s

        def arrived() -> None:
            if not away:
                self._send(order.job_id, order.fence)
            if order.fence not in self._revoked and tell():
                self._world.count("depot: parked, and away" if away else "depot: parked")

        self._world.timeline.after(after_s, arrived)

    def waits(self, fence: int) -> bool:
        """Whether the checkpoints of a parked attempt are still on their way."""
        return self._world.timeline.now < self._parked.get(fence, inf)

    def kept(self, job_id: str, fence: int) -> None:
        """A checkpoint of an attempt that runs is on this disk: now and then it is sent."""
        if self.remote and self._random.random() < _SENT:
            self._send(job_id, fence)

    def _send(self, job_id: str, fence: int) -> None:
        if self._is_own(job_id, fence):
            self._world.checkpoints[job_id] = self.checkpoints.get(job_id, 0)

    def fetch(self, order: fx.FetchInputs, tell: Callable[[], bool]) -> None:
        """Fetch what the attempt may go on from."""

        def arrived() -> None:
            job_id = order.job_id
            there = self._world.checkpoints.get(job_id, 0) if self._is_own(job_id, order.fence) else 0
            if tell() and there > self.checkpoints.get(job_id, 0):
                self.checkpoints[job_id] = there
                self._world.count("depot: gone on from another machine's checkpoint")

        self._world.timeline.after(self._random.choice(_FETCH_S), arrived)

    def _is_own(self, job_id: str, fence: int) -> bool:
        """Whether an edge would take it that this is the job's attempt: it asks the broker."""
        if not job_id or not self._world.broker.serving:
            return False
        job = self._world.broker.core.state.jobs.get(job_id)
        return job is not None and not job.final and job.fence == fence


def _files(message: m.Finished) -> tuple[Artefact, ...]:
    result: Result = codec.result(message.body)
    return result.artefacts
