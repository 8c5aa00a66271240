"""Jobs that ask for several GPUs: which worker they wait for, what passes them, and what is refused."""

from __future__ import annotations

import pytest

from broker.core.machine import Policy
from broker.testing import CoreHarness, sent, worker_info
from broker.wire import messages as m


def pool(policy: Policy | None = None) -> CoreHarness:
    """A worker of one GPU, and a group of four."""
    harness = CoreHarness(policy)
    harness.hello("one", body=worker_info(gpus=1))
    harness.hello("four", body=worker_info(gpus=4))
    return harness


def test_a_job_goes_to_the_smallest_worker_that_has_its_gpus():
    harness = pool()
    harness.hello("two", body=worker_info(gpus=2))
    for job_id, gpus, worker in (("a", 2, "two"), ("b", 1, "one"), ("c", 3, "four")):
        harness.submit(job_id, gpus=gpus)
        assert harness.view(job_id).worker == worker
    assert harness.view("a").submission.gpus == 2


def test_small_jobs_pass_one_that_waits_for_a_group_and_never_take_the_group_before_it():
    harness = pool()
    harness.submit("on-group", gpus=4)
    harness.start("four", "on-group")
    harness.submit("small-0")
    harness.start("one", "small-0")
    harness.submit("wide", gpus=2)
    harness.tick(1.0)
    for number in range(1, 5):
        harness.submit(f"small-{number}")
    for number in range(3):
        harness.finish("one", f"small-{number}")
        assert harness.view(f"small-{number + 1}").worker == "one"
        harness.start("one", f"small-{number + 1}")
        assert harness.state("wide") == "queued"
    harness.finish("four", "on-group")
    assert harness.view("wide").worker == "four"
    assert harness.state("small-4") == "queued"


def test_more_gpus_than_any_worker_of_the_model_has_are_refused():
    harness = pool()
    answer = harness.submit("a", gpus=8)
    assert isinstance(answer, m.Rejected)
    assert (answer.code, answer.retry_after_s) == ("gpus", 0)
    assert answer.message == "8 is more than any worker of model 'demo' has, 4"
    answer = harness.submit("b", gpus=2, pinned="one")
    assert isinstance(answer, m.Rejected)
    assert answer.message == "2 is more than worker 'one' has, 1"


@pytest.mark.parametrize(
    "harness",
    [
        pytest.param(CoreHarness(), id="no worker has come yet"),
        pytest.param(pool(Policy(on_demand_models=("demo",))), id="a launcher may bring one"),
    ],
)
def test_a_job_waits_for_a_group_that_may_come(harness):
    assert isinstance(harness.submit("a", gpus=8), m.Accepted)
    assert harness.state("a") == "queued"
    effects = harness.hello("eight", body=worker_info(gpus=8))
    assert sent(effects, m.Run)[0].job_id == "a"


def test_a_job_is_taken_while_workers_come_back_to_a_broker_that_was_started_again():
    harness = pool()
    harness.restart()
    harness.hello("one", body=worker_info(gpus=1))
    assert isinstance(harness.submit("a", gpus=4), m.Accepted)
    harness.hello("four", body=worker_info(gpus=4))
    assert harness.view("a").worker == "four"


def test_the_same_submit_with_other_gpus_is_another_job():
    harness = pool()
    harness.submit("a", gpus=2)
    answer = harness.submit("a", gpus=4)
    assert isinstance(answer, m.Rejected)
    assert answer.code == "id_conflict"
