"""Two tiny models whose jobs are interrupted, for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.families import build_stable_diffusion, build_wan
from tests.engine.resumed import Rig


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A model of clips."""
    torch.manual_seed(0)
    return Rig(tmp_path_factory.mktemp("wan"), build_wan.BUILDERS["WanPipeline"]())


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A model of pictures, with a preset whose sampler draws noise at each step."""
    torch.manual_seed(0)
    table = {"presets": {"noisy": {"kind": "euler_ancestral"}}}
    return Rig(tmp_path_factory.mktemp("sd"), build_stable_diffusion.BUILDERS["StableDiffusionPipeline"](), table)


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no checkpoint to the next test."""
    yield
    for name in ("wan", "stable_diffusion"):
        if name in request.fixturenames:
            request.getfixturevalue(name).forget()
