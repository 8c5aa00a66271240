"""Usage of the pool: sums by day, tenant, API key and model."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal, get_args

from msgspec import Struct

UsageGroup = Literal["day", "tenant", "key", "model"]
USAGE_GROUPS: tuple[UsageGroup, ...] = get_args(UsageGroup)

_EPOCH = date(1970, 1, 1)


class UsageRow(Struct, frozen=True, array_like=True):
    """Sums over jobs that are over. What they are not grouped by is 0 or ""."""

    #: Days since 1970-01-01 in UTC, of the jobs' ends.
    day: int = 0
    tenant: str = ""
    #: Name of the API key; "" without one.
    key: str = ""
    model: str = ""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    #: Seconds on GPUs in attempts whose work a result holds, and in all others.
    gpu_s: float = 0.0
    lost_gpu_s: float = 0.0
    #: Size of the results.
    bytes: int = 0


def day_of(text: str) -> int:
    """Return the number of a day written as 2026-11-28. Raises `ValueError`."""
    return (date.fromisoformat(text) - _EPOCH).days


def day_text(day: int) -> str:
    """Write a day's number as 2026-11-28."""
    return (_EPOCH + timedelta(days=day)).isoformat()
