"""Prompts that were encoded before are not encoded again.

A text encoder of several billion parameters takes a second a prompt, and many more when it is offloaded and has to come to the GPU first;
people try seeds on one prompt, and the negative prompt hardly ever changes. What `encode_prompt` gave is kept in host memory, the
least recently used results go first.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

#: Bytes of results kept for one model: some sixty prompts of Wan (512 tokens x 4,096 numbers in bfloat16).
LIMIT_BYTES = 256 * 1024 * 1024

#: Bytes of results that go with a job from one engine to another.
USED_BYTES = 64 * 1024 * 1024

_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class _Store:
    """Results of one model's text encoders, for all copies of its pipeline."""

    def __init__(self) -> None:
        #: Held while a prompt is encoded: a tokenizer refuses a second thread.
        self.lock = threading.Lock()
        self.kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.bytes = 0
        self.adapters: tuple[tuple[str, str, float], ...] = ()


class PromptCache:
    """Stands before one pipeline's `encode_prompt`. One thread at a time goes through it."""

    def __init__(self, encode: Callable[..., Any], limit_bytes: int = LIMIT_BYTES) -> None:
        self._encode = encode
        self._signature = inspect.signature(encode)
        self._limit_bytes = limit_bytes
        self._store = _Store()
        #: Of the call of the pipeline under way, by keys that are the same in every process: the results that it used, and those that an
        #: earlier attempt used.
        self._used: dict[str, tuple[Any, int]] = {}
        self._earlier: dict[str, Any] = {}

    def of_copy(self, pipe: Any) -> PromptCache:
        """The cache of a copy of the pipeline, with the same results."""
        own = copy.copy(self)
        own._used, own._earlier = {}, {}
        if (method := getattr(self._encode, "__func__", None)) is not None:
            own._encode = method.__get__(pipe)
        return own

    def begin(self, earlier: dict[str, Any]) -> None:
        """Begin a call of the pipeline. `earlier`: what `used` returned in an earlier attempt of its job."""
        self._used, self._earlier = {}, earlier

    def used(self) -> dict[str, Any]:
        """Results by key that this call has used, for another process: each tensor with its device, in host memory; {}: they are large."""
        if sum(size for _, size in self._used.values()) > USED_BYTES:
            return {}
        return {key: _apart(kept) for key, (kept, _) in self._used.items()}

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while a prompt is encoded."""
        return self._store.lock

    @property
    def adapters(self) -> tuple[tuple[str, str, float], ...]:
        """LoRAs that act in the text encoders: (component, adapter, scale). What they read is another text."""
        return self._store.adapters

    @adapters.setter
    def adapters(self, acting: tuple[tuple[str, str, float], ...]) -> None:
        self._store.adapters = acting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline's own method; return its last result when all arguments are plain and the same as before."""
        with self._store.lock:
            return self._encoded(self._key(args, kwargs), args, kwargs)

    def _encoded(self, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if key is None:
            return self._encode(*args, **kwargs)
        store, name = self._store, repr(key)
        if key in store.kept:
            store.kept.move_to_end(key)
            self._used[name] = store.kept[key]
            return _copied(store.kept[key][0], back=True)
        result = _together(self._earlier[name]) if name in self._earlier else self._encode(*args, **kwargs)
        size = _size(result)
        if size is not None and size <= self._limit_bytes:
            self._used[name] = store.kept[key] = (_copied(result, back=False), size)
            store.bytes += size
            while store.bytes > self._limit_bytes:
                store.bytes -= store.kept.popitem(last=False)[1][1]
        return result

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:  # the method will raise for it
            return None
        parts: list[Hashable] = [self.adapters]
        for name, value in bound.arguments.items():
            value = tuple(value) if isinstance(value, list) else value
            if not all(isinstance(item, _PLAIN) for item in (value if isinstance(value, tuple) else (value,))):
                return None
            # 1, 1.0 and True are equal keys and may be different orders.
            parts.append((name, value, str(type(value))))
        return tuple(parts)


def tokenizing(pipe: Any) -> AbstractContextManager[Any]:
    """Inside, no other thread uses the tokenizers of this pipeline's model."""
    cache = cache_of(pipe)
    return nullcontext() if cache is None else cache.lock


def cache_of(pipe: Any) -> PromptCache | None:
    """The cache before the pipeline's `encode_prompt`; None: it has none."""
    cache = getattr(pipe, "encode_prompt", None)
    # A placement may stand before it.
    cache = getattr(cache, "encode", cache)
    return cache if isinstance(cache, PromptCache) else None


def remember_prompts(pipe: Any) -> None:
    """Put a cache before the pipeline's `encode_prompt`, if it has one."""
    if hasattr(pipe, "encode_prompt"):
        pipe.encode_prompt = PromptCache(pipe.encode_prompt)


class _Kept:
    """A tensor in host memory, and where it came from."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.device = tensor.device
        # A copy, also on a CPU: a pipeline may change in place what it was given.
        self.tensor = tensor.detach().to("cpu", copy=True)


def _copied(value: Any, *, back: bool) -> Any:
    """The same structure with every tensor moved into host memory, or back to its device."""
    if isinstance(value, torch.Tensor):
        return _Kept(value)
    if isinstance(value, _Kept):
        return value.tensor.to(value.device, copy=True) if back else value
    if isinstance(value, tuple | list):
        return type(value)(_copied(item, back=back) for item in value)
    return value


def _apart(kept: Any) -> Any:
    """A structure that is kept, of nothing but plain values and tensors in host memory."""
    if isinstance(kept, _Kept):
        return {"device": str(kept.device), "tensor": kept.tensor}
    return type(kept)(_apart(item) for item in kept) if isinstance(kept, tuple | list) else kept


def _together(value: Any) -> Any:
    """Undo `_apart`, every tensor on its device."""
    if isinstance(value, dict):
        return value["tensor"].to(value["device"], copy=True)
    return type(value)(_together(item) for item in value) if isinstance(value, tuple | list) else value


def _size(value: Any) -> int | None:
    """Bytes of the tensors in a structure of tuples, lists, tensors and None; None for anything else."""
    if value is None:
        return 0
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if type(value) not in (tuple, list):
        return None
    sizes = [_size(item) for item in value]
    return None if None in sizes else sum(size for size in sizes if size is not None)
