"""Training, with sizes so small that it takes seconds: it learns, it can be stopped, and what it writes is a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scripts.demo_model import evaluate, stages
from scripts.demo_model.dit_training import Average
from scripts.demo_model.fast_convolution import speed_up
from scripts.demo_model.muon import Muon, orthogonal
from scripts.demo_model.parts import TransformerSizes
from scripts.demo_model.stages import Stage, TrainingError, train
from scripts.demo_model.train import Plan, main, make_model
from scripts.demo_model.vae_training import VaeSizes, decode, encode, new_vae

TINY = Plan(
    autoencoder_steps=3,
    polish_steps=1,
    decoder_steps=2,
    reader_steps=2,
    transformer_steps=4,
    vae=VaeSizes(latent=4, encoder=8, decoder=8),
    transformer=TransformerSizes(heads=2, head_width=16, feed_forward=32, layers=1, text=16),
    clips={17: 3, 1: 3},
)
CPU = torch.device("cpu")


def weights(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pipeline trained for a few steps."""
    root = tmp_path_factory.mktemp("trained")
    make_model(TINY, root / "model", root / "work", CPU)
    return root


# ---------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(16, 16), (48, 8), (8, 48)])
def test_an_orthogonal_step_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    singular = torch.linalg.svdvals(orthogonal(matrix, steps=6))

    assert orthogonal(matrix).shape == shape
    assert 0.5 < float(singular.min()) < float(singular.max()) < 1.5


def test_muon_learns_a_convolution() -> None:
    torch.manual_seed(0)
    wanted, learning = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
    optimiser = Muon(learning.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        pixels = torch.randn(8, 3, 8, 8)
        loss = (learning(pixels) - wanted(pixels)).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.05 * losses[0]


# ---------------------------------------------------------------- the autoencoder's short cuts


def test_the_fast_convolutions_and_the_open_decoder_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    vae = new_vae(TINY.vae)
    clip = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(clip).latent_dist
        decoded = vae.decode(posterior.mode()).sample
        speed_up(vae)
        mean, _ = encode(vae, clip)
        fast = decode(vae, mean)

    assert torch.allclose(mean, posterior.mode(), atol=1e-4)
    assert torch.allclose(fast.clamp(-1, 1), decoded, atol=1e-4)


# ---------------------------------------------------------------- stages


def line_stage(model: nn.Module, steps: int, broken_at: int = -1) -> Stage:
    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        x = torch.randn(16, 1, generator=generator)
        error = (model(x) - 3 * x).square().mean()
        return error * (float("nan") if step == broken_at else 1.0), {}

    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    return Stage("line", steps, {"model": model}, [optimiser], loss, lambda step: 1.0, parts=2)


def test_a_stage_goes_on_from_its_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    whole, cut = nn.Linear(1, 1), nn.Linear(1, 1)
    cut.load_state_dict(whole.state_dict())

    train(line_stage(whole, 20), 1, tmp_path / "whole.pt")
    train(line_stage(cut, 8), 1, tmp_path / "cut.pt")
    resumed = nn.Linear(1, 1)
    with caplog.at_level(logging.INFO):
        train(line_stage(resumed, 20), 1, tmp_path / "cut.pt")

    assert torch.equal(resumed.weight, whole.weight)
    assert "line: step 20 of 20" in caplog.text
    assert stages.seconds_spent(tmp_path / "cut.pt") > 0
    assert stages.seconds_spent(tmp_path / "none.pt") == 0


def test_a_loss_that_is_no_number_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="line: the loss is nan at step 3"):
        train(line_stage(nn.Linear(1, 1), 9, broken_at=2), 1, tmp_path / "line.pt")


def test_averages_follow_the_weights() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = Average(module)
    nn.init.ones_(module.weight)
    for step in range(400):
        average.update(step)
    average.put_into_module()

    assert 0.9 < float(module.weight.detach()) < 1.0


# ---------------------------------------------------------------- the whole


def test_what_training_writes_is_a_pipeline(trained: Path) -> None:
    pipeline = evaluate.load(trained / "model")
    frames = pipeline(
        "a red circle",
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=32,
        output_type="np",
    ).frames

    assert frames.shape == (1, 9, 64, 64, 3)
    assert any(std != 1.0 for std in pipeline.vae.config.latents_std)


def test_training_again_makes_the_same_weights(trained: Path, tmp_path: Path) -> None:
    make_model(TINY, tmp_path / "model", tmp_path / "work", CPU)

    assert weights(tmp_path / "model") == weights(trained / "model")


def test_a_finished_training_only_writes_the_model_again(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make_model(TINY, trained / "again", trained / "work", CPU)

    assert weights(trained / "again") == weights(trained / "model")
    assert caplog.text.count("done before") == 5


def test_another_seed_makes_other_weights(trained: Path, tmp_path: Path) -> None:
    plan = Plan(2, 1, 1, 1, 1, 1, TINY.vae, TINY.transformer, TINY.clips)

    make_model(plan, tmp_path / "model", tmp_path / "work", CPU)

    assert weights(tmp_path / "model") != weights(trained / "model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out"),
        (["--out", "x", "--transformer-steps", "0"], "--transformer-steps must be 1 or more, not 0"),
        (["--out", "x", "--device", "abacus"], "--device 'abacus' is no device of torch"),
    ],
)
def test_a_bad_argument_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 2
    assert message in capsys.readouterr().err
