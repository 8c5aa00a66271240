"""The two passes of a step that two ranks share, without a second process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from workers.engine.errors import EngineError
from workers.engine.splitting import Answers, split
from workers.models.parallel import Layout


class _Denoiser(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        return (hidden_states * 2,)

    @contextmanager
    def cache_context(self, name: str) -> Any:
        yield


class _Pipe:
    def __init__(self) -> None:
        self.transformer = _Denoiser()

    def step(self, *names: str) -> list[float]:
        answers = []
        for name in names:
            with self.transformer.cache_context(name):
                answers.append(self.transformer(torch.ones(1)))
        return [float(answer[0]) for answer in answers]


class _Votes:
    """All ranks always go on."""

    def __init__(self) -> None:
        self.inside = False
        self.taken = 0

    @contextmanager
    def together(self, number: int = 0) -> Any:
        self.taken += 1
        yield number


def test_the_first_step_of_a_shape_is_computed_whole() -> None:
    pipe, votes = _Pipe(), _Votes()
    with split(pipe, Layout(guidance=2), None, votes, Answers()):  # type: ignore[arg-type]
        assert pipe.step("cond", "uncond") == [2.0, 2.0]
    assert votes.taken == 2
    assert not votes.inside


@pytest.mark.parametrize("names", [("cond", "cond"), ("main",)])
def test_a_pipeline_that_makes_one_pass_a_step_is_found_out_between_passes(names: tuple[str, ...]) -> None:
    pipe, votes, answers = _Pipe(), _Votes(), Answers()
    with (
        split(pipe, Layout(guidance=2), None, votes, answers),  # type: ignore[arg-type]
        pytest.raises(EngineError, match="does not make two passes a step"),
    ):
        pipe.step(*names)
    assert not votes.inside
    assert not answers.forms
    # Nothing of it is left behind.
    assert pipe.step("cond") == [2.0]
