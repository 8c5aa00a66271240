"""Conversion of rows of schema 1 to 5: the part that was submitted, as it is written since."""

from __future__ import annotations

from zlib import crc32

import msgspec
from msgspec import Struct

from broker.shell.journal import rows
from broker.wire.submission import Submission
from broker.wire.terms import WebhookEvent


class _Head(Struct, frozen=True, array_like=True):
    """Beside it stood columns."""

    tenant: str
    priority: int
    gpus: int
    units: float
    deadline: float
    max_running: int = 0
    webhook: str = ""
    webhook_events: tuple[WebhookEvent, ...] = ()


_decode = msgspec.msgpack.Decoder(_Head).decode


def renew_head(
    n: int, stored: bytes | None, body: bytes | None, model: str, origin: str, alias: str, pinned: str
) -> bytes | None:
    """A head of today, sealed, from an old one and the columns beside it. A damaged one stays as it is: it is reported where it is read."""
    try:
        packed, check = rows.open_sealed_head(n, stored)
        old = _decode(packed)
        submission = Submission(
            model=model,
            units=old.units,
            tenant=old.tenant,
            priority=old.priority,
            gpus=old.gpus,
            origin=origin,
            alias=alias,
            pinned=pinned,
            max_running=old.max_running,
            webhook=old.webhook,
            webhook_events=old.webhook_events,
        )
        return rows.seal_head(n, check or crc32(body or b"").to_bytes(4, "big"), rows.Head(submission, old.deadline))
    except (ValueError, TypeError, RecursionError):
        return stored
