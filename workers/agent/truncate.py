"""Free text that goes into a message's header."""

from __future__ import annotations

#: Longest free text in a header, in bytes: a header has 4 KiB in all.
MAX_TEXT = 2000
MAX_REASON = 250


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[: limit - 3].decode("utf-8", "ignore") + "…"
