"""A job that comes while none waits goes to its worker past the queue, and nothing is other than if it had been queued and taken out."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from broker.core import requests
from broker.core.effects import Effect, Send, Transition
from broker.core.policy import Policy
from broker.core.scheduling import placement
from broker.core.scheduling.dispatch import at_once
from broker.shell.executor import Executor
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.testing import EDGE, CoreHarness, peer_of, submit_message, worker_info
from broker.wire import messages as m

WORKERS = ("w0", "w1", "w2", "w3")
MODELS = ("demo", "flux")
STEPS = 60
WORLDS = 60

Choice = Callable[[Any, m.Submission], Any]


def never(scene: Any, submission: m.Submission) -> None:
    """Every job is queued first."""
    return


def reported(effects: list[Effect]) -> list[Any]:
    """All of them, moves first, one by one; without the prediction of a new job's end: it need not reckon with jobs that run, where its
    worker is known already."""
    moved = [effect for effect in effects if isinstance(effect, Transition)]
    moves = [(effect.job, step) for effect in moved for step in effect.steps()]
    return [*moves, any(effect.durable for effect in moved)] + [
        Send(effect.peer, msgspec.structs.replace(effect.message, admission=None), effect.early)
        if isinstance(effect, Send) and isinstance(effect.message, m.Accepted)
        else effect
        for effect in effects
        if not isinstance(effect, Transition)
    ]


class Twins:
    """Two cores that are told the same: one that sends jobs past the queue by `choice`, one that queues all."""

    def __init__(self, seed: int, choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = Random(seed)
        policy = Policy(recent_finals=4, queue_limit=6, breaker_failures=3)
        self.cores = (CoreHarness(policy), CoreHarness(policy))
        self.choices: tuple[Choice, Choice] = (choice, never)
        self.monkeypatch = monkeypatch
        self.past = self.jobs = 0
        for name in WORKERS:
            body = worker_info(*self.random.choice((MODELS, MODELS[:1])), gpus=self.random.choice((1, 1, 1, 2)))
            self.tell(peer_of(name), m.Hello(name=name, boot="b", seen=0, free=self.random.randint(0, 2), body=body))

    def tell(self, peer: bytes, message: m.Message) -> bool:
        """Whether both say the same, and have the same jobs and workers in the same order."""
        effects = [
            self._one(core, choice, peer, message) for core, choice in zip(self.cores, self.choices, strict=True)
        ]
        one, other = (core.core.state for core in self.cores)
        return reported(effects[0]) == reported(effects[1]) and (one.jobs, [*one.queue.ids()], one.queue.newest_at) == (
            other.jobs,
            [*other.queue.ids()],
            other.queue.newest_at,
        )

    def _one(self, core: CoreHarness, choice: Choice, peer: bytes, message: m.Message) -> list[Effect]:
        def chosen(scene: Any, submission: m.Submission) -> Any:
            worker = choice(scene, submission)
            self.past += worker is not None
            return worker

        self.monkeypatch.setattr(requests, "at_once", chosen)
        return core.feed(peer, message)

    def step(self) -> bool:
        """Something happens to both, after some time."""
        random, state = self.random, self.cores[0].core.state
        seconds = random.choice((0.0, 0.1, 1.0))
        ticked = [core.tick(seconds) for core in self.cores]
        held = [(worker.name, *pair) for worker in state.pool for pair in worker.held.items()]
        kind = random.choice(("submit", "submit", "end", "end", "beat", "cancel"))
        if kind == "submit":
            return ticked[0] == ticked[1] and self.tell(EDGE, self._submit())
        if kind == "cancel" and self.jobs:
            job_id = f"j{random.randint(1, self.jobs)}"
            return self.tell(EDGE, m.CancelJob(req=0, job_id=job_id))
        if kind == "end" and held:
            name, job_id, fence = random.choice(held)
            key = {"job_id": job_id, "fence": fence, "free": random.randint(0, 2)}
            if random.random() < 0.2:
                return self.tell(peer_of(name), m.Failed(**key, kind=m.FailureKind.ENGINE_CRASHED, message="gone"))
            return self.tell(peer_of(name), m.Finished(**key, run_s=random.uniform(0.5, 9.0), body=b"\x80"))
        name = random.choice(WORKERS)
        mine = tuple(m.Held(job_id=job_id, fence=fence) for holder, job_id, fence in held if holder == name)
        beat = m.Heartbeat(
            seen=state.last_fence,
            free=random.randint(0, 2),
            held=mine,
            model=random.choice(("", *MODELS, *MODELS[:1] * 3)),
            loaded_loras=random.choice(((), ("a",), ("b", "a"))),
        )
        return self.tell(peer_of(name), beat)

    def _submit(self) -> m.Submit:
        random = self.random
        self.jobs += 1
        return submit_message(
            f"j{self.jobs}",
            model=random.choice((*MODELS, MODELS[0])),
            tenant=random.choice("aab"),
            priority=random.choice((5, 5, 9)),
            gpus=random.choice((1, 1, 1, 2)),
            pinned=random.choice(("", "", "", "w1")),
            max_running=random.choice((0, 0, 1, 2)),
            units=random.choice((0.0, 1.0, 1e5, 1e6)),
            lora_names=random.choice(((), (), ("a",), ("a", "b"))),
        )


def differs(seed: int, choice: Choice, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, int]:
    """(whether the two come apart, how many jobs went past the queue)."""
    twins = Twins(seed, choice, monkeypatch)
    for _ in range(STEPS):
        if not twins.step():
            return True, twins.past
    return False, twins.past


def test_it_is_the_way_through_the_queue(monkeypatch):
    found = [differs(seed, at_once, monkeypatch) for seed in range(WORLDS)]
    assert [seed for seed, (apart, _) in enumerate(found) if apart] == []
    assert sum(past for _, past in found) > 2 * WORLDS, "most worlds send some jobs past the queue"


def _without_loras(scene: Any, submission: m.Submission) -> Any:
    return at_once(scene, msgspec.structs.replace(submission, lora_names=()))


def _overtakes(scene: Any, submission: m.Submission) -> Any:
    fitting = [worker for worker in scene.pool.free.values() if placement.fits(submission, worker)]
    return placement.choose(submission.model, fitting) if scene.tenants.may_start(submission.tenant) else None


def _unlimited(scene: Any, submission: m.Submission) -> Any:
    fitting = [worker for worker in scene.pool.free.values() if placement.fits(submission, worker)]
    return None if scene.queue else placement.choose(submission.model, fitting)


def _anywhere(scene: Any, submission: m.Submission) -> Any:
    free = [*scene.pool.free.values()]
    return (
        placement.choose(submission.model, free)
        if not scene.queue and scene.tenants.may_start(submission.tenant)
        else None
    )


def _to_the_first(scene: Any, submission: m.Submission) -> Any:
    if at_once(scene, submission) is None:
        return None
    return next(worker for worker in scene.pool.free.values() if placement.fits(submission, worker))


@pytest.mark.parametrize("choice", [_overtakes, _unlimited, _anywhere, _to_the_first, _without_loras])
def test_one_that_breaks_a_rule_is_told(choice, monkeypatch):
    assert any(differs(seed, choice, monkeypatch)[0] for seed in range(WORLDS))


def test_two_moves_at_once_are_two_in_the_history_in_the_log_and_in_the_counts(caplog):
    harness = CoreHarness()
    harness.hello("w1")
    executor = Executor(harness.archive, metrics := Metrics(PeerLimiter()))
    harness.submit("a")
    effects = [*harness.effects, *harness.finish("w1", "a")]
    assert len([effect for effect in effects if isinstance(effect, Transition)]) == 2
    moves = [
        ("", "queued", "submitted"),
        ("queued", "assigned", "dispatched"),
        ("assigned", "running", "started"),
        ("running", "succeeded", "finished"),
    ]
    assert [(move.source, move.target, move.cause) for move in harness.job("a").history] == moves
    with caplog.at_level("INFO"):
        executor.carry_out(effect for effect in effects if isinstance(effect, Transition))
    assert [(line.source or "", line.target, line.cause) for line in caplog.records] == moves
    assert [line.worker_id for line in caplog.records] == ["", "w1", "w1", "w1"]
    assert [line.attempt for line in caplog.records] == [0, 0, 1, 1]
    assert metrics.transitions == {(target, cause): 1 for _, target, cause in moves}


def test_the_answer_to_a_job_granted_at_once_is_older_than_its_grant():
    """An edge keeps the newer of what it is told: the grant, which watchers hear of."""
    harness = CoreHarness()
    harness.hello("w1")
    answer = harness.submit("a")
    assert isinstance(answer, m.Accepted)
    assert answer.admission is not None
    assert answer.admission.revision < harness.job("a").revision


def test_an_end_that_tells_of_a_start_the_webhook_wants_makes_both_deliveries():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a", webhook="https://example.org/hook")
    harness.finish("w1", "a")
    assert [delivery.event for delivery in harness.archive.deliveries.of_job("a")] == ["started", "completed"]
