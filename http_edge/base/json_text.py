"""Decoding of clients' JSON with bounded work: bytes are capped where they arrive, values here, as one costs more than many bytes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

#: Values in one text, at most. Decoding so many stops the event loop for a tenth of a second; no request needs a hundredth of them.
MAX_VALUES = 500_000

#: Every value but the first comes after one of these. Those within strings count too: a prompt has fewer.
_MARKS = ",[{"

#: The first half of a surrogate pair as an escape, too near the end of a text for the other half to follow.
_HALF_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?=[^\\]{1,5}\Z)")

#: Characters counted at a time, so that a text of nothing but marks is refused early.
_PIECE = 1024 * 1024


class BadJson(Exception):
    """The text is no JSON, or has too many values; the message says which, with "it" as subject."""


def decode_json(text: bytes | str) -> Any:
    """The value of a JSON text. Raises `BadJson`."""
    if _has_too_many(text):
        raise BadJson(f"it has more than {MAX_VALUES} values")
    try:
        return msgspec.json.decode(text)
    # UnicodeDecodeError is no msgspec error; nesting beyond the interpreter's limit raises RecursionError.
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadJson(f"it is not valid JSON: {_reason(text, error)}") from None
    except RecursionError:
        raise BadJson("it is nested too deeply") from None


def _reason(text: bytes | str, error: Exception) -> str:
    """Reason why a text could not be decoded, also where the decoder's own message misleads.

    It counts the bytes of a string that is not UTF-8 from that string's beginning, and takes a text that ends within a surrogate pair's
    length behind half a pair for one that was cut off.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as bad:
            return f"it must be UTF-8, and byte {bad.start} (0x{text[bad.start]:02x}) is not"
    if "truncated" in str(error) and (half := _HALF_PAIR.search(text[-16:])):
        return f"{half[0]} is half of a surrogate pair"
    return str(error)[:200]


def _has_too_many(text: bytes | str) -> bool:
    if len(text) <= MAX_VALUES:
        return False
    count = 0
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        count += sum(piece.count(mark) if isinstance(piece, str) else piece.count(mark.encode()) for mark in _MARKS)
        if count > MAX_VALUES:
            return True
    return False
