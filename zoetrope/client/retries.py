"""Retries of requests: whether one is sent again, and after how long: pure, given every outcome.

A request is sent again only where that cannot do a thing twice: reads, idempotent requests, submissions
with an idempotency key or an id of their own; and any request whose connection was never made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from msgspec import Struct

#: Statuses after which a request is sent again, unless `x-should-retry` decides.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Limits of a client's retries."""

    #: Retries of one request.
    most: int = 4
    #: First pause and the longest, seconds; each is twice the one before, less up to a quarter at random.
    first_s: float = 0.5
    longest_s: float = 8.0
    #: The longest `Retry-After` that is waited for; beyond it the error comes at once.
    max_retry_after_s: float = 120.0
    #: How long an event stream is tried again without an answer before following a job gives up.
    outage_s: float = 120.0

    def pause(self, failures: int, draw: float) -> float:
        """Seconds before the next try after so many failures (from 1). `draw`: a number from 0 to 1."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30)) * (1 - 0.25 * draw)

    def after_reply(
        self, status: int, headers: Mapping[str, str], failures: int, draw: float, *, repeatable: bool, now: float
    ) -> float | None:
        """Seconds until the request is sent again after this answer; None: never. `now`: Unix time, for a `Retry-After` that is a date."""
        wish = headers.get("x-should-retry")
        again = status in _PASSING if wish is None else wish == "true"
        # A refusal for want of room was decided before anything was done.
        if not again or failures > self.most or not (repeatable or status in (429, 503)):
            return None
        requested_s = retry_after_s(headers, now)
        if requested_s is None:
            return self.pause(failures, draw)
        return None if requested_s > self.max_retry_after_s else max(requested_s, 0.0)

    def after_break(self, failures: int, draw: float, *, repeatable: bool, sent: bool) -> float | None:
        """Seconds until the request is sent again after its connection broke; `sent`: the service may have had it. None: never."""
        if failures > self.most or (sent and not repeatable):
            return None
        return self.pause(failures, draw)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds of a `Retry-After`, a number or a date; None: there is none that can be read."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
