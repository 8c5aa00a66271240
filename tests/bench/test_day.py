"""A simulated day, small: every job ends once, although machines die and the broker is killed."""

from __future__ import annotations

import pytest

from bench.suites import day


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    plan = day.DayPlan(
        workers=16,
        jobs=300,
        deaths=20.0,
        kills=4,
        cancels=0.2,
        crashes=0.1,
        directory=str(tmp_path_factory.mktemp("day")),
    )
    return {metric.key: metric.value for metric in day.run(plan).metrics}


def test_every_job_ends_once(found):
    assert (found["lost"], found["ended_twice"], found["published_twice"]) == (0, 0, 0)
    assert found["state_succeeded"] + found["state_cancelled"] + found.get("state_failed", 0) == found["jobs"] == 300


def test_what_was_to_go_wrong_did(found):
    assert found["kills"] == 4
    assert found["lost_attempts"] > 5
    assert found["state_cancelled"] > 5


def test_more_comes_at_noon():
    jobs = day.draw_day(day.DayPlan(workers=16, jobs=2_000))
    noon = sum(6 * 3600 <= job.at_s < 18 * 3600 for job in jobs)
    assert noon > 1_200


def test_the_load_is_what_was_asked_for():
    plan = day.DayPlan(workers=80, jobs=5_000, load=0.5)
    worked = sum(job.length_s for job in day.draw_day(plan))
    assert worked / (plan.workers * 86_400) == pytest.approx(0.5, rel=0.1)
