"""The broker's clock: seconds since the Unix epoch, that never go back while the process lives.

Anchored at wall time once, at start, and monotone from there: leases do not jump when the wall clock is set, and times stay comparable
over restarts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


def anchored_clock() -> Clock:
    """A function that returns the time now."""
    monotonic = time.monotonic
    offset = time.time() - monotonic()

    def now() -> float:
        return offset + monotonic()

    return now
