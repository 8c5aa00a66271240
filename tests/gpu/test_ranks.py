"""One job on two GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.conftest import spec_for
from tests.engine.ranks.group import Forks
from workers.models.catalogue import default_model, model_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_two_draw_what_one_draws(tmp_path: Path, scale: float) -> None:
    demo = model_for(str(default_model()), "demo")
    forks = Forks(tmp_path)
    drawn = []
    for ranks in (1, 2):
        group = forks.group(ranks, demo.card, setups={"demo": demo.setup}, device="cuda", dtype="float32").ready()
        drawn.append(group.draw(spec_for(demo.card, guidance_scale=scale))[0])
        group.close()
    forks.close()
    # Kernels for other sizes sum in another order.
    assert np.allclose(*drawn, atol=1e-2)
