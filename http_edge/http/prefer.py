"""The `Prefer` header (RFC 7240): reading it, and the answer that names what was honoured."""

from __future__ import annotations

import re

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

#: Longest wait that is granted: beyond it proxies take a connection for dead.
MAX_WAIT_S = 60

_WAIT = re.compile(r"[0-9]{1,9}")

_NO_STORE = (b"cache-control", b"no-store")

_JSON = (b"content-type", b"application/json")

_VARY = (b"vary", b"Prefer")


class Prefer(Struct, frozen=True, kw_only=True):
    """Preferences of a client, as far as they are honoured."""

    respond_async: bool = False
    #: Seconds; None: not given.
    wait_s: int | None = None

    def applied(self) -> str:
        """The value of `Preference-Applied`; "" when nothing was."""
        parts = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            parts.append(f"wait={self.wait_s}")
        return ", ".join(parts)


NOTHING = Prefer()


class StatusResponse(Response):
    """The answer to the commonest request, a read of a job's status: JSON that no cache keeps. `more` are headers of its own."""

    def __init__(self, body: bytes, prefer: Prefer, *more: tuple[bytes, bytes]) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [_NO_STORE, *more, (b"content-length", b"%d" % len(body)), _JSON, _VARY]
        if prefer.wait_s is not None:
            self.raw_headers.append((b"preference-applied", b"wait=%d" % prefer.wait_s))


def read_prefer(request: Request) -> Prefer:
    """The preferences in a request. What cannot be read is ignored (RFC 7240, section 2); of a repeated one the first counts."""
    lines = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"prefer"]
    if not lines:
        return NOTHING
    found: dict[str, str] = {}
    for line in lines:
        for item in line.split(","):
            name, _, value = item.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Prefer(
        respond_async="respond-async" in found,
        wait_s=min(MAX_WAIT_S, int(wait)) if _WAIT.fullmatch(wait) else None,
    )
