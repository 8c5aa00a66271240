"""Verification of webhook deliveries, which are signed after the Standard Webhooks specification (HMAC-SHA256, `v1`)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence

from zoetrope.client.errors import BadSignature
from zoetrope.client.results import WebhookEvent, convert, decode

_PREFIX = "whsec_"
_STAMP_DIGITS = 18


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance_s: float = 300.0,
    now: float | None = None,
) -> WebhookEvent:
    """The event of a delivery. `secret`: the service's `whsec_…`, or several while it is being changed. Raises `BadSignature`.

    `body` must be the bytes that came, before any parsing. `tolerance_s`: how far its clock may be from `now`
    (Unix time, default: this machine's).
    """
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not given.get(name)]
    if missing:
        raise BadSignature(f"the delivery has no header {missing[0]}")
    stamp = given["webhook-timestamp"]
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= _STAMP_DIGITS):
        raise BadSignature(f"webhook-timestamp: {stamp[:40]!r} is no number of seconds")
    if abs((time.time() if now is None else now) - int(stamp)) > tolerance_s:
        raise BadSignature(f"the delivery was signed more than {tolerance_s:g} s from now")
    # Text that came with bytes of no character in it was not signed so.
    content = body.encode(errors="replace") if isinstance(body, str) else body
    signed = f"{given['webhook-id']}.{stamp}.".encode(errors="replace") + content
    came = [text.removeprefix("v1,") for text in given["webhook-signature"].split() if text.startswith("v1,")]
    for key in _keys(secret):
        own = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        # Bytes: of text, only ASCII can be compared.
        if any(hmac.compare_digest(own, text.encode(errors="replace")) for text in came):
            return convert(WebhookEvent, decode(content))
    raise BadSignature("no signature of the delivery was made with this secret")


def _keys(secret: str | Sequence[str]) -> list[bytes]:
    texts = [secret] if isinstance(secret, str) else list(secret)
    if not texts:
        raise BadSignature("no secret was given to verify with")
    try:
        keys = [base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True) for text in texts]
    except (binascii.Error, ValueError):
        keys = [b""]
    if not all(keys):
        raise BadSignature(f"a secret must be {_PREFIX} and base64, as the service's webhook_secret file has it")
    return keys
