"""On which machine a parked job goes on, and a hand-back that comes late."""

from __future__ import annotations

import pytest

from broker.testing import CoreHarness, peer_of, sent, worker_info
from broker.wire import messages as m
from tests.core.parking_harness import STEPS, runs


def on(host: str) -> bytes:
    return worker_info(resumes=True, host=host)


def machines_with_a_paused_job(kept: int) -> CoreHarness:
    """A job that was paused on machine `y` after so many steps; workers of `x`, `y` and `z` are idle, that of `x` for longest."""
    harness = CoreHarness()
    harness.hello("w2", body=on("y"))
    harness.submit("a", steps=STEPS)
    harness.start("w2", "a")
    harness.beat(
        "w2", m.Held(job_id="a", fence=harness.job("a").fence, phase="denoise", step=kept, total=STEPS, kept=kept)
    )
    harness.control("a", "pause")
    harness.hello("w1", body=on("x"))
    harness.hand_back("w2", "a", kept=kept)
    harness.hello("w3", body=on("z"))
    return harness


@pytest.mark.parametrize("restarts", [False, True])
def test_a_job_goes_on_where_its_checkpoint_lies(restarts):
    harness = machines_with_a_paused_job(kept=20)
    if restarts:
        harness.restart()
        for name, host in (("w1", "x"), ("w2", "y"), ("w3", "z")):
            harness.hello(name, body=on(host))
    harness.control("a", "resume")
    assert (harness.job("a").worker, runs(harness)[-1].kept) == ("w2", 20)


def test_one_that_keeps_nothing_goes_to_the_worker_that_was_idle_for_longest():
    harness = machines_with_a_paused_job(kept=0)
    harness.control("a", "resume")
    assert harness.job("a").worker == "w1"


def test_a_job_does_not_wait_for_the_machine_of_its_checkpoint():
    harness = machines_with_a_paused_job(kept=20)
    harness.submit("b", pinned="w2")
    harness.control("a", "resume")
    assert harness.job("a").worker == "w1"


def test_a_checkpoint_is_where_it_was_written_last():
    harness = machines_with_a_paused_job(kept=20)
    harness.submit("b", pinned="w2")
    harness.control("a", "resume")
    harness.start("w1", "a")
    harness.beat("w1", m.Held(job_id="a", fence=harness.job("a").fence, phase="denoise", step=5, total=STEPS, kept=5))
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=5)
    harness.finish("w2", "b")
    harness.control("a", "resume")
    assert (harness.job("a").worker, harness.job("a").kept) == ("w1", 5)


# ---------------------------------------------------------------- a hand-back that comes late


def silent_with_a_checkpoint() -> tuple[CoreHarness, m.Refused]:
    """A job whose worker was taken for lost, and the word with which that worker had handed it back, which is still under way."""
    harness = CoreHarness()
    harness.hello("w1", body=on("x"))
    harness.submit("a", steps=STEPS)
    harness.start("w1", "a")
    word = m.Refused(job_id="a", fence=harness.job("a").fence, free=1, age_s=1.0, kept=12)
    harness.tick(7.0)
    assert (harness.state("a"), harness.job("a").losses) == ("queued", 1)
    return harness, word


def test_a_late_hand_back_is_not_heard_and_the_next_attempt_is_one_that_looks_for_checkpoints_itself():
    harness, word = silent_with_a_checkpoint()
    effects = harness.feed(peer_of("w1"), word)
    assert sent(effects, m.Identify)
    assert (harness.state("a"), harness.job("a").kept) == ("queued", 0)
    effects = harness.hello("w2", body=on("y"))
    # An agent asks the depot about every attempt but the first, and an engine looks on its disk, whatever is said to be kept.
    assert [(run.attempt, run.kept) for run in sent(effects, m.Run)] == [(2, 0)]
    harness.hello("w1", body=on("x"))
    harness.feed(peer_of("w1"), word)
    job = harness.job("a")
    assert (job.state, job.worker, job.kept, job.losses) == ("assigned", "w2", 0, 1)
