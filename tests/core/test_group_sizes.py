"""Workers of several sizes: run times by their GPUs, what waits for any of them, what is promised, what is used and charged."""

from __future__ import annotations

import pytest

from broker.core.machine import Policy
from broker.core.scheduling.costs import Costs, speed
from broker.core.scheduling.queue import Queue
from broker.core.usage import gpu_seconds
from broker.testing import UNIT, CoreHarness, sent, worker_info
from broker.wire import messages as m

#: What one GPU takes for one `UNIT`, seconds.
ONE_S = 12.0
FOUR_S = ONE_S / speed(4)


def taught(*sizes: int, policy: Policy | None = None) -> CoreHarness:
    """A core that has seen jobs on one GPU, with a worker of each of these sizes that has the model in memory."""
    harness = CoreHarness(policy)
    harness.core.restore([], [("demo", UNIT * (1 + n % 3), ONE_S * (1 + n % 3), 1) for n in range(30)], harness.now)
    for number, gpus in enumerate(sizes):
        harness.hello(f"w{number}-{gpus}", body=worker_info(gpus=gpus))
        harness.beat(f"w{number}-{gpus}", free=1, model="demo", engine="ready")
    return harness


def learned(*jobs: tuple[float, float, int]) -> Costs:
    costs = Costs()
    for units, seconds, gpus in jobs:
        costs.learn("demo", units, seconds, gpus)
    return costs


SEEN_ON_ONE = tuple((UNIT * (1 + n % 3), ONE_S * (1 + n % 3), 1) for n in range(30))


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize(("gpus", "times"), [(0, 1.0), (1, 1.0), (2, 1.6), (4, 3.0), (8, 5.6), (1024, 512.0)])
def test_groups_are_taken_to_be_so_many_times_as_fast(gpus, times):
    assert speed(gpus) == pytest.approx(times)


def test_a_group_that_has_done_nothing_is_predicted_from_what_one_gpu_takes_and_less_surely():
    costs = learned(*SEEN_ON_ONE)
    assert costs.predict("demo", UNIT, 4) == pytest.approx(FOUR_S, rel=0.02)
    assert costs.can_predict("demo", UNIT, 4)
    assert costs.spread("demo", UNIT, 4) > costs.spread("demo", UNIT, 1) + 0.05
    slow = costs.quantile("demo", UNIT, 0.95, 4)
    assert slow is not None
    assert slow > 1.2 * FOUR_S


def test_what_a_group_measures_takes_the_place_of_that_and_says_nothing_of_one_gpu():
    costs = learned(*SEEN_ON_ONE, *((UNIT * (1 + n % 3), 6.0 * (1 + n % 3), 4) for n in range(10)))
    assert costs.predict("demo", UNIT, 4) == pytest.approx(6.0, rel=0.05)
    assert costs.predict("demo", UNIT, 1) == pytest.approx(ONE_S, rel=0.02)


def test_the_nearest_size_that_was_seen_speaks_for_one_that_was_not():
    costs = learned(*SEEN_ON_ONE, *((UNIT, 8.0, 4) for _ in range(10)))
    assert costs.predict("demo", UNIT, 8) == pytest.approx(8.0 * speed(4) / speed(8), rel=0.05)
    assert costs.predict("demo", UNIT, 1) == pytest.approx(ONE_S, rel=0.02)


def test_an_unknown_model_is_guessed_faster_on_more_gpus():
    costs = Costs()
    assert costs.predict("demo", UNIT, 2) == pytest.approx(costs.predict("demo", UNIT, 1) / 1.6)
    assert costs.estimate("demo", UNIT, 2) is None


def test_each_worker_is_sent_what_a_job_takes_on_it():
    harness = taught(1, 4)
    predicted = {}
    for name in ("a", "b"):
        harness.submit(name, units=UNIT)
        (run,) = sent(harness.effects, m.Run)
        predicted[harness.job(name).worker] = run.predicted_s
    assert predicted["w0-1"] == pytest.approx(ONE_S, rel=0.02)
    assert predicted["w1-4"] == pytest.approx(FOUR_S, rel=0.02)


def test_a_pool_of_groups_alone_learns_of_groups():
    harness = CoreHarness()
    harness.hello("four", body=worker_info(gpus=4))
    for number in range(5):
        harness.submit(f"j{number}", units=UNIT)
        fence = harness.job(f"j{number}").fence
        harness.feed(b"b-four", m.Finished(job_id=f"j{number}", fence=fence, free=1, run_s=5.0, body=b"\x80"))
    assert harness.core.state.costs.predict("demo", UNIT, 4) == pytest.approx(5.0, rel=0.1)
    assert harness.core.state.run_times.predict(m.Submission(model="demo"), UNIT) == pytest.approx(5.0, rel=0.1)


def test_while_no_worker_is_there_jobs_are_weighed_for_one_of_the_last_size():
    harness = CoreHarness()
    harness.core.restore([], [("demo", UNIT, 5.0, 4)] * 5, harness.now)
    harness.submit("a", units=UNIT)
    assert harness.job("a").cost == pytest.approx(5.0, rel=0.05)


# ---------------------------------------------------------------- what waits


def test_what_waits_counts_so_much_that_over_the_number_of_workers_it_is_the_time_until_it_is_done():
    harness = taught(1, 4)
    for name in ("a", "b", "waits"):
        harness.submit(name, units=UNIT)
    a_second = 1 / ONE_S + 1 / FOUR_S
    assert harness.job("waits").cost / 2 == pytest.approx(1 / a_second, rel=0.02)


def test_what_waits_for_a_class_of_workers_counts_as_long_as_it_takes_there():
    harness = taught(1, 4)
    for name in ("a", "b", "waits", "waits-too"):
        harness.submit(name, units=UNIT)
    harness.submit("wide", units=UNIT, gpus=4)
    waiting = {one.size: one.backlog_s for one in harness.core.snapshot().backlog_by_class}
    assert waiting == {1: pytest.approx(2 * ONE_S, rel=0.05), 4: pytest.approx(FOUR_S, rel=0.05)}


def test_the_end_of_a_job_that_is_granted_at_once_is_expected_as_on_its_worker():
    harness = taught(1, 4)
    assert harness.submit("a", units=UNIT).admission.eta_s == pytest.approx(ONE_S, rel=0.02)
    assert harness.submit("b", units=UNIT).admission.eta_s == pytest.approx(FOUR_S, rel=0.02)


def test_a_job_that_only_the_group_can_run_counts_as_long_as_it_takes_there():
    harness = taught(1, 4)
    harness.submit("a", units=UNIT, gpus=2)
    harness.submit("waits", units=UNIT, gpus=2)
    assert harness.job("waits").cost == pytest.approx(FOUR_S, rel=0.02)


def test_the_end_of_a_job_in_a_group_is_expected_sooner():
    harness = taught(1, 4)
    for name, worker in (("a", "w0-1"), ("b", "w1-4")):
        harness.submit(name, units=UNIT)
        harness.start(worker, name)
    assert harness.view("a").eta_s == pytest.approx(ONE_S, rel=0.02)
    assert harness.view("b").eta_s == pytest.approx(FOUR_S, rel=0.02)


def test_the_end_of_a_job_in_a_group_is_expected_as_soon_over_a_restart_of_the_broker():
    harness = taught(4)
    harness.submit("a", units=UNIT)
    harness.start("w0-4", "a")
    harness.restart()
    for seconds, gpus in ((FOUR_S, 4), (ONE_S, 1)):
        harness.core.state.costs.learn("demo", UNIT, seconds, gpus)
    assert harness.view("a").eta_s == pytest.approx(FOUR_S, rel=0.3)


def test_a_worker_that_is_lost_or_leaves_counts_no_more():
    harness = taught(1, 4)
    waiting = m.Submission(model="demo")
    assert harness.core.state.run_times.least_gpus(waiting) == 1
    harness.feed(b"b-w0-1", m.Goodbye())
    assert harness.core.state.run_times.predict(waiting, UNIT) == pytest.approx(FOUR_S, rel=0.02)
    harness.hello("w0-1", body=worker_info(gpus=1))
    assert harness.core.state.run_times.least_gpus(waiting) == 1
    harness.beat("w1-4", free=1)
    harness.now += 5.0
    harness.beat("w1-4", free=1)
    harness.tick(3.0)
    assert harness.core.state.run_times.predict(waiting, UNIT) == pytest.approx(FOUR_S, rel=0.02)


# ---------------------------------------------------------------- what is promised


def test_no_time_is_promised_that_only_the_fastest_worker_would_keep():
    harness = taught(1, 4)
    answer = harness.submit("a", units=UNIT, promise=m.PromiseWish(within_s=2 * FOUR_S, confidence=0.9))
    assert isinstance(answer, m.Rejected)
    assert answer.earliest_s > ONE_S
    assert isinstance(harness.submit("b", units=UNIT, promise=m.PromiseWish(within_s=2 * ONE_S)), m.Accepted)
    only_group = harness.submit("c", units=UNIT, gpus=4, promise=m.PromiseWish(within_s=2 * FOUR_S, confidence=0.9))
    assert isinstance(only_group, m.Accepted)


# ---------------------------------------------------------------- what is used and charged


def test_usage_counts_all_gpus_of_the_worker_that_had_the_job():
    harness = CoreHarness()
    harness.hello("four", body=worker_info(gpus=4))
    harness.submit("a")
    harness.start("four", "a")
    harness.tick(5.0)
    harness.finish("four", "a")
    assert gpu_seconds(harness.job("a")) == (pytest.approx(20.0), 0.0)


def test_usage_counts_each_attempt_by_its_own_worker():
    harness = CoreHarness()
    harness.hello("four", body=worker_info(gpus=4))
    harness.submit("a")
    harness.start("four", "a")
    harness.tick(2.0)
    harness.feed(b"b-four", m.Goodbye())
    harness.hello("one")
    harness.start("one", "a")
    harness.tick(3.0)
    harness.finish("one", "a")
    assert gpu_seconds(harness.job("a")) == (pytest.approx(3.0), pytest.approx(8.0))


def test_a_tenant_is_charged_what_its_jobs_hold():
    class Waiting:
        submitted_at, cost = 0.0, 10.0

        def __init__(self, name: str, tenant: str) -> None:
            self.id = name
            self.submission = m.Submission(model="demo", tenant=tenant)

    queue = Queue()
    for name in ("a1", "b1", "a2", "b2", "b3"):
        queue.add(Waiting(name, name[0]), 20.0)
    order = []
    for charge in (60.0, 20.0, 20.0):
        first = queue.first(lambda lane: True, lambda job_id, lane: True)
        assert first is not None
        order.append(first)
        queue.serve(first, charge)
    assert order == ["a1", "b1", "b2"]


def test_tenants_come_to_the_same_gpu_seconds_where_one_asks_for_groups_and_one_does_not():
    harness = taught(1, 4, policy=Policy(suspect_after_s=1e6, lost_after_s=2e6))
    for number in range(60):
        harness.submit(f"small-{number}", units=UNIT, tenant="small")
        harness.submit(f"wide-{number}", units=UNIT, tenant="wide", gpus=4)
    used = {"small": 0.0, "wide": 0.0}
    ends: dict[str, tuple[float, str]] = {}
    for _ in range(60):
        for worker in harness.core.state.pool:
            if worker.name not in ends:
                (job_id,) = worker.held
                harness.start(worker.name, job_id)
                ends[worker.name] = harness.now + (FOUR_S if worker.info.gpus == 4 else ONE_S), job_id
        name = min(ends, key=ends.__getitem__)
        end, job_id = ends.pop(name)
        harness.tick(end - harness.now)
        harness.finish(name, job_id)
        used[harness.job(job_id).submission.tenant] += sum(gpu_seconds(harness.job(job_id)))
    assert used["small"] / sum(used.values()) == pytest.approx(0.5, abs=0.05)


def test_tenants_come_to_the_same_seconds_where_predictions_of_one_are_wrong():
    """What a job took counts, and not what was expected of it: here those of one tenant take twice as long as they were thought to."""
    harness = taught(1, policy=Policy(suspect_after_s=1e6, lost_after_s=2e6))
    for number in range(60):
        harness.submit(f"right-{number}", units=UNIT, tenant="right")
        harness.submit(f"wrong-{number}", units=UNIT / 2, tenant="wrong")
    used = {"right": 0.0, "wrong": 0.0}
    (worker,) = harness.core.state.pool
    for _ in range(60):
        (job_id,) = worker.held
        harness.start(worker.name, job_id)
        harness.tick(ONE_S)
        harness.finish(worker.name, job_id)
        used[harness.job(job_id).submission.tenant] += ONE_S
    assert used["right"] / sum(used.values()) == pytest.approx(0.5, abs=0.05)
