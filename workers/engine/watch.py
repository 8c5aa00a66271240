"""One call of a pipeline under watch: its steps reported, a cancel heard inside every block, everything clean afterwards.

Diffusers' own `interrupt` flag is not enough: it skips the remaining steps but still decodes, and a flag set before the call is
lost. So forward pre-hooks on every component and on every child of every ModuleList (text encoder layers, transformer blocks, VAE
blocks) ask the monitor, which raises `Cancelled` out of the call. What the pipeline would have done at its end is then done here:
without `maybe_free_model_hooks`, offloaded models stay on the GPU and a cache poisons the next job.

Phases come from the progress bar that nearly every pipeline makes around its loop: before it the prompt is encoded, after it the
latents are decoded. Steps come from `callback_on_step_end` where the pipeline has one, else from the bar.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from workers.engine.device import Device
from workers.engine.monitor import Monitor


def call(pipe: Any, arguments: dict[str, Any], monitor: Monitor, device: Device) -> Any:
    """`pipe(**arguments)` under watch. Raises `Cancelled`, and what the pipeline raises; the pipeline is as before either way."""
    steps = _Steps(pipe, monitor, device)
    if "callback_on_step_end" in call_parameters(pipe):
        arguments = {**arguments, "callback_on_step_end": steps.on_step_end}
    monitor.enter("encode")
    try:
        with hearing(pipe.components.values(), monitor.check), _progress_bar(pipe, steps.bar):
            return pipe(**arguments)
    finally:
        pipe.maybe_free_model_hooks()


def call_parameters(pipe: Any) -> set[str]:
    """Names of the arguments that the pipeline's call takes."""
    return set(inspect.signature(type(pipe).__call__).parameters) - {"self"}


@contextmanager
def hearing(components: Iterable[Any], check: Callable[[], None]) -> Iterator[None]:
    """Inside, `check` runs before every block of every model among `components`, when this thread comes to it.

    Another thread may be in the same models for another job, which has its own cancel.
    """
    ours = threading.get_ident()

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        if threading.get_ident() == ours:
            check()

    handles = [module.register_forward_pre_hook(hook) for module in _cancel_points(components)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cancel_points(components: Iterable[Any]) -> list[torch.nn.Module]:
    points: dict[int, torch.nn.Module] = {}
    for component in components:
        if not isinstance(component, torch.nn.Module):
            continue
        points[id(component)] = component
        for module in component.modules():
            if isinstance(module, torch.nn.ModuleList):
                points.update((id(child), child) for child in module)
    return list(points.values())


@contextmanager
def _progress_bar(pipe: Any, bar: Callable[..., Any]) -> Iterator[None]:
    """The instance's attribute hides the class's method; removing it brings the method back."""
    pipe.progress_bar = bar
    try:
        yield
    finally:
        del pipe.progress_bar


class _Steps:
    """Turns a pipeline's own signs of progress into the monitor's phases and steps."""

    def __init__(self, pipe: Any, monitor: Monitor, device: Device) -> None:
        self._pipe = pipe
        self._monitor = monitor
        self._device = device
        self._by_callback = False
        self._total = 0

    def bar(self, iterable: Iterable[Any] | None = None, total: int | None = None, **_: Any) -> _Bar:
        """Replaces `pipe.progress_bar`."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        return _Bar(self, iterable, total or 0)

    def begin(self, total: int) -> None:
        self._total = total
        self._device.synchronise()
        self._monitor.enter("denoise", total)

    def advance(self, done: int) -> None:
        if not self._by_callback:
            self._device.synchronise()
            self._monitor.step(done, max(self._total, done))

    def end(self) -> None:
        self._device.synchronise()
        self._monitor.enter("decode")

    def on_step_end(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Diffusers' callback: `index` counts scheduler steps, of which there may be more than were asked for."""
        self._by_callback = True
        self._device.synchronise()
        total = getattr(pipe, "_num_timesteps", None) or self._total
        self._monitor.step(index + 1, max(int(total), index + 1))
        return tensors


class _Bar:
    """What pipelines use of tqdm: a context manager, an iterator, `update`."""

    def __init__(self, steps: _Steps, iterable: Iterable[Any] | None, total: int) -> None:
        self._steps = steps
        self._iterable = iterable
        self._total = total
        self._done = 0
        if iterable is None:
            steps.begin(total)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._steps.end()

    def __iter__(self) -> Iterator[Any]:
        self._steps.begin(self._total)
        for item in self._iterable or ():
            yield item
            self.update()
        self._steps.end()

    def update(self, n: int = 1) -> None:
        self._done += n
        self._steps.advance(self._done)

    def close(self) -> None:
        """Pipelines that use the bar without `with` end their loop here."""
        self._steps.end()

    def set_description(self, *_: Any, **__: Any) -> None:
        """Nobody reads it."""
