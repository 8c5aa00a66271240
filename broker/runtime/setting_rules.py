"""Rules of a setting's type and bounds, in words."""

from __future__ import annotations

import re
from typing import Any, get_args

from msgspec import Meta

_CHOICES = re.compile(r"\^\(([\w|]+)\)\$")


def in_words(hint: Any) -> str:
    """The rule of an annotated type: "must be a whole number from 0 to 65535"."""
    args = get_args(hint)
    meta = next((arg for arg in args if isinstance(arg, Meta)), Meta())
    base = args[0] if any(isinstance(arg, Meta) for arg in args) else hint
    if meta.extra and "rule" in meta.extra:
        return f"must be {meta.extra['rule']}"
    if str(base).startswith("tuple"):
        return f"must be a list with commas; each part {in_words(get_args(base)[0])}"
    if base is bool:
        return "must be true or false"
    if base is int or base is float:
        return f"must be a {'whole ' if base is int else ''}number{_bounds(meta)}"
    if meta.pattern:
        choices = _CHOICES.fullmatch(meta.pattern)
        return (
            f"must be {' or '.join(choices[1].split('|'))}" if choices else "has characters that are not allowed there"
        )
    return "must be text, not empty" if meta.min_length else "must be text"


def _bounds(meta: Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    parts = [
        f"{phrase} {bound}"
        for phrase, bound in (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("below", meta.lt))
        if bound is not None
    ]
    return f", {' and '.join(parts)}" if parts else ""
