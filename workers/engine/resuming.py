"""A pipeline that goes on where an earlier attempt of its job was: the state after a step, taken and put back.

To go on, the pipeline is called as ever, so that it prepares itself, but until the step of the checkpoint its models answer with zeros of
the right shapes, which costs next to nothing; then latents, schedulers and generators are set to what they were. The shapes stand in the
checkpoint. For which pipelines the outcome is the same bit for bit is known by test (`workers.models.resumable`).
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils import _pytree as pytree

from broker.runtime.log_actions import Action
from workers.engine.checkpoints import Binding, Checkpoints, State
from workers.engine.progress import DraftKept, Monitor, Parked
from workers.engine.prompts import cache_of
from workers.models.resumable import DECODE_SOMETHING_ELSE
from workers.models.versions import installed

logger = logging.getLogger(__name__)

#: Attributes of a scheduler that are no state: its config, what this service gives it, and a method that is watched.
_NO_STATE = frozenset({"_internal_dict", "own_sampler", "own_noise", "step"})

#: Ends of the names of those tensors of a pipeline's loop that change from step to step, among those that its callback hands out. What
#: consistency models decode is the second.
_LATENTS = ("latents", "denoised")

#: Pipelines that go on with their own latents, whatever their callback answers: these are changed in place.
_GOES_ON_WITH_ITS_OWN = ("PRX",)

#: Shapes of answers that are noted; a model that is called with more of them is not skipped from there on.
_MAX_ANSWERS = 64

#: Typed as a whole, which the library is not.
_flatten: Any = pytree.tree_flatten
_unflatten: Any = pytree.tree_unflatten
_dumps: Any = pytree.treespec_dumps
_loads: Any = pytree.treespec_loads


class UnknownState(Exception):
    """A pipeline's state has something that cannot be kept, or put back."""


class _Answers:
    """Outputs of the models of a pipeline in its loop: the shapes are noted, and zeros of those shapes given in their place."""

    def __init__(self, pipe: Any, known: dict[str, Any]) -> None:
        self._models = {
            name: part
            for name, part in pipe.components.items()
            if isinstance(part, torch.nn.Module) and getattr(part, "_compiled_call_impl", None) is None
        }
        #: Model and shapes of its inputs -> (structure of its answer, shape and dtype of each tensor in it).
        self.shapes: dict[str, Any] = known
        self.noting = False
        self.zeros = False
        #: Of the thread whose calls count.
        self._thread = threading.get_ident()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Inside, the models note or answer zeros by `noting` and `zeros`, when this thread calls them."""
        handles = [
            model.register_forward_hook(self._note(name), with_kwargs=True) for name, model in self._models.items()
        ]
        own = {name: model.__dict__.get("forward") for name, model in self._models.items()} if self.shapes else {}
        for name in own:
            self._models[name].forward = self._answering(name, self._models[name].forward)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name, before in own.items():
                if before is not None:
                    self._models[name].forward = before
                else:
                    del self._models[name].forward

    def _note(self, name: str) -> Callable[..., None]:
        def noted(model: Any, args: Any, kwargs: Any, answer: Any) -> None:
            if not self.noting or threading.get_ident() != self._thread or len(self.shapes) >= _MAX_ANSWERS:
                return
            key = _key(name, args, kwargs)
            if key in self.shapes:
                return
            leaves, structure = _flatten(answer)
            # What torch cannot name the structure of is computed again.
            with suppress(NotImplementedError, ValueError, TypeError, AssertionError):
                if all(isinstance(leaf, torch.Tensor) for leaf in leaves):
                    shapes = [[list(leaf.shape), str(leaf.dtype).removeprefix("torch.")] for leaf in leaves]
                    self.shapes[key] = [_dumps(structure), shapes]

        return noted

    def _answering(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        # Some pipelines look up in the signature what a model takes.
        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            ours = self.zeros and threading.get_ident() == self._thread
            known = self.shapes.get(_key(name, args, kwargs)) if ours else None
            if known is None:
                return own(*args, **kwargs)
            structure, shapes = known
            device = _tensors(args, kwargs)[0].device
            zeros = [torch.zeros(shape, dtype=getattr(torch, dtype), device=device) for shape, dtype in shapes]
            return _unflatten(zeros, _loads(structure))

        return forward


class Resumption:
    """Takes the state of one call of a pipeline after its steps; puts back that of an earlier attempt, if one is found."""

    def __init__(
        self,
        pipe: Any,
        generator: Any,
        output: int,
        monitor: Monitor,
        checkpoints: Checkpoints,
        binding: Binding,
        all_put_back: Callable[[], None] | None = None,
        *,
        last: bool,
    ) -> None:
        """`all_put_back`: called when the state is put back, raises where another rank could not; None: there is no other."""
        self._checkpoints = checkpoints
        self._monitor = monitor
        self._pipe = pipe
        self._generators = [
            one for one in (generator if isinstance(generator, list) else [generator]) if one is not None
        ]
        self._output = output
        #: Whether no output comes after this one.
        self._last = last
        self._binding = binding
        self._all_put_back = all_put_back
        self._keeps = True
        self._earlier, refused = self._checkpoints.find(output, binding)
        if self._earlier is not None:
            # Models will answer with what is known of them: not while another job calls them.
            monitor.turn.take()
        self._answers = _Answers(pipe, dict(self._earlier.plain["answers"]) if self._earlier is not None else {})
        #: Why a newer checkpoint was not taken; "": there is none.
        self._refused = refused
        if (prompts := cache_of(pipe)) is not None:
            prompts.begin(_encoded_prompts(self._earlier))
        if self._earlier is None and refused:
            monitor.use("resumed", f"no: {refused}")

    @property
    def step_end_tensors(self) -> list[str]:
        """For the pipeline's `callback_on_step_end_tensor_inputs`."""
        return [name for name in getattr(self._pipe, "_callback_tensor_inputs", ()) if name.endswith(_LATENTS)]

    @property
    def goes_on(self) -> bool:
        """Whether an earlier attempt's state is put back."""
        return self._earlier is not None

    def skips(self, step: int) -> bool:
        """Whether step `step`, from 1, is passed over, and so are those that follow up to the one of the checkpoint."""
        return self._earlier is not None and step < self._earlier.step

    @contextmanager
    def around(self) -> Iterator[None]:
        """Inside, the pipeline is called."""
        try:
            with self._answers.around():
                yield
        except BaseException:
            # Another call may follow, and write files of the same names.
            self._checkpoints.settle()
            raise
        finally:
            self._monitor.passing_over = False

    def begin(self) -> None:
        """A loop of the pipeline begins. A second one, of a clip in parts, has a state beside its own: what the first made.

        Raises `Parked` if all that there is of the job is on disk already.
        """
        if self._answers.noting:
            self._keeps = False
            return
        self._answers.noting = True
        self._answers.zeros = self._monitor.passing_over = self._earlier is not None
        self._checkpoints.times.begin()
        unfinished = self._earlier is None or self._earlier.step < self._earlier.total
        if unfinished and not self._checkpoints.pending and self._monitor.park_requested():
            raise Parked(self._checkpoints.kept)

    def step_ended(self, step: int, total: int, tensors: dict[str, Any]) -> dict[str, Any]:
        """Step `step` of `total` has ended with these tensors: those to go on with. Raises `UnknownState`, `Parked`, `DraftKept`."""
        self._checkpoints.times.stepped()
        if self._earlier is not None and step <= self._earlier.step:
            if step < self._earlier.step:
                return tensors
            tensors = self._put_back(self._earlier, tensors)
            if self._all_put_back is not None:
                self._all_put_back()
            if step < total and self._monitor.park_due(step):
                if self._checkpoints.pending:  # what was taken of the output before, since its draft
                    self._park(self._state(step, total, tensors, leaves=True))
                else:
                    self._leave()
            return tensors
        denoised = step >= total
        if not self._keeps or (denoised and type(self._pipe).__name__ in DECODE_SOMETHING_ELSE):
            return tensors
        if denoised:
            # Its draft would be the output.
            parks = not self._last and self._monitor.park_requested()
        else:
            parks = self._monitor.park_due(step)
        due = self._checkpoints.times.last_due() if denoised else self._checkpoints.times.due()
        try:
            # Not soon after one could not be written: each try costs time.
            if parks and (not self._checkpoints.failed or self._checkpoints.times.due()):
                self._park(self._state(step, total, tensors, leaves=True))
            elif denoised and not self._last:
                # Its latents are small, and its steps are not to be taken again for the sake of the next output's.
                self._checkpoints.keep_finished(self._state(step, total, tensors), self._binding)
            elif due:
                self._checkpoints.keep(self._state(step, total, tensors), self._binding)
        except UnknownState as error:
            self._keeps = False
            logger.warning("no checkpoints of this job", extra={"action": Action.CHECKPOINT, "detail": str(error)})
        return tensors

    def _park(self, state: State) -> None:
        """Leave once the state has its file. Where it cannot be written the job goes on: stopping it would lose what it has."""
        if self._checkpoints.keep_now(state, self._binding):
            self._leave()

    def _leave(self) -> NoReturn:
        """Raises `Parked`, or `DraftKept` where drafts of further outputs are to be drawn before."""
        if not self._last and not self._monitor.park_requested():
            raise DraftKept
        self._checkpoints.let_go()
        raise Parked(self._checkpoints.kept)

    # ------------------------------------------------------------ the state

    def _state(self, step: int, total: int, tensors: dict[str, Any], *, leaves: bool = False) -> State:
        """The state, with its encoded prompts if the job `leaves` the engine: another one may go on. Raises `UnknownState`."""
        kept: dict[str, torch.Tensor] = {}
        plain = {
            "loop": {name: _encode(value, f"loop.{name}", kept) for name, value in tensors.items()},
            "schedulers": {
                name: _encode(_attributes(scheduler), f"schedulers.{name}", kept)
                for name, scheduler in _schedulers(self._pipe).items()
            },
            "momenta": {
                name: _encode(dict(vars(momentum)), f"momenta.{name}", kept)
                for name, momentum in _momenta(self._pipe).items()
            },
            "generators": [
                _encode(one.get_state(), f"generators.{number}", kept) for number, one in enumerate(self._generators)
            ],
            # A copy: it is written by another thread while more are noted.
            "answers": dict(self._answers.shapes),
        }
        if leaves and (prompts := cache_of(self._pipe)) is not None:
            plain["prompts"] = _encode([*prompts.used().items()], "prompts", kept)
        denoise_s = self._monitor.times.durations().get("denoise", 0.0)
        return State(self._output, step, total, kept, plain, denoise_s)

    def _put_back(self, earlier: State, tensors: dict[str, Any]) -> dict[str, Any]:
        """Raises `UnknownState`."""
        self._answers.zeros = self._monitor.passing_over = False
        device = next((one.device for one in tensors.values() if isinstance(one, torch.Tensor)), torch.device("cpu"))
        try:
            loop = {name: _decode(node, earlier.tensors, device) for name, node in earlier.plain["loop"].items()}
            schedulers = _schedulers(self._pipe)
            for name, node in earlier.plain["schedulers"].items():
                schedulers[name].__dict__.update(_decode(node, earlier.tensors, device))
            # Made anew in the first step, which was passed over.
            momenta = _momenta(self._pipe)
            for name, node in earlier.plain["momenta"].items():
                vars(momenta[name]).update(_decode(node, earlier.tensors, device))
            for generator, node in zip(self._generators, earlier.plain["generators"], strict=True):
                generator.set_state(_decode(node, earlier.tensors, torch.device("cpu")))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise UnknownState(f"a checkpoint cannot be put back: {type(error).__name__}: {error}") from error
        if _shapes(loop) != _shapes(tensors):
            raise UnknownState(f"a checkpoint holds {_shapes(loop)}, and the pipeline has {_shapes(tensors)}")
        which = f" of output {self._output + 1}" if not (self._last and self._output == 0) else ""
        instead = f", as a newer checkpoint was refused: {self._refused}" if self._refused else ""
        self._monitor.use("resumed", f"after step {earlier.step} of {earlier.total}{which}{instead}")
        # Of all outputs together, as it was then: what an output before this one brought is counted already.
        counted_s = self._monitor.times.durations().get("denoise", 0.0)
        self._monitor.times.credit("denoise", max(0.0, earlier.denoise_s - counted_s))
        logger.info(
            "a job goes on after step %d of %d", earlier.step, earlier.total, extra={"action": Action.CHECKPOINT}
        )
        if type(self._pipe).__name__.startswith(_GOES_ON_WITH_ITS_OWN):
            for name, value in loop.items():
                tensors[name].copy_(value)
        return loop


def _encoded_prompts(earlier: State | None) -> dict[str, Any]:
    """Encoded prompts of an earlier attempt, as `PromptCache.used` has them; {}: it left none."""
    if earlier is None or "prompts" not in earlier.plain:
        return {}
    return dict(_decode(earlier.plain["prompts"], earlier.tensors, torch.device("cpu")))


@functools.cache
def versions() -> str:
    """This service's version, and those of the libraries whose code has a part in a state."""
    return ", ".join(f"{name} {version}" for name, version in installed().items())


def _tensors(args: Any, kwargs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]


def _shapes(tensors: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in sorted(tensors.items()) if isinstance(value, torch.Tensor)}


def _key(name: str, args: Any, kwargs: Any) -> str:
    """Model and shapes of its inputs, as one text."""
    return " ".join([name, *("x".join(map(str, one.shape)) for one in _tensors(args, kwargs))])


def _schedulers(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if hasattr(part, "set_timesteps")}


def _momenta(pipe: Any) -> dict[str, Any]:
    """Of the guiders that have one, the running average of what guidance adds (adaptive projected guidance)."""
    found = {name: getattr(part, "momentum_buffer", None) for name, part in pipe.components.items()}
    return {name: momentum for name, momentum in found.items() if momentum is not None}


def _attributes(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(scheduler).items() if name not in _NO_STATE}


def _encode(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A value as JSON, its tensors put into `tensors` under `place`. Raises `UnknownState`."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.Tensor():
            tensors[place] = value.detach().to("cpu", copy=True).contiguous()
            # Kernels are chosen by the order in memory, and differ in the last bits.
            strides = list(torch.empty_like(value, device="meta").stride())
            return {"tensor": place, "on": "cpu" if value.device.type == "cpu" else "device", "strides": strides}
        case np.ndarray() if value.dtype.kind in "biuf":
            tensors[place] = torch.from_numpy(np.ascontiguousarray(value).copy())
            return {"array": place}
        case np.generic() if value.dtype.kind in "biuf":
            return {"number": value.item(), "dtype": value.dtype.name}
        case list() | tuple():
            items = [_encode(item, f"{place}.{number}", tensors) for number, item in enumerate(value)]
            return {"items": items, "tuple": isinstance(value, tuple)}
        case dict() if all(isinstance(name, str) for name in value):
            return {"named": {name: _encode(item, f"{place}.{name}", tensors) for name, item in value.items()}}
    raise UnknownState(f"{place} is a {type(value).__name__}, which cannot be kept")


def _decode(node: Any, tensors: dict[str, torch.Tensor], device: torch.device) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        read = tensors[node["tensor"]]
        where = "cpu" if node["on"] == "cpu" else device
        return torch.empty_strided(read.shape, node["strides"], dtype=read.dtype, device=where).copy_(read)
    if "array" in node:
        return tensors[node["array"]].numpy()
    if "number" in node:
        return np.dtype(node["dtype"]).type(node["number"])
    if "items" in node:
        items = [_decode(item, tensors, device) for item in node["items"]]
        return tuple(items) if node["tuple"] else items
    return {name: _decode(item, tensors, device) for name, item in node["named"].items()}
