"""The spread of run times: what is learned of it, and the times within which jobs end with a stated confidence."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.scheduling.bounds import MAX_RUN_S
from broker.core.scheduling.costs import Costs
from broker.testing import UNIT


def learned(sigma: float, jobs: int = 300, seed: int = 1) -> Costs:
    rng, costs = random.Random(seed), Costs()
    for _ in range(jobs):
        units = UNIT * rng.uniform(1, 20)
        costs.learn("demo", units, 10.0 * units / UNIT * rng.lognormvariate(0.0, sigma))
    return costs


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.4])
def test_the_spread_of_what_jobs_took_is_learned(sigma):
    assert learned(sigma).spread("demo", 5 * UNIT) == pytest.approx(sigma, rel=0.4)


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99])
def test_as_many_jobs_end_in_time_as_the_confidence_says(sigma, confidence):
    costs, rng, kept = learned(sigma), random.Random(7), 0
    for _ in range(1000):
        units = UNIT * rng.uniform(1, 20)
        took = 10.0 * units / UNIT * rng.lognormvariate(0.0, sigma)
        kept += took <= costs.quantile("demo", units, confidence)
        costs.learn("demo", units, took)
    # Rather too many than too few: that start-up and rate are not known exactly counts too.
    assert confidence - 0.05 <= kept / 1000 <= confidence + 0.12


def test_an_unknown_model_has_no_time_to_promise():
    assert Costs().quantile("demo", UNIT, 0.95) is None
    assert Costs().spread("demo", UNIT) > 0.2


def test_little_evidence_is_a_wide_spread():
    few, many = learned(0.02, jobs=3), learned(0.02)
    assert few.spread("demo", UNIT) > 2 * many.spread("demo", UNIT)


def test_one_odd_job_moves_the_spread_little():
    costs = learned(0.1)
    before = costs.spread("demo", 5 * UNIT)
    costs.learn("demo", 5 * UNIT, 5000.0)
    assert costs.spread("demo", 5 * UNIT) < 1.6 * before


def test_what_was_learned_once_is_learned_again_from_the_same_jobs():
    """A restart teaches the finished jobs anew, oldest first."""
    assert learned(0.2).quantile("demo", UNIT, 0.9) == learned(0.2).quantile("demo", UNIT, 0.9)


@given(
    st.lists(st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)), max_size=20),
    st.floats(0, 1e15),
    st.floats(0.5, 0.999),
)
def test_whatever_is_learned_a_quantile_is_in_range(jobs, units, confidence):
    costs = Costs()
    for job in jobs:
        costs.learn("demo", *job)
    found = costs.quantile("demo", units, confidence)
    assert found is None or 0.0 <= found <= MAX_RUN_S
