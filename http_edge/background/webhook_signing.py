"""The secrets that webhook deliveries are signed with, and the signature, by the Standard Webhooks specification (HMAC-SHA256, `v1`).

To change a secret without losing a delivery: put the new one first, keep the old one listed until every receiver has the new one, then
drop it. While both are listed every delivery bears both signatures, and receivers accept either.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from broker.runtime import secret_file

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES, _NEW_BYTES = 24, 64, 32


class SecretsError(Exception):
    """Secrets cannot be read or made; one sentence for the operator, without any secret in it."""


class WebhookSecrets:
    """The secrets in use: those of the settings, else those of a file, which is made when it is not there."""

    def __init__(self, configured: Sequence[str], path: Path) -> None:
        """Raises `SecretsError`."""
        self.path = path
        self._configured = [_parse("webhook_secrets", number, text) for number, text in enumerate(configured, start=1)]

    def keys(self) -> list[bytes]:
        """The secrets' bytes, the newest first. A file is read anew each time: a change counts at once. Raises `SecretsError`."""
        if self._configured:
            return self._configured
        try:
            secret = secret_file.read_or_make(self.path, new_secret)
        except OSError as error:
            raise SecretsError(f"webhook secrets cannot be read from {self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SecretsError(f"webhook secrets cannot be read from {self.path}: it is not text") from None
        if not secret:
            raise SecretsError(f"{self.path} holds no secret; remove it to have a new one made")
        return [_parse(str(self.path), number, line) for number, line in enumerate(secret, start=1)]


def new_secret() -> str:
    """A secret as receivers are given it."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_BYTES)).decode("ascii")


def _parse(place: str, number: int, text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.strip().startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        rule = f"must be {_PREFIX} and the base64 of {_LEAST_BYTES} to {_MOST_BYTES} bytes"
        raise SecretsError(f"{place}: secret {number} {rule}")
    return key


def signatures(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature a secret."""
    signed = f"{message_id}.{timestamp}.".encode("ascii") + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode("ascii") for digest in digests)
