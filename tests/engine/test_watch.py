"""Progress and cancel in pipelines of other shapes than Wan's: without callback, with the bar as an iterator, with extra steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.engine.scripted import CancelAt, Recorder
from workers.engine.device import Device
from workers.engine.errors import EngineError
from workers.engine.instrumentation import call
from workers.engine.memory import ProcessMemory
from workers.engine.progress import Cancelled, Monitor
from workers.ipc.shared import Slot


class Pipeline:
    """What all of diffusers' pipelines share, as far as a call under watch sees it."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)]))
        self.components: dict[str, Any] = {"model": self.model, "tokenizer": object()}
        self.freed = 0
        #: Something is offloaded.
        self._all_hooks = [object()]

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1

    def end(self) -> str:
        """What all do at the end of their calls."""
        self.maybe_free_model_hooks()
        return "drawn"

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        raise AssertionError("the real bar writes to the terminal")

    def think(self) -> None:
        for layer in self.model[0]:  # type: ignore[attr-defined]
            layer(torch.zeros(1, 2))


class WithBar(Pipeline):
    """No callback; `update` on a bar, as Hunyuan Video 1.5."""

    def __call__(self, num_inference_steps: int) -> str:
        with self.progress_bar(total=num_inference_steps) as bar:
            for _ in range(num_inference_steps):
                self.think()
                bar.update()
        self.think()
        return "drawn"


class WithIterator(Pipeline):
    """No callback; the bar wraps the timesteps, as the older pipelines."""

    def __call__(self, num_inference_steps: int) -> str:
        for _ in enumerate(self.progress_bar(range(num_inference_steps))):
            self.think()
        return self.end()


class WithOrder(Pipeline):
    """A scheduler of second order: two calls of the model, and of the callback, for each step of the bar."""

    def __call__(self, num_inference_steps: int, callback_on_step_end: Callable[..., Any] | None = None) -> str:
        self._num_timesteps = 2 * num_inference_steps - 1
        with self.progress_bar(total=num_inference_steps) as bar:
            for index in range(self._num_timesteps):
                assert callback_on_step_end is not None
                assert callback_on_step_end(self, index, 0, {"latents": 1}) == {"latents": 1}
                if index % 2 == 0:
                    bar.update()
        return "drawn"


class WithTimesteps(Pipeline):
    """The bar wraps a tensor of timesteps, as in DDIM and the other unconditional ones."""

    def __init__(self, timesteps: list[int]) -> None:
        super().__init__()
        self.timesteps = torch.tensor(timesteps)

    def __call__(self, num_inference_steps: int) -> str:
        for _ in self.progress_bar(self.timesteps):
            self.think()
        return "drawn"


class WithOwnBar(Pipeline):
    """A bar of the pipeline's own, over parts of the clip, as AnyFlowFAR: only the callback tells of steps."""

    def __call__(self, num_inference_steps: int, callback_on_step_end: Callable[..., Any] | None = None) -> str:
        self._num_timesteps = 2 * num_inference_steps
        for _ in range(2):
            for index in range(num_inference_steps):
                self.think()
                assert callback_on_step_end is not None
                callback_on_step_end(self, index, 0, {})
        self.think()
        return "drawn"


class Combined(Pipeline):
    """Two pipelines in one, as Kandinsky's: the prior makes of the prompt what the decoder draws from."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_pipe, self.decoder_pipe = WithIterator(), WithBar()
        self.prior_pipe.progress_bar = lambda iterable: iterable  # type: ignore[assignment, method-assign]

    def __call__(self, num_inference_steps: int) -> str:
        self.prior_pipe(num_inference_steps=5)
        return self.decoder_pipe(num_inference_steps=num_inference_steps)


class WithPlaceForABlock(WithBar):
    """A VAE without attention in its middle keeps None in its list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.model[0].append(None)  # type: ignore[index, operator, union-attr]

    def think(self) -> None:
        for layer in self.model[0]:  # type: ignore[attr-defined]
            if layer is not None:
                layer(torch.zeros(1, 2))


def _call(pipe: Pipeline, slot: Slot) -> Any:
    monitor = Monitor(slot, 1, 1, ProcessMemory())
    return call(pipe, {"num_inference_steps": 3}, monitor, Device("cpu", "auto", 0))


_THREE_STEPS = [
    ("encode", 0, 0), ("denoise", 0, 3), ("denoise", 1, 3), ("denoise", 2, 3), ("denoise", 3, 3), ("decode", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("kind", [WithBar, WithIterator, WithPlaceForABlock, Combined])
def test_steps_of_a_pipeline_without_callback(kind: type[Pipeline]) -> None:
    slot = Recorder.recording()

    assert _call(kind(), slot) == "drawn"

    assert slot.seen == _THREE_STEPS


@pytest.mark.parametrize("timesteps", [[900, 500, 0], [0], [1]])
def test_steps_over_a_tensor_of_timesteps(timesteps: list[int]) -> None:
    slot = Recorder.recording()

    assert _call(WithTimesteps(timesteps), slot) == "drawn"

    steps = [(step, total) for phase, step, total in slot.seen if phase == "denoise"]
    assert steps == [(done, len(timesteps)) for done in range(len(timesteps) + 1)]


def test_no_step_at_all_is_no_picture() -> None:
    with pytest.raises(EngineError, match="no denoising step"):
        _call(WithTimesteps([]), Recorder.recording())


def test_steps_of_a_pipeline_with_a_bar_of_its_own() -> None:
    slot = Recorder.recording()

    assert _call(WithOwnBar(), slot) == "drawn"

    assert slot.seen == [("encode", 0, 0), *(("denoise", done, 6) for done in range(7)), ("decode", 0, 0)]


def test_steps_are_those_that_are_run() -> None:
    slot = Recorder.recording()

    _call(WithOrder(), slot)

    steps = [(step, total) for phase, step, total in slot.seen if phase == "denoise"]
    assert steps == [(0, 3), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("kind", [WithBar, WithIterator])
@pytest.mark.parametrize(
    ("phase", "step", "hits"), [("denoise", 0, 0), ("denoise", 1, 3), ("denoise", 2, 0), ("decode", 0, 0)]
)
def test_cancel_is_heard_and_cleaned_up_after(kind: type[Pipeline], phase: str, step: int, hits: int) -> None:
    pipe = kind()
    slot = CancelAt.at(phase, step, hits)

    with pytest.raises(Cancelled):
        _call(pipe, slot)

    assert pipe.freed == 1
    assert "progress_bar" not in vars(pipe)
    assert not any(module._forward_pre_hooks for module in pipe.model.modules())


@pytest.mark.parametrize(("hooks", "times"), [([object()], 1), ([], 0)])
def test_a_pipeline_that_frees_its_hooks_at_its_end_does_so_once_and_only_if_there_are_any(
    hooks: list[object], times: int
) -> None:
    pipe = WithIterator()
    pipe._all_hooks = hooks

    assert _call(pipe, Recorder.recording()) == "drawn"

    assert pipe.freed == times


def test_failure_is_cleaned_up_after() -> None:
    pipe = WithBar()
    pipe.model[0][1] = torch.nn.Linear(9, 9)  # type: ignore[index, operator]
    slot = Recorder.recording()

    with pytest.raises(RuntimeError, match="shapes"):
        _call(pipe, slot)

    assert pipe.freed == 1
    assert not any(module._forward_pre_hooks for module in pipe.model.modules())
