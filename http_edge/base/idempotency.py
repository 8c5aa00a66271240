"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): one key, one job, however often the request is sent.

Rules. The job's id is made of (tenant, method and path, key), so the broker's journal is the memory: durable, the same for every edge, and
kept as long as the job's record. A digest of the request is in the job's spec: another payload under the same key is refused. A
request that was refused leaves nothing, and its key is free.
"""

from __future__ import annotations

import hashlib
import re

from http_edge.base.errors import EdgeError, shown

HEADER = "Idempotency-Key"

_MAX_CHARS = 255

#: A structured-field string: quoted, with quotes and backslashes escaped.
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE = re.compile(r"[\x20\x21\x23-\x7e]+")
_ESCAPE = re.compile(r"\\(.)")

_RETRY_S = 1.0


def read_key(values: list[str]) -> str:
    """The key in the header's values, "" when there is none. Raises `EdgeError` for a malformed one."""
    if not values:
        return ""
    if len(values) > 1:
        raise _malformed(values[1], "was sent twice")
    text = values[0].strip()
    if match := _QUOTED.fullmatch(text):
        key = _ESCAPE.sub(r"\1", match[1])
    elif _BARE.fullmatch(text):
        key = text
    else:
        raise _malformed(text, "must be a quoted string, or printable ASCII without quotes")
    if not key:
        raise _malformed(text, "is empty")
    if len(key) > _MAX_CHARS:
        raise _malformed(text, f"has {len(key)} characters, at most {_MAX_CHARS}")
    return key


def job_key(tenant: str, route: str, key: str) -> str:
    """Return the text that a job's id is made of: the same for every request with this key, 40 hex digits."""
    return hashlib.sha256(f"{tenant}\n{route}\n{key}".encode()).hexdigest()[:40]


class InFlight:
    """The keys of the requests that this edge is serving."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def hold(self, job_key: str) -> None:
        """Hold this key. Raises `EdgeError` while another request holds it."""
        if job_key in self._keys:
            message = f"{HEADER}: the first request with this key is still being served"
            raise EdgeError("in_flight", message, param=HEADER, retry_after_s=_RETRY_S)
        self._keys.add(job_key)

    def release(self, job_key: str) -> None:
        """Release a key; also one that is not held."""
        self._keys.discard(job_key)


def reused() -> EdgeError:
    """The error for a key that was used for another request."""
    message = f"{HEADER}: this key came before with another request; a new request needs a new key"
    return EdgeError("key_reused", message, param=HEADER)


def _malformed(value: str, rule: str) -> EdgeError:
    return EdgeError("bad_header", f"{HEADER}: {shown(value)} {rule}", param=HEADER, value=value, place="header")
