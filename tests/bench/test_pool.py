import pytest

from bench.harness import policies
from bench.harness.corepool import HANDOVER_S, CorePool
from bench.harness.policies import Job
from bench.harness.promisepool import Order
from bench.harness.rescuepool import RescuePool
from bench.suites import pool


def jobs(*lengths, at=0.0):
    return [Job(at, length) for length in lengths]


def test_round_robin_waits_behind_the_long_one_although_another_is_free():
    assert policies.round_robin(jobs(10.0, 1.0, 1.0, 1.0), 2) == [0.0, 0.0, 10.0, 1.0]


def test_least_connections_counts_jobs_not_work():
    # Both have one job; the tie goes to the first, which has the long one.
    starts = policies.least_connections([Job(0.0, 100.0), Job(0.0, 2.0), Job(1.0, 1.0), Job(3.0, 1.0)], 2)
    assert starts == [0.0, 0.0, 100.0, 3.0]


def test_least_connections_forgets_jobs_that_have_ended():
    assert policies.least_connections([Job(0.0, 1.0), Job(0.0, 9.0), Job(2.0, 1.0)], 2)[2] == 2.0


def test_a_polling_client_starts_jobs_only_when_it_looks():
    assert policies.polling(jobs(1.0, 1.0, 1.0), 2) == [0.0, 0.0, 5.0]
    # An idle server found at once; the next job comes later than the sleep would have ended.
    assert policies.polling([Job(0.0, 1.0), Job(7.0, 1.0)], 1) == [0.0, 7.0]


def test_one_queue_gives_a_free_worker_the_next_job():
    assert policies.first_come(jobs(10.0, 1.0, 1.0, 1.0), 2) == [0.0, 0.0, 1.0, 2.0]


def test_makespan_wait_and_bound():
    these = jobs(10.0, 1.0, 1.0)
    starts = policies.first_come(these, 2)
    assert policies.makespan(these, starts) == 10.0
    assert policies.mean_wait(these, starts) == pytest.approx(1 / 3)
    assert policies.lower_bound(these, 2) == 10.0
    assert policies.lower_bound(jobs(1.0, 1.0, 1.0, 1.0), 2) == 2.0


def test_the_real_core_starts_every_job_once_and_lets_short_ones_pass():
    these = jobs(5.0, 50.0, 1.0, 1.0)
    starts = CorePool(these, 1, 0.0, seed=1).run()
    # The first is taken as it comes; then the shortest first.
    assert starts[0] == pytest.approx(0.0, abs=2 * HANDOVER_S)
    assert starts[2] < starts[3] < starts[1]
    assert starts[1] == pytest.approx(7.0, abs=0.01)


def test_the_real_core_never_runs_two_jobs_on_one_worker():
    these = pool.draw_jobs(200, seed=3, rate=2.0)
    starts = CorePool(these, 4, 0.3, seed=3).run()
    moves = sorted(
        [(start, 1) for start in starts] + [(s + j.length_s, -1) for s, j in zip(starts, these, strict=True)]
    )
    running = most = 0
    for _, change in sorted(moves, key=lambda move: (move[0], move[1])):
        running += change
        most = max(most, running)
    assert most == 4
    assert all(start >= job.at_s for start, job in zip(starts, these, strict=True))


def test_the_same_seed_draws_the_same_jobs_of_the_mix():
    assert pool.draw_jobs(50, 7, 1.0) == pool.draw_jobs(50, 7, 1.0)
    lengths = [job.length_s for job in pool.draw_jobs(4_000, 1)]
    assert sum(lengths) / len(lengths) == pytest.approx(pool.mean_length(), rel=0.15)


def test_the_report_compares_all_policies():
    report = pool.run(pool.PoolPlan(workers=4, jobs=60, arrivals=300, repeats=2))
    found = {metric.key: metric.value for metric in report.metrics}
    for name in ("ours", "fifo", "round_robin", "least_connections", "polling"):
        assert found[f"makespan_{name}"] >= 1.0
        assert found[f"wait_{name}_s"] >= 0.0
    assert found["wait_ours_s"] < found["wait_round_robin_s"]


def dying(die_every_s: float, checkpoint_s: float, preempt_delay: float = 0.0) -> RescuePool:
    orders = [Order(float(number), 100.0, 100.0) for number in range(20)]
    rescuing = RescuePool(
        orders, 3, 0.0, 5, taught=[50.0], confidence=0.95,
        die_every_s=die_every_s, checkpoint_s=checkpoint_s, preempt_delay=preempt_delay,
    )  # fmt: skip
    assert all(outcome.end_s > 0.0 for outcome in rescuing.run())
    return rescuing


def test_what_a_worker_had_drawn_is_drawn_again_up_to_its_last_checkpoint():
    plain, kept = dying(300.0, 0.0), dying(300.0, 10.0)
    assert plain.deaths.hit > 5
    assert plain.deaths.longest_s > 10.0
    assert 0.0 < kept.deaths.longest_s <= 10.0
    assert kept.deaths.over_interval == 0
    assert max(one.end_s for one in kept.outcomes) < max(one.end_s for one in plain.outcomes)
    assert dying(0.0, 10.0).deaths.count == 0


def test_workers_die_at_the_same_moments_whatever_they_draw():
    gone = [dying(300.0, checkpoint_s).deaths.count for checkpoint_s in (5.0, 10.0)]
    assert gone[0] == gone[1]


def test_a_job_that_loses_too_many_workers_is_given_up():
    plain, kept = dying(40.0, 0.0), dying(40.0, 5.0)
    assert plain.deaths.given_up > kept.deaths.given_up


def test_the_report_has_what_deaths_cost():
    report = pool.run(pool.PoolPlan(workers=4, jobs=60, arrivals=300, repeats=1, die_every_s=400.0))
    found = {metric.key: metric.value for metric in report.metrics}
    assert found["rescue_kept_repeated_pct"] < found["rescue_plain_repeated_pct"]
    assert found["rescue_calm_makespan"] < found["rescue_kept_makespan"] < found["rescue_plain_makespan"]
    assert (found["rescue_kept_over_interval"], found["rescue_kept_room_over_interval"]) == (0, 0)
    assert found["rescue_kept_room_parked"] > 0
