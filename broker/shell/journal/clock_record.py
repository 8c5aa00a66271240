"""Record of the broker's clock in the journal."""

from __future__ import annotations

from msgspec import Struct

from broker.core.calendar import Calendar


class Record(Struct, frozen=True, array_like=True):
    """Record of the clock."""

    #: Boot of the machine ("": not known), and timeline minus elapsed time in it, seconds.
    boot: str
    offset_s: float
    #: The timeline when this was written: a bound from below.
    seen_at: float
    calendar: Calendar = Calendar()
