"""One job on two GPUs; the same on two processes of a CPU, so that the test does not fall behind the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.conftest import spec_for
from tests.engine.ranks.group import Forks
from workers.models.catalogue import default_model, model_for

ON_TWO_GPUS = (
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
)


@pytest.mark.parametrize(
    ("device", "scale"),
    [("cpu", 4.0), pytest.param("cuda", 4.0, marks=ON_TWO_GPUS), pytest.param("cuda", 1.0, marks=ON_TWO_GPUS)],
)
def test_two_draw_what_one_draws(tmp_path: Path, device: str, scale: float) -> None:
    demo = model_for(str(default_model()), "demo")
    forks = Forks(tmp_path)
    drawn = []
    for ranks in (1, 2):
        group = forks.group(ranks, demo.card, setups={"demo": demo.setup}, device=device, dtype="float32").ready()
        drawn.append(group.draw(spec_for(demo.card, guidance_scale=scale))[0])
        group.close()
    forks.close()
    # Kernels for other sizes sum in another order.
    assert np.allclose(*drawn, atol=1e-2)
