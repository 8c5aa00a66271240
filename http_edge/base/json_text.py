"""Decoding of clients' JSON with bounded work: bytes are capped where they arrive, values here, as one costs more than many bytes."""

from __future__ import annotations

from typing import Any

import msgspec

#: Values in one text, at most. Decoding so many stops the event loop for a tenth of a second; no request needs a hundredth of them.
MAX_VALUES = 500_000

#: Every value but the first comes after one of these. Those within strings count too: a prompt has fewer.
_MARKS = ",[{"

#: Looked at in pieces, so that a text of nothing but marks is given up early.
_PIECE = 1024 * 1024


class BadJson(Exception):
    """The text is no JSON, or has too many values; the words say which, as what "it" is."""


def decode_json(text: bytes | str) -> Any:
    """The value that a text says. Raises `BadJson`."""
    if _has_too_many(text):
        raise BadJson(f"it has more than {MAX_VALUES} values")
    try:
        return msgspec.json.decode(text)
    # UnicodeDecodeError is no msgspec error; nesting beyond the interpreter's limit raises RecursionError.
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadJson(f"it is not valid JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise BadJson("it is nested too deeply") from None


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
