"""Real agent cores and the real broker core, through a minute of everything that goes wrong and the calm after it."""

from __future__ import annotations

import pytest

from broker.core.jobs import JobState
from tests.support.simulation import World


@pytest.mark.parametrize("seed", range(5))
def test_every_accepted_job_ends_once_and_every_worker_is_free_again(seed: int) -> None:
    world = World(seed)
    world.run(45.0)
    world.calm_down()
    assert set(world.finals) == world.accepted
    assert all(world.finals[job_id] is JobState.CANCELLED for job_id in world.cancel_accepted)
    assert world.settled()
    assert len(world.begun) == len(set(world.begun)), "a fence ran twice"
    assert set(world.published) <= world.dirs
    assert [view.state for view in world.broker.snapshot().workers] == ["idle"] * 3
