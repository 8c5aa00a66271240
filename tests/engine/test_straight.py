"""Weights that are read onto their device at once: when, and that they are the same."""

from __future__ import annotations

import pytest
import torch

from broker.wire.jobspec import ModelCard
from workers.engine.loading import goes_straight, load
from workers.models.model import ModelSetup

GB = 2**30


@pytest.mark.parametrize(
    ("kind", "placement", "needed", "free", "straight"),
    [
        ("cuda", "auto", 10 * GB, 80 * GB, True),
        ("cuda", "resident", 10 * GB, 80 * GB, True),
        ("cuda", "auto", 70 * GB, 80 * GB, False),  # no room for a job beside them
        ("cuda", "model", 10 * GB, 80 * GB, False),  # they wait in host memory
        ("cuda", "auto", 0, 80 * GB, False),  # how much they take is not known
        ("cpu", "auto", 10 * GB, 80 * GB, False),
    ],
)
def test_what_fits_and_stays_is_read_straight_to_a_gpu(
    kind: str, placement: str, needed: int, free: int, straight: bool
) -> None:
    assert goes_straight(kind, placement, needed, free) is straight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_read_straight_to_a_device_are_the_same(demo_card: ModelCard, dtype: torch.dtype) -> None:
    usual = load(demo_card, ModelSetup(), dtype)
    straight = load(demo_card, ModelSetup(), dtype, straight_to="cpu")

    for name in ("transformer", "vae", "text_encoder"):
        own, other = (getattr(pipe, name).state_dict() for pipe in (usual, straight))
        assert all(own[key].dtype == tensor.dtype and torch.equal(own[key], tensor) for key, tensor in other.items())
    assert straight.to("cpu") is straight  # and may be moved


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_be_read_straight_is_read_into_host_memory(
    demo_card: ModelCard, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = load(demo_card, ModelSetup(), torch.float32, straight_to="cuda")

    assert pipe.transformer.device.type == "cpu"
    assert "cannot be read straight to the device" in caplog.text
