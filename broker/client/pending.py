"""A request of the client that has not been answered."""

from __future__ import annotations

import asyncio
from typing import Any

#: An unanswered request is sent again after this, then after twice as long, and so on up to the second.
RESEND_S = 1.0
RESEND_MAX_S = 4.0


class Pending:
    """Its frame, the future of its caller, and when it is sent again."""

    __slots__ = ("deadline", "frame", "future", "pause_s", "resend_at")

    def __init__(self, frame: bytes, future: asyncio.Future[Any], deadline: float) -> None:
        self.frame = frame
        self.future = future
        self.deadline = deadline
        self.resend_at = 0.0
        self.pause_s = RESEND_S
