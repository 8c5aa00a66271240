"""Work on many jobs in one request, done so that other requests are served in between."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

#: Jobs between two turns of the event loop: about a millisecond.
_SLICE = 16


async def in_slices(items: Sequence[S], make: Callable[[S], Awaitable[T]] | Callable[[S], T]) -> list[T]:
    """Return `make` of each item, in order, other requests served in between."""
    found: list[T] = []
    for number, item in enumerate(items, 1):
        made = make(item)
        found.append(await made if inspect.isawaitable(made) else made)
        if number % _SLICE == 0:
            await asyncio.sleep(0)
    return found
