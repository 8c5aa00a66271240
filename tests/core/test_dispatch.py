"""The straight choice, for one tenant and one lane, is the general one."""

from __future__ import annotations

from random import Random

import pytest

from broker.core.jobs import Cause, Job
from broker.core.policy import Policy
from broker.core.pool import Worker
from broker.core.scheduling import dispatch
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard
from broker.wire.submission import Submission
from broker.wire.terms import JobState

NOW = 1_000.0
MODELS = ("demo", "flux")
LORAS = ("film", "quick")


def scene(seed: int) -> State:
    """Workers with some room and waiting jobs, most often of one tenant and one lane."""
    random = Random(seed)
    state = State(1, Policy())
    for model in MODELS:
        for _ in range(random.choice((0, 5))):
            state.costs.learn(model, 10.0, random.uniform(1.0, 20.0))
    for number in range(random.randint(1, 5)):
        models = random.choice((MODELS, MODELS, MODELS[:1], MODELS[1:]))
        cards = tuple(ModelCard(name=model, engine="fake", output="video") for model in models)
        info = m.WorkerInfo(gpus=random.choice((1, 1, 2)), models=cards)
        worker = Worker(f"w{number}", "b", b"%d" % number, info, random.uniform(0.0, NOW))
        state.pool.add(worker)
        loras = tuple(name for name in LORAS if random.random() < 0.3)
        free = random.randint(0, 3)
        beat = m.Heartbeat(seen=0, free=free, engine="ready", model=random.choice(("", *models)), loaded_loras=loras)
        state.pool.update_stats(worker, beat)
    tenants = ("a", "b") if random.random() < 0.2 else ("a",)
    lanes = [random.choice((1, 1, 1, 2)), random.choice(("", "", "", "w1"))]
    limit = random.choice((0, 0, 0, 2))
    mixed = random.random() < 0.2
    for number in range(random.randint(0, 8)):
        job = Job(
            id=f"j{number}",
            submission=Submission(
                model=random.choice(MODELS) if mixed else MODELS[seed % 2],
                tenant=random.choice(tenants),
                max_running=limit,
                gpus=lanes[0],
                pinned=lanes[1],
                units=random.choice((0.0, 1.0, 10.0, 100.0)),
                lora_names=random.choice(((), (), LORAS[:1], LORAS)),
            ),
            body=b"",
            attempts=int(random.random() < 0.1),
            excluded=("w0",) if random.random() < 0.1 else (),
            submitted_at=random.uniform(0.0, NOW),
        )
        state.adopt_record(job)
        state.move(job, Cause.SUBMITTED, job.submitted_at)
        state.enqueue(job, front=random.random() < 0.1)
    return state


def grants(state: State, choose) -> list[tuple[str, str, str]]:
    """(job, worker, job whose turn it was), granted one after another until nothing is left to grant."""
    found = []
    while (choice := choose(state, NOW)) is not None:
        job, worker = choice.job, choice.worker
        found.append((job.id, worker.name, choice.turn.id))
        state.queue.serve(job.id)
        job.fence = state.next_fence()
        state.pool.grant(worker, job.id, job.fence)
        state.move(job, Cause.DISPATCHED, NOW)
    return found


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_the_straight_choice_is_the_general_one(first):
    straight = 0
    for seed in range(first, first + 250):
        one, other = scene(seed), scene(seed)
        straight += one.queue.head_of_all() is not None and len(one.pool.free) > 0
        assert grants(one, dispatch.choose) == grants(other, dispatch.choose_among_all), seed
        assert one.counts[JobState.ASSIGNED] == other.counts[JobState.ASSIGNED]
    assert straight > 100, "most scenes take the straight way"
