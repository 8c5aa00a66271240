"""The W3C's trace context: which trace a request belongs to. A request without one, or with one that is not valid, begins a trace."""

from __future__ import annotations

import re

from msgspec import Struct

from http_edge.base.random_hex import random_hex

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

#: A list of at most 32 members `key=value`, passed on as it is; bounded as the recommendation's 512 characters.
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")

_SAMPLED = "01"


class Trace(Struct, frozen=True, kw_only=True):
    """Position of a request in a trace."""

    #: 32 hex digits.
    trace_id: str
    #: 16 hex digits: this request's own span.
    span_id: str
    #: 2 hex digits.
    flags: str
    state: str = ""
    #: 16 hex digits: the span that sent the request; "": none.
    parent_id: str = ""

    @property
    def traceparent(self) -> str:
        """The header of requests that are sent on behalf of this one."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def new_trace() -> Trace:
    """A trace that begins here."""
    return Trace(trace_id=random_hex(32), span_id=random_hex(16), flags=_SAMPLED)


def read_trace(traceparent: str, tracestate: str) -> Trace:
    """The request's place in the trace that its headers name, or in a new one."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None or not _is_valid(match):
        return new_trace()
    state = tracestate.strip()
    return Trace(
        trace_id=match[2],
        span_id=random_hex(16),
        flags=f"{int(match[4], 16) & 1:02x}",
        state=state if _TRACESTATE.fullmatch(state) else "",
        parent_id=match[3],
    )


def _is_valid(match: re.Match[str]) -> bool:
    """Whether a `traceparent` is valid: versions after 00 may have further parts; ff, and ids of zeros, are invalid."""
    version, trace_id, span_id, rest = match[1], match[2], match[3], match[5]
    return version != "ff" and not (version == "00" and rest) and bool(trace_id.strip("0")) and bool(span_id.strip("0"))
