"""Instrumentation of a pipeline's call: reports steps, raises on a cancel inside every block, removes its hooks afterwards.

Diffusers' own `interrupt` flag is not enough: it skips the remaining steps but still decodes, and a flag set before the call is
lost. So forward pre-hooks on every component and on every child of every ModuleList (text encoder layers, transformer blocks, VAE
blocks) call the monitor, which raises `Cancelled` out of the call; of a compiled block only the block itself, as a hook within would
be compiled with it. What the pipeline would have done at its end is then done here: without `maybe_free_model_hooks`, offloaded models
stay on the GPU and a cache poisons the next job.

Phases come from the progress bar that nearly every pipeline makes around its loop: before it the prompt is encoded, after it the
latents are decoded. Steps come from `callback_on_step_end` where the pipeline has one, else from the bar; a job that may be resumed takes
its state there, or where the pipeline has no callback from what its scheduler's `step` answers.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from workers.engine.attention import denoisers_of
from workers.engine.device import Device
from workers.engine.errors import EngineError
from workers.engine.frames import require_finite
from workers.engine.progress import Monitor
from workers.engine.resuming import Resumption

#: Set on a module whose `forward` is compiled.
COMPILED = "_forward_is_compiled"

#: Set on a denoiser whose passes the ranks of a group compute together: one that left within would leave the others waiting.
VOTES = "_votes_before_passes"

_FREE = "maybe_free_model_hooks"


def call(
    pipe: Any,
    arguments: dict[str, Any],
    monitor: Monitor,
    device: Device,
    resumption: Resumption | None = None,
    ended: Callable[[], None] | None = None,
) -> Any:
    """`pipe(**arguments)` under watch, from where an earlier attempt was if there is a `resumption`; then `ended` is called at once.

    A job that is prepared beside another waits at the pipeline's loop, or where that is not seen before the first call of a denoiser.
    Raises `Cancelled`, `Parked`, `UnknownState`, and what the pipeline raises; the pipeline is as before either way.
    """
    steps = _Steps(pipe, monitor, device, resumption)
    taken = call_parameters(pipe)
    stepping: AbstractContextManager[None] = nullcontext()
    if resumption is not None and "callback_on_step_end" not in taken:
        stepping = _stepping(pipe, steps.scheduler_stepped)
    if "callback_on_step_end" in taken:
        arguments = {**arguments, "callback_on_step_end": steps.on_step_end}
        if resumption is not None and "callback_on_step_end_tensor_inputs" in taken:
            arguments["callback_on_step_end_tensor_inputs"] = resumption.step_end_tensors
    monitor.enter("encode")
    around = resumption.around() if resumption is not None else nullcontext()
    with (
        freed(pipe),
        checked_in_blocks(pipe.components.values(), monitor.check),
        _progress_bar(pipe, steps.bar),
        _turn_taken(pipe, monitor) if monitor.turn.waits else nullcontext(),
        stepping,
        around,
    ):
        output = pipe(**arguments)
        if ended is not None:
            ended()
    steps.check_taken()
    return output


def call_parameters(pipe: Any) -> frozenset[str]:
    """Names of the arguments that the pipeline's call takes."""
    kind: Any = type(pipe)
    return _parameters(kind)


@functools.cache
def _parameters(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__call__).parameters) - {"self"}


@contextmanager
def freed(pipe: Any) -> Iterator[None]:
    """Inside, `maybe_free_model_hooks` does nothing; afterwards it has been called once, where there is anything to free.

    Pipelines call it at their end, and it walks every module: that is time in which the device waits for the next job.
    """
    own = vars(pipe).get(_FREE)
    free = getattr(pipe, _FREE)
    setattr(pipe, _FREE, lambda: None)
    try:
        yield
    finally:
        delattr(pipe, _FREE)
        if own is not None:
            setattr(pipe, _FREE, own)
        # A pipeline over the parts of another frees through that one.
        if _holds(getattr(free, "__self__", pipe)):
            free()


def _holds(pipe: Any) -> bool:
    """Whether hooks bring its models to the device, or one of them has a step cache."""
    hooks = getattr(pipe, "_all_hooks", None)
    return bool(hooks) or any(getattr(part, "is_cache_enabled", False) for part in pipe.components.values())


@contextmanager
def checked_in_blocks(components: Iterable[Any], check: Callable[[], None]) -> Iterator[None]:
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
    """The modules to hook. Within what is compiled a hook would be compiled too, or break the graph."""
    points: dict[int, torch.nn.Module] = {}

    def walk(module: torch.nn.Module, *, listed: bool) -> None:
        if getattr(module, VOTES, False):
            return
        compiled = getattr(module, COMPILED, False)
        if listed or compiled:
            points[id(module)] = module
        if not compiled:
            for child in module.children():
                walk(child, listed=isinstance(module, torch.nn.ModuleList))

    for component in components:
        if isinstance(component, torch.nn.Module):
            walk(component, listed=True)
    return list(points.values())


@contextmanager
def _progress_bar(pipe: Any, bar: Callable[..., Any]) -> Iterator[None]:
    """The instance's attribute hides the class's method; removing it brings the method back.

    A combined pipeline runs two others, and has no loop of its own: what counts is the one that draws. The prior before it belongs to
    the encoding of the prompt.
    """
    drawing = getattr(pipe, "decoder_pipe", pipe)
    drawing.progress_bar = bar
    try:
        yield
    finally:
        del drawing.progress_bar


@contextmanager
def _turn_taken(pipe: Any, monitor: Monitor) -> Iterator[None]:
    """Inside, no denoiser computes for this thread before the job's turn has come."""
    ours = threading.get_ident()

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        if threading.get_ident() == ours:
            monitor.turn.begin()

    handles = [part.register_forward_pre_hook(hook) for part in denoisers_of(pipe)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _stepping(pipe: Any, stepped: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, what the scheduler's `step` answers goes through `stepped`."""
    scheduler = pipe.scheduler
    own = vars(scheduler).get("step")
    original = scheduler.step

    # `wraps`: pipelines look up in the signature which further arguments the scheduler takes.
    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        return stepped(original(*args, **kwargs))

    scheduler.step = step
    try:
        yield
    finally:
        if own is not None:
            scheduler.step = own
        else:
            del scheduler.step


class _Steps:
    """Turns a pipeline's own signs of progress into the monitor's phases and steps."""

    def __init__(self, pipe: Any, monitor: Monitor, device: Device, resumption: Resumption | None = None) -> None:
        self._pipe = pipe
        self._resumption = resumption
        self._monitor = monitor
        self._device = device
        self._called = 0
        self._index = 0
        self._bars = 0
        self._total = 0
        self._taken = 0

    def bar(self, iterable: Iterable[Any] | None = None, total: int | None = None, **_: Any) -> _Bar:
        """Replaces `pipe.progress_bar`."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        return _Bar(self, iterable, total or 0)

    def begin(self, total: int) -> None:
        self._bars += 1
        self._begin(total)

    def advance(self, done: int) -> None:
        self._taken += 1
        if not self._called:
            self._device.synchronise()
            self._monitor.step(done, max(self._total, done))

    def end(self) -> None:
        self._device.synchronise()
        self._monitor.enter("decode")

    def on_step_end(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Diffusers' callback, once for each step of the scheduler, of which there may be more than were requested.

        `index` begins anew in pipelines that draw a clip in parts, so calls are counted.
        """
        self._taken += 1
        self._called += 1
        if self._resumption is not None:
            if index < self._index:
                self._resumption.begin()
            self._index = index
            if self._resumption.skips(self._called):
                return tensors
        self._device.synchronise()
        # A scheduler may take more steps than the bar was made for, and a pipeline that draws in several sizes counts those of each.
        total = max(int(getattr(pipe, "_num_timesteps", None) or 0), self._total, self._called)
        if not self._bars and self._called == 1:
            self._begin(total)
        if self._resumption is not None:
            tensors = self._resumption.step_ended(self._called, total, tensors)
            if self._called < total and self._resumption.skips(self._called - 1):
                # Shown with the step that follows, the first to be taken here: until then, an agent has the patience of a first step.
                self._monitor.check()
                return tensors
        # What is no number stays so. Looked for after the first step, so that broken weights do not cost a whole job, and before decoding.
        if self._called in (1, total) and isinstance(latents := tensors.get("latents"), torch.Tensor):
            require_finite(latents, f"the latents after step {self._called} of {total}")
        self._monitor.step(self._called, total)
        if not self._bars and self._called == total:
            self.end()
        return tensors

    def scheduler_stepped(self, moved: Any) -> Any:
        """The same where the pipeline has no callback: a step of its scheduler has led to `moved`, a tuple or an output of diffusers."""
        before = moved[0] if isinstance(moved, tuple) else moved.prev_sample
        after = self.on_step_end(self._pipe, self._called, None, {"latents": before})["latents"]
        if after is before:
            return moved
        if isinstance(moved, tuple):
            return after, *moved[1:]
        moved.prev_sample = after
        return moved

    def check_taken(self) -> None:
        """Raise when the pipeline came to its loop and left it without a step: what it gives is noise."""
        if self._bars and not self._taken:
            raise EngineError("the pipeline took no denoising step")

    def _begin(self, total: int) -> None:
        self._total = total
        self._device.synchronise()
        self._monitor.turn.take()
        self._monitor.enter("denoise", total)
        if self._resumption is not None:
            self._resumption.begin()


class _Bar:
    """The part of tqdm that pipelines use: a context manager, an iterator, `update`."""

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
        for item in () if self._iterable is None else self._iterable:
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
        """Ignore the description, which is not shown."""
