"""Promised times: the request for one, the promise given, and the forecast before anything is submitted."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

#: Probability with which a promised time is to be kept. Beyond the upper bound no measurement supports it.
Confidence = Annotated[float, Meta(ge=0.5, le=0.999)]

#: Of a request that names none.
CONFIDENCE = 0.95


class PromiseWish(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The job is to be done within so many seconds, or not to be taken."""

    within_s: Annotated[float, Meta(gt=0, le=1e9)]
    confidence: Confidence = CONFIDENCE


class Promise(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The time by which a job is promised to be done."""

    ready_by: float
    confidence: float = CONFIDENCE
    #: What was promised at first, once that could not be kept; 0: it is what it was.
    first_ready_by: float = 0.0
    #: When that was reported; 0: it was not.
    broken_at: float = 0.0
    #: How often a new time was given.
    breaks: int = 0


class Forecast(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `Estimated`: what would become of such a job, were it to come now. Seconds from now; -1: not known."""

    #: Jobs that would be given out before it.
    position: int = 0
    #: Expected start and end.
    starts_s: float = -1.0
    done_s: float = -1.0
    #: The earliest end that could be promised, with this confidence.
    ready_s: float = -1.0
    confidence: float = CONFIDENCE
    #: Predicted run time; without loading the model.
    takes_s: float = -1.0
    #: Workers that could run it.
    workers: int = 0
    #: Why nothing is known; "": it is.
    unknown: str = ""
