"""Models whose weights give what is no number: a job of theirs fails and says so, as early as it can be seen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.engine.families.cases import CASES
from tests.engine.families.served import Served
from workers.ipc.messages import JobFailed

# The libraries warn of many a thing that a tiny model is.
pytestmark = pytest.mark.filterwarnings("ignore")


def _served(name: str, directory: Path) -> Served:
    return Served(next(case for case in CASES if case.label == name), directory)


def _break(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)


@pytest.mark.parametrize("name", ["WanPipeline", "LTX2Pipeline", "ChromaPipeline"])
@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_a_job_ends_after_its_first_step(
    name: str, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = _served(name, tmp_path)
    _break(getattr(served.pipe, part))

    with caplog.at_level(logging.ERROR):
        drawn = served.draw()

    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert (drawn.ending.kind, drawn.ending.fatal) == ("engine_error", False)
    size, _, rest = drawn.ending.message.partition(" of the ")
    assert rest == f"{size} values of the latents after step 1 of 2 are no numbers (NaN or infinite)"
    assert drawn.ending.message in caplog.text
    assert "decode" not in [phase for phase, _, _ in drawn.seen]
    assert list(drawn.place.iterdir()) == []


@pytest.mark.parametrize(("name", "part"), [("LTX2Pipeline", "vae"), ("ChromaPipeline", "vae"), ("WanPipeline", "vae")])
def test_what_only_the_pictures_show_is_seen_there(name: str, part: str, tmp_path: Path) -> None:
    served = _served(name, tmp_path)
    _break(getattr(served.pipe, part))

    drawn = served.draw()

    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert drawn.ending.kind == "engine_error"
    assert "values of what the model gave are no numbers" in drawn.ending.message
    assert list(drawn.place.iterdir()) == []


@pytest.mark.parametrize("name", ["PixArtAlphaPipeline", "HunyuanVideo15Pipeline"])
def test_pipelines_that_show_no_latents_fail_by_their_pictures(name: str, tmp_path: Path) -> None:
    served = _served(name, tmp_path)
    _break(served.pipe.transformer)

    drawn = served.draw()

    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert drawn.ending.kind == "engine_error"
    assert "are no numbers (NaN or infinite)" in drawn.ending.message


def test_sound_that_is_no_number_fails_a_clip(tmp_path: Path) -> None:
    served = _served("LTX2Pipeline", tmp_path)
    _break(served.pipe.vocoder)

    drawn = served.draw()

    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert drawn.ending.kind == "engine_error"
    assert "values of the sound are no numbers" in drawn.ending.message
    assert list(drawn.place.iterdir()) == []


def test_infinite_values_of_the_last_step_are_seen_before_decoding(tmp_path: Path) -> None:
    """A scheduler that overflows at its end, as half precision can."""
    served = _served("ChromaPipeline", tmp_path)
    step = served.pipe.scheduler.step
    taken = 0

    def overflow(model_output: torch.Tensor, *args: object, **kwargs: object) -> object:
        nonlocal taken
        taken += 1
        return step(model_output * torch.inf if taken == 2 else model_output, *args, **kwargs)

    served.pipe.scheduler.step = overflow
    drawn = served.draw()

    assert isinstance(drawn.ending, JobFailed), drawn.ending
    assert "of the latents after step 2 of 2" in drawn.ending.message
