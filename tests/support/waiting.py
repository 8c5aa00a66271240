"""Waiting for something to become true, with a limit: the only waiting that tests do.

The limit only ends a test that hangs. It is many times what a busy machine takes, and costs nothing where the condition comes true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Between two looks: short at first, so that what comes soon costs nothing, and longer the longer it takes, so that looking (a request, a
#: list of processes) takes no processor from what is waited for.
_PAUSES_S = (0.005, 0.05)
_LIMIT_S = 60.0


def _pause(waited_s: float) -> float:
    least, most = _PAUSES_S
    return min(most, max(least, waited_s / 20))


def wait_until(
    condition: Callable[[], T | None], deadline_s: float = _LIMIT_S, what: str = "", *, pause_s: float = 0.0
) -> T:
    """The first truthy value of `condition`. Fails when there is none within `deadline_s`. `pause_s`: the least between two looks."""
    begun = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited_s = time.monotonic() - begun
        if waited_s >= deadline_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        time.sleep(max(pause_s, _pause(waited_s)))


async def eventually(condition: Callable[[], T | None], deadline_s: float = _LIMIT_S, what: str = "") -> T:
    """`wait_until` for a test that shares its event loop with what it waits for."""
    begun = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited_s = time.monotonic() - begun
        if waited_s >= deadline_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        await asyncio.sleep(_pause(waited_s))
