"""Load of the pool: samples of the last hour."""

from __future__ import annotations

from msgspec import Struct

#: Between two samples, seconds.
LOAD_PERIOD_S = 10.0


class LoadSample(Struct, frozen=True, kw_only=True):
    """The pool at one moment; `finished`, by how they ended, since the sample before."""

    #: By the broker's clock, Unix seconds.
    at: float
    #: Those that take part in the work, and those of them that have a job.
    workers: int
    busy: int
    waiting: int
    running: int
    #: Predicted wait of a job that came then, seconds.
    wait_s: float
    finished: dict[str, int]
