"""Waiting for something to become true, with a limit: the only waiting that tests do.

The limit only ends a test that hangs. It is many times what a busy machine takes, and costs nothing where the condition comes true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.005
_LIMIT_S = 60.0


def wait_until(condition: Callable[[], T], deadline_s: float = _LIMIT_S, what: str = "") -> T:
    """The first truthy value of `condition`. Fails when there is none within `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        time.sleep(_PAUSE_S)


async def eventually(condition: Callable[[], T], deadline_s: float = _LIMIT_S, what: str = "") -> T:
    """`wait_until` for a test that shares its event loop with what it waits for."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        await asyncio.sleep(_PAUSE_S)
