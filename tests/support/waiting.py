"""Waiting for something to become true: the only way a test may wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_EVERY_S = 0.01


def wait_until(condition: Callable[[], T], deadline_s: float = 10.0, what: str = "") -> T:
    """The first truthy value of `condition`, asked again and again. Fails the test, naming `what`, when `deadline_s` have passed."""
    nothing = threading.Event()
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() >= end:
            raise AssertionError(f"waited {deadline_s:g} s in vain for {what or condition}; last value: {value!r}")
        nothing.wait(_EVERY_S)
    return value
