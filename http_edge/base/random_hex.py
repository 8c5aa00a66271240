"""Random ids of requests and traces. They are read from the kernel many at once: a call for each id was a tenth of what a status read
cost.
"""

from __future__ import annotations

import os

_DRAWN_BYTES = 4096


class RandomHex:
    """Hexadecimal digits of the kernel's random numbers. For one thread; a process that was forked must make its own."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def take(self, digits: int) -> str:
        """So many digits that were not taken before, at most 8192."""
        start = self._at
        end = self._at = start + digits
        if end > len(self._digits):
            self._digits = os.urandom(_DRAWN_BYTES).hex()
            start, end = 0, digits
            self._at = end
        return self._digits[start:end]


#: Digits for ids of requests, traces and spans.
random_hex = RandomHex().take
