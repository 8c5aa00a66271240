"""A job's own shift of the noise schedule."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from broker.wire.jobspec import ModelCard
from tests.engine.conftest import spec_for
from workers.engine.errors import InvalidInput
from workers.engine.progress import Monitor
from workers.engine.scheduling import shifted


class Pipe:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0),
    ],
    ids=lambda item: type(item).__name__,
)
def test_a_larger_shift_spends_more_steps_in_the_noise(scheduler: Any, demo_card: ModelCard, monitor: Monitor) -> None:
    pipe = Pipe(scheduler)
    pipe.scheduler.set_timesteps(8)
    before = float(pipe.scheduler.sigmas[4])

    with shifted(pipe, spec_for(demo_card, extra={"flow_shift": 8}), monitor):
        pipe.scheduler.set_timesteps(8)
        assert float(pipe.scheduler.sigmas[4]) > before + 0.1

    assert pipe.scheduler is scheduler


def test_without_one_nothing_changes(demo_card: ModelCard, monitor: Monitor) -> None:
    pipe = Pipe(FlowMatchEulerDiscreteScheduler(shift=1.0))
    with shifted(pipe, spec_for(demo_card), monitor) as nothing:
        assert nothing is None
        assert pipe.scheduler.config.shift == 1.0


def test_a_schedule_shifted_by_the_size_keeps_its_own(demo_card: ModelCard, monitor: Monitor) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = Pipe(scheduler)
    with shifted(pipe, spec_for(demo_card, extra={"flow_shift": 3.0}), monitor):
        assert pipe.scheduler is scheduler
    assert monitor.warnings == ("extra.flow_shift: the scheduler of this model takes no shift; it was not used",)


@pytest.mark.parametrize("value", [0, -1, "3", True, 1e9])
def test_nonsense_is_refused(demo_card: ModelCard, value: Any, monitor: Monitor) -> None:
    with (
        pytest.raises(InvalidInput, match="flow_shift"),
        shifted(Pipe(None), spec_for(demo_card, extra={"flow_shift": value}), monitor),
    ):
        pass
