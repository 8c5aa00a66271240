import itertools
import random

import pytest

from bench.report.errors import BadPlan
from bench.suites import workload
from bench.suites.workload import Shape


def test_the_same_seed_draws_the_same_run():
    shapes = workload.parse_shapes("64x64x17@3,128x64@1")
    first = workload.draw(5.0, 50, 7, ("a", "b"), shapes, (4, 8))
    assert first == workload.draw(5.0, 50, 7, ("a", "b"), shapes, (4, 8))
    assert first != workload.draw(5.0, 50, 8, ("a", "b"), shapes, (4, 8))


def test_arrivals_begin_at_zero_and_keep_the_rate():
    times = workload.poisson_times(20.0, 20_001, random.Random(1))
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(1000.0, rel=0.05)


def test_gaps_are_exponential():
    times = workload.poisson_times(1.0, 20_000, random.Random(2))
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    # An exponential of mean 1 has its median at ln 2 and its 95th percentile at ln 20.
    assert gaps[len(gaps) // 2] == pytest.approx(0.693, rel=0.05)
    assert gaps[int(len(gaps) * 0.95)] == pytest.approx(2.996, rel=0.06)


def test_one_job_has_one_arrival():
    assert [arrival.at_s for arrival in workload.draw(1.0, 1, 0)] == [0.0]


def test_shapes_are_drawn_by_weight():
    shapes = workload.parse_shapes("64x64@9,128x128@1")
    drawn = [arrival.shape for arrival in workload.draw(1.0, 2_000, 3, shapes=shapes)]
    assert drawn.count(shapes[0]) / len(drawn) == pytest.approx(0.9, abs=0.03)


def test_nothing_asked_leaves_the_models_defaults():
    arrival = workload.draw(1.0, 1, 0)[0]
    assert arrival.shape is None
    assert arrival.steps == 0


def test_shapes_are_read():
    assert workload.parse_shapes("64x32, 832x480x81@0.5") == (Shape(64, 32), Shape(832, 480, 81, 0.5))
    assert workload.parse_shapes("") == ()


@pytest.mark.parametrize("text", ["64", "64x", "0x64", "64x64@0", "64x64x", "-1x2", "64x64@x"])
def test_bad_shapes_are_named(text):
    with pytest.raises(BadPlan, match="--size") as caught:
        workload.parse_shapes(text)
    assert text in str(caught.value)


def test_steps_are_read():
    assert workload.parse_steps("4, 8") == (4, 8)
    with pytest.raises(BadPlan, match="--steps: '0'"):
        workload.parse_steps("4,0")
