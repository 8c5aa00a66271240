"""Signed requests of workers to an edge's depot.

The secret is a file of the home, `<home>/depot_secret`, read by the broker and by edges. The broker gives each worker a key of its own with
its `Welcome`: the secret's HMAC of the worker's name, so that one worker can sign nothing in another's name, and a name belongs to its
machine's CURVE key. A worker signs each request with it: method, path, when it expires, and of a file that is put its size and SHA-256. An
edge recomputes the key from the name in the request, and checks with the broker that the attempt is that worker's: a request is good for
one attempt, and an attempt is granted once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from msgspec import Struct

from broker.runtime import secret_file
from broker.wire.job_files import checkpoint_of

#: What all paths of an edge's depot begin with.
PREFIX = "/internal/depot/"

#: How long a signed request is good for, and the most that an edge takes one for, seconds: clocks differ.
VALID_S = 900.0
_LONGEST_S = 3600.0

_LEAST_CHARS = 32


class TokenError(Exception):
    """The request may not be answered; one sentence on the reason, without any secret."""


class SecretError(Exception):
    """The depot's secret cannot be read or made; one sentence for the operator."""


class Signed(Struct, frozen=True, kw_only=True):
    """Content of a signed token: what the request may do."""

    worker: str
    #: Unix time.
    expires: int
    #: Of a file that is put.
    size: int = 0
    sha256: str = ""


def read_secrets(home: Path) -> list[str]:
    """The secrets of this home's depot, the newest first; one is made where there is none. Raises `SecretError`."""
    path = home / "depot_secret"
    try:
        lines = secret_file.read_or_make(path, lambda: secrets.token_hex(32))
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"the depot's secret cannot be read from {str(path)!r}: {error}") from None
    if not lines or any(len(line) < _LEAST_CHARS for line in lines):
        raise SecretError(
            f"{str(path)!r} must hold secrets of at least {_LEAST_CHARS} characters; remove it for a new one"
        )
    return lines


def key_of(secret: str, worker: str) -> str:
    """The key with which this worker signs, hex."""
    return hmac.new(secret.encode(), f"depot worker {worker}".encode(), hashlib.sha256).hexdigest()


def sign(key: str, method: str, path: str, signed: Signed) -> str:
    """The path with the query that makes it good for this worker, until it expires."""
    query = {"worker": signed.worker, "expires": str(signed.expires)}
    if signed.sha256:
        query |= {"size": str(signed.size), "sha256": signed.sha256}
    return f"{path}?{urlencode({**query, 'signature': _signature(key, method, path, signed)})}"


def verify(known: Sequence[str], method: str, path: str, query: Mapping[str, str], now: float) -> Signed:
    """Return what a request was signed for, by one of these secrets, at this Unix time. Raises `TokenError`."""
    try:
        signed = Signed(
            worker=query["worker"],
            expires=int(query["expires"][:20]),
            size=int(query.get("size", "0")[:20]),
            sha256=query.get("sha256", ""),
        )
        given = query["signature"]
    except (KeyError, ValueError):
        raise TokenError("this address is for workers, which sign what they ask") from None
    keys = [key_of(secret, signed.worker) for secret in known]
    if not any(hmac.compare_digest(given.encode(), _signature(key, method, path, signed).encode()) for key in keys):
        raise TokenError(f"worker {signed.worker[:64]!r} did not sign this request, or with another depot's secret")
    if not now <= signed.expires <= now + _LONGEST_S:
        raise TokenError(f"the signature expired {now - signed.expires:.0f} s ago, or the clocks differ by as much")
    return signed


def _signature(key: str, method: str, path: str, signed: Signed) -> str:
    # The request is no larger than the answer.
    verb = "GET" if method == "HEAD" else method
    text = "\n".join((verb, path, signed.worker, str(signed.expires), str(signed.size), signed.sha256))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


# ---------------------------------------------------------------- paths


#: What the keys of artefacts begin with.
ARTEFACTS = "artefacts"


def job_key(job_id: str) -> str:
    """Key of a job's attempts in a depot."""
    return f"{ARTEFACTS}/{job_id}"


def attempt_key(job_id: str, fence: int) -> str:
    """Key of an attempt's files in a depot. They are never another's: a fence is granted once."""
    return f"{ARTEFACTS}/{job_id}/{fence}"


def attempt_of(key: str) -> tuple[str, int] | None:
    """The job and fence whose file lies at this key; None: it is no artefact's."""
    match key.split("/"):
        case [start, job_id, fence, _] if (
            start == ARTEFACTS and fence.isascii() and fence.isdecimal() and len(fence) < 20
        ):
            return job_id, int(fence)
    return None


def artefact_key(job_id: str, fence: int, name: str) -> str:
    """Key of an attempt's file in a depot."""
    return f"{attempt_key(job_id, fence)}/{name}"


def draft_key(job_id: str, fence: int, name: str) -> str:
    """Key of a parked job's preview in a depot."""
    return f"drafts/{job_id}/{fence}/{name}"


#: What the keys of checkpoints begin with.
CHECKPOINTS = "checkpoints"


def checkpoints_key(job_id: str, fence: int) -> str:
    """Key of a job's checkpoints in a depot, as an attempt of it puts and gets them."""
    return f"{CHECKPOINTS}/{job_id}/{fence}"


def checkpoint_key(job_id: str, fence: int, name: str) -> str:
    """Key of one of them."""
    return f"{checkpoints_key(job_id, fence)}/{name}"


def job_checkpoints_key(job_id: str) -> str:
    """Key of all checkpoints of a job in an object store, by the attempts that put them."""
    return f"{CHECKPOINTS}/{job_id}"


def checkpoint_at(key: str) -> tuple[str, int, str] | None:
    """The job, the attempt that put it, and the file whose checkpoint lies at this key; None: it is no checkpoint's."""
    match key.split("/"):
        case [start, job_id, fence, name] if (
            start == CHECKPOINTS and fence.isascii() and fence.isdecimal() and len(fence) < 20 and checkpoint_of(name)
        ):
            return job_id, int(fence), name
    return None


def input_key(name: str) -> str:
    """Key of an input in a depot, by its content's name, `<sha256>.<suffix>`."""
    return f"uploads/{name}"
