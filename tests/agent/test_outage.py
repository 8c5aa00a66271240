"""A store that is away for ten minutes, on virtual time: one worker's core and its orders, with a job that is drawn every few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.wire import messages as m
from tests.agent.stage import FAR, Stage, fence
from workers.agent import effects as fx
from workers.depot.depot import DepotFile
from workers.depot.orders import LONGEST_PAUSE_S, Backlog, Put

AWAY_S = 600.0
_JOB_S, _STEP_S = 5.0, 0.5


class Worker:
    """A worker that draws as long as it takes jobs, over a store that is away from the first minute on."""

    def __init__(self, try_s: float, **policy: float) -> None:
        self.stage = Stage(dirs=FAR, **policy).idle()
        self.backlog = Backlog()
        self.try_s = try_s
        self.away_from = self.stage.now + 60
        self.away_to = self.away_from + AWAY_S
        self.drawn = 0
        self._over_at: float | None = None
        self._lane_free_at = 0.0
        self.reported: list[int] = []
        self.failed: list[str] = []
        self.tries_away = 0
        self.most_waiting = 0
        self.first_drawn_after = 0.0

    def run_until(self, at: float) -> None:
        while self.stage.now < at:
            self.stage.silence(_STEP_S)
            self._draw()
            self._transfer()
            self.most_waiting = max(self.most_waiting, len(self.stage.core.unacked_results))

    def _draw(self) -> None:
        stage = self.stage
        if self._over_at is None and stage.core.capacity.free:
            self.drawn += 1
            stage.run(self.drawn)
            assert stage.effects(fx.StartJob)
            stage.words(self.drawn, "")
            self._over_at = stage.now + _JOB_S
            if stage.now > self.away_to and not self.first_drawn_after:
                self.first_drawn_after = stage.now
        elif self._over_at is not None and stage.now >= self._over_at:
            self._over_at = None
            stage.finish(self.drawn)
            for order in stage.effects(fx.PutFiles):
                name = f"j{self.drawn}"
                file = DepotFile(key=name, path=Path(name), size=3, sha256="0" * 64)
                put = Put(job_id=name, fence=order.fence, files=(file,), budget_s=stage.core.policy.put_budget_s)
                self.backlog.add(put, stage.now)

    def _transfer(self) -> None:
        stage = self.stage
        one = self.backlog.next()
        if one is None or max(one.next_at, self._lane_free_at) > stage.now:
            return
        number = int(one.order.job_id.removeprefix("j"))
        if not self.away_from <= stage.now < self.away_to:
            self.backlog.done(one)
            stage.put(number)
            self.reported += [message.fence - fence(0) for message in stage.sent(m.Finished)]
            stage.ack(number)
            return
        self.tries_away += 1
        self._lane_free_at = stage.now + self.try_s
        if outcome := self.backlog.put_off(one, "the store is away", self._lane_free_at):
            self.backlog.done(one)
            stage.put(number, outcome.fault)
            self.failed += [message.message for message in stage.sent(m.Failed)]
            stage.ack(number)


@pytest.mark.parametrize("try_s", [0.0, 20.0], ids=["refused at once", "silent"])
def test_ten_minutes_lose_nothing_and_hold_the_worker_back(try_s):
    worker = Worker(try_s)
    worker.run_until(worker.away_to)
    most = worker.stage.core.policy.max_unacknowledged
    assert worker.most_waiting == most
    assert worker.stage.core.capacity.refusal_reason() == f"{most} results wait for acknowledgement"
    # Each that waits is asked for at most once in the longest pause, but for its first tries.
    assert worker.tries_away <= most * (AWAY_S / LONGEST_PAUSE_S + 6)
    worker.run_until(worker.away_to + 60)
    # What waited was put within a pause and what a try takes, and the worker drew on.
    assert worker.first_drawn_after <= worker.away_to + LONGEST_PAUSE_S + try_s + 1
    assert sorted(worker.reported) == list(range(1, worker.reported[-1] + 1)), "each once"
    assert (len(worker.reported) >= worker.drawn - 1, worker.failed) == (True, [])


def test_an_attempt_whose_budget_ends_first_fails_in_words_and_the_rest_is_put():
    worker = Worker(0.0, put_budget_s=200.0)
    worker.run_until(worker.away_to + 60)
    assert "its files cannot be put into the depot: the store is away (tried" in worker.failed[0]
    assert len(worker.reported) + len(worker.failed) >= worker.drawn - 1
    assert len(worker.reported) == len(set(worker.reported))
