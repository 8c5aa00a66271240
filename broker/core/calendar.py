"""The relation of the core's time to the wall clock.

The core's times lie on one timeline that only elapsed time moves on: leases, deadlines and ages do not jump when the clock is set.
It began as Unix time. Where the wall clock was set since, it is `ahead_s` ahead of the timeline, and every time that leaves the broker
is shown with that added: what happened while the clock was wrong is then shown as what it was.
"""

from __future__ import annotations

from msgspec import Struct


class Step(Struct, frozen=True, array_like=True):
    """A step of the wall clock by so many seconds, at this moment of the timeline."""

    at: float
    by_s: float


class Calendar(Struct, frozen=True):
    """The offset of the wall clock, and its steps."""

    #: Wall clock minus timeline, seconds.
    ahead_s: float = 0.0
    #: Time on the timeline from which the wall clock is trusted.
    settled_at: float = 0.0
    #: The oldest first.
    steps: tuple[Step, ...] = ()

    def shown(self, at: float) -> float:
        """Convert a time of the timeline into Unix time; 0, no time, stays."""
        return at + self.ahead_s if at else 0.0
