"""Random hex digits for the ids of requests and spans: names, not secrets. The system is asked for many at once."""

from __future__ import annotations

import os

_BYTES = 4096


class Tokens:
    """A supply of random hex digits, each given out once."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def take(self, count: int) -> str:
        """This many digits, at most 8,192."""
        end = self._at + count
        if end > len(self._digits):
            self._digits = os.urandom(_BYTES).hex()
            self._at, end = 0, count
        taken = self._digits[self._at : end]
        self._at = end
        return taken


#: One supply for the process; it is used from the event loop alone.
_TOKENS = Tokens()


def token_hex(count: int) -> str:
    """`count` random hex digits."""
    return _TOKENS.take(count)
