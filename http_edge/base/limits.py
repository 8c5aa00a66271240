"""Limits of one request, in bytes and seconds, and the error for a body over them."""

from __future__ import annotations

from msgspec import Struct

from http_edge.base.errors import EdgeError

MIB = 1024 * 1024

#: A body up to this size stays in memory; larger ones go over the disk.
SMALL_BODY_BYTES = 2 * MIB

#: Text of one request (JSON, form fields): an image of 32 MiB in base64, and what goes with it.
MAX_TEXT_BYTES = 48 * MIB

#: Longest path or address that a client may name.
MAX_PATH_CHARS = 1024

#: Bounds of a time that a client gives a job (a deadline, a promise), seconds; the longest is a month.
LEAST_TIME_S, MOST_TIME_S = 0.001, 31 * 86_400

#: The rest of a body that was refused is not read: the connection ends with the answer.
CLOSE = {"Connection": "close"}


class Limits(Struct, frozen=True, kw_only=True):
    """Limits of one request's body."""

    #: The whole body, and so any file in it; bytes.
    request_bytes: int = 512 * MIB
    #: Longest silence, and longest body; seconds.
    idle_s: float = 30.0
    total_s: float = 600.0
    #: Least average rate; bytes a second.
    min_bytes_per_s: float = 8.0 * 1024


def too_large(what: str, cap: int) -> EdgeError:
    """The error for a body over its cap."""
    return EdgeError("too_large", f"body: {what} is too large, at most {cap}", headers=CLOSE)
