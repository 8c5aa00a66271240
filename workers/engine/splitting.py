"""One job's denoising shared by the ranks of a group: each takes a part of every sequence, or one of the two branches of guidance.

- sequence: diffusers' context parallelism (Ulysses, of any length). What a denoiser gives is gathered at its last layer.
- guidance: pipelines call the denoiser twice a step, with the prompt and without it. Of the two calls a rank computes its own, and gets
  the other's outcome from a rank that made that one. Until it has it, there is a tensor of that shape in its place, which is filled before
  the second call returns: so it is for loops that do nothing with the first call's outcome before the second.
- both: each half of the ranks shares the sequences of one branch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from msgspec import Struct
from torch.utils import _pytree as pytree

from workers.engine.attention import denoisers_of
from workers.engine.errors import EngineError, InvalidInput
from workers.engine.group import Group
from workers.engine.instrumentation import VOTES
from workers.engine.votes import Votes
from workers.models.parallel import Layout

#: Typed as wholes, which the libraries are not.
_hooks: Any = context_parallel
_flatten: Any = pytree.tree_flatten
_unflatten: Any = pytree.tree_unflatten
_all_gather: Any = dist.all_gather

#: Name under which denoisers take an encoded prompt.
_TEXT = "encoder_hidden_states"

#: Names of the two calls of a step.
_BRANCHES = ("cond", "uncond")


class _Form(Struct, frozen=True):
    """Structure of an answer, and shape, dtype and device of each tensor in it."""

    structure: Any
    tensors: tuple[tuple[Any, ...], ...]


class Answers:
    """Forms of what the denoisers of one model answer, by the shapes of their inputs: known after one call with such."""

    def __init__(self) -> None:
        self.forms: dict[str, _Form] = {}


@contextmanager
def split(pipe: Any, layout: Layout, group: Group, votes: Votes, answers: Answers) -> Iterator[None]:
    """Inside, the denoisers of a pipeline compute by the layout, after a vote before each pass."""
    with ExitStack() as stack:
        for part in denoisers_of(pipe):
            if layout.sequence > 1:
                whole = layout.sequence == group.rank.of
                stack.enter_context(_sequences(part, group.sequence_of_all if whole else group.sequence_of_half))
            if layout.guidance > 1:
                stack.enter_context(_Branches(part, group, votes, answers, layout.sequence).shared())
            else:
                stack.enter_context(_voting(part, votes, layout.sequence))
        yield


@contextmanager
def _sequences(part: Any, parallel: Any) -> Iterator[None]:
    found: list[Any] = [getattr(module, "processor", None) for module in part.modules()]
    processors = [processor for processor in found if hasattr(processor, "_parallel_config")]
    gather = _hooks._all_gather_anything
    try:
        if part.device.type == "cpu":
            _hooks._all_gather_anything = _gathered
        for processor in processors:
            processor._parallel_config = parallel
        _hooks.apply_context_parallel(part, parallel.context_parallel_config, part._cp_plan)
        yield
    finally:
        _hooks.remove_context_parallel(part, part._cp_plan)
        for processor in processors:
            processor._parallel_config = None
        _hooks._all_gather_anything = gather


def _gathered(tensor: torch.Tensor, dim: int, group: Any) -> torch.Tensor:
    """The parts of all ranks in a row, which gloo gathers only if they are of one size: the smaller ones are padded on the way."""
    sizes: list[int] = _hooks.gather_size_by_comm(tensor.shape[dim], group)
    padded = tensor.new_zeros([*tensor.shape[:dim], max(sizes), *tensor.shape[dim + 1 :]])
    padded.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    parts = [torch.empty_like(padded) for _ in sizes]
    _all_gather(parts, padded, group=group)
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)], dim=dim)


@contextmanager
def _calling(part: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the denoiser's pass is `forward`, and it has no cancel points: it is left by a vote."""
    own = vars(part).get("forward")

    # `wraps`: pipelines look up in the signature what a model takes.
    @functools.wraps(part.forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    part.forward = wrapped
    setattr(part, VOTES, True)
    try:
        yield
    finally:
        delattr(part, VOTES)
        if own is not None:
            part.forward = own
        else:
            del part.forward


@contextmanager
def _voting(part: Any, votes: Votes, shares: int) -> Iterator[None]:
    own = part.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        _check_text(part, shares, kwargs)
        with votes.together():
            return own(*args, **kwargs)

    with _calling(part, forward):
        yield


def _check_text(part: Any, shares: int, kwargs: dict[str, Any]) -> None:
    """Raise `InvalidInput` for a prompt of too few tokens, where those are shared; within a pass it would end the group."""
    text = kwargs.get(_TEXT)
    if shares < 2 or not isinstance(text, torch.Tensor):
        return
    if text.shape[1] < shares and any(isinstance(plan, dict) and _TEXT in plan for plan in part._cp_plan.values()):
        raise InvalidInput(f"prompt: one of {text.shape[1]} tokens cannot be shared by {shares} GPUs")


class _Branches:
    """The two calls of a denoiser in each step of one job."""

    def __init__(self, part: Any, group: Group, votes: Votes, answers: Answers, shares: int) -> None:
        self._shares = shares
        self._part = part
        self._group = group
        self._votes = votes
        self._answers = answers
        self._own = part.forward
        #: Of the call that is being made, as the pipeline names it.
        self._name = ""
        #: Of the first call, while the second is awaited: its name, the shapes of its inputs, and its answer where ranks share the two.
        self._first: tuple[str, str, Any] | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, each rank computes one of them."""
        context = self._part.cache_context

        @contextmanager
        def named(name: str, **more: Any) -> Iterator[None]:
            self._name = name
            try:
                with context(name, **more):
                    yield
            finally:
                self._name = ""

        self._part.cache_context = named
        try:
            with _calling(self._part, self._forward):
                yield
        finally:
            del self._part.cache_context

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        _check_text(self._part, self._shares, kwargs)
        name = self._name
        if name not in _BRANCHES or (self._first is not None and self._first[0] == name):
            raise EngineError("the pipeline does not make two passes a step, which its GPUs were to share")
        if self._first is not None:
            return self._second_call(*args, **kwargs)
        key = _key(type(self._part).__name__, args, kwargs)
        form = self._answers.forms.get(key)
        with self._votes.together(number=form is None) as unknown:
            if unknown:
                # All ranks compute both calls, once for each shape.
                self._first = name, key, None
                return self._own(*args, **kwargs)
        assert form is not None
        self._votes.inside = True
        mine = self._group.branch == 0
        answer = self._own(*args, **kwargs) if mine else _empty(form)
        self._first = name, key, answer
        return answer

    def _second_call(self, *args: Any, **kwargs: Any) -> Any:
        assert self._first is not None
        (_, key, first), self._first = self._first, None
        if first is None:
            with self._votes.together():
                answer = self._own(*args, **kwargs)
            self._answers.forms[key] = _form(answer)
            return answer
        tensors, structure = _flatten(first)
        mine = self._group.branch == 1
        second = _flatten(self._own(*args, **kwargs))[0] if mine else [torch.empty_like(one) for one in tensors]
        for number, one in enumerate(tensors):
            computed = (second[number] if mine else one).contiguous()
            both = [torch.empty_like(computed) for _ in _BRANCHES]
            _all_gather(both, computed, group=self._group.branches)
            one.copy_(both[0])
            second[number] = both[1]
        self._votes.inside = False
        return _unflatten(second, structure)


def _key(name: str, args: Any, kwargs: Any) -> str:
    shapes = ("x".join(map(str, one.shape)) for one in _flatten((args, kwargs))[0] if isinstance(one, torch.Tensor))
    return " ".join([name, *shapes])


def _form(answer: Any) -> _Form:
    tensors, structure = _flatten(answer)
    return _Form(structure, tuple((tuple(one.shape), one.dtype, one.device) for one in tensors))


def _empty(form: _Form) -> Any:
    made = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in form.tensors]
    return _unflatten(made, form.structure)
