"""Typed reading of a request's fields: every complaint names the field as the client wrote it, the value and the rule.

JSON APIs are strict (`true` is no number, "12" is no integer); form-like APIs, where everything arrives as text, read `lenient`.
`null` counts as absent: generated clients send it for what their caller left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from http_edge.errors import EdgeError, invalid

_INTEGER = re.compile(r"[+-]?\d{1,20}")
_SIZE = re.compile(r"(\d{1,6})[xX*](\d{1,6})")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

#: What msgpack, JSON readers and torch all hold.
MAX_INT = 2**63 - 1


class Reader:
    """One request's fields. `aliases`: our name -> further names a client may use for it; ours wins when both are there."""

    def __init__(
        self,
        fields: Mapping[str, Any],
        *,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        lenient: bool = False,
        place: str = "body",
    ) -> None:
        self.fields = fields
        self.lenient = lenient
        self.place = place
        self._aliases = dict(aliases or {})

    def label(self, name: str) -> str:
        """The name under which the client sent this field; ours when it did not."""
        for candidate in (name, *self._aliases.get(name, ())):
            if self.fields.get(candidate) is not None:
                return candidate
        return name

    def raw(self, name: str) -> Any:
        """The value as sent; None when absent."""
        return self.fields.get(self.label(name))

    def fault(self, name: str, rule: str) -> EdgeError:
        """The error for this field's value."""
        return invalid(self.label(name), self.raw(name), rule, place=self.place)

    def text(self, name: str, *, max_chars: int, min_chars: int = 0) -> str | None:
        """A string without NUL, or None when absent."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.fault(name, "is not a string")
        if len(value) > max_chars:
            raise self.fault(name, f"is too long: {len(value)} characters, at most {max_chars}")
        if len(value.strip()) < min_chars:
            raise self.fault(name, "must not be empty")
        if "\0" in value:
            raise self.fault(name, "contains a NUL character")
        return value

    def required_text(self, name: str, *, max_chars: int, min_chars: int = 0) -> str:
        """As `text`, but it must be there."""
        value = self.text(name, max_chars=max_chars, min_chars=min_chars)
        if value is None:
            raise missing([name], place=self.place)
        return value

    def _said(self, name: str) -> Any:
        """The value; None also for the empty text that stands for an absent number or word in a form, which a query has no need of."""
        value = self.raw(name)
        may_be_empty = self.lenient and self.place != "query"
        return None if may_be_empty and isinstance(value, str) and not value.strip() else value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds, or None when absent."""
        value = self._said(name)
        if value is None:
            return None
        if self.lenient and isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        # JSON does not tell 25.0 from 25, so neither do we; bool is an int to Python, not to a client.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(name, "is not a whole number")
        if not low <= value <= high:
            raise self.fault(name, f"must be {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, *, text: bool = False) -> float | None:
        """A finite number within bounds, or None when absent. `text`: a string will do in any API (`seconds` is one to OpenAI)."""
        value = self._said(name)
        if value is None:
            return None
        if (self.lenient or text) and isinstance(value, str) and len(value) <= 40:
            value = _float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(name, "is not a number")
        if not low <= value <= high:
            raise self.fault(name, f"must be {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool | None:
        """True or false, or None when absent; 0, 1 and their words will do when lenient."""
        value = self._said(name)
        if isinstance(value, bool) or value is None:
            return value
        if self.lenient and str(value).strip().lower() in _TRUE:
            return True
        if self.lenient and str(value).strip().lower() in _FALSE:
            return False
        raise self.fault(name, "is not true or false")

    def size(self, name: str) -> tuple[int, int] | None:
        """(width, height) of "WxH"; None when absent, empty or "auto"."""
        value = self.text(name, max_chars=40)
        if value is None or value.strip().lower() in ("", "auto"):
            return None
        match = _SIZE.fullmatch(value.strip())
        if match is None or not (int(match[1]) and int(match[2])):
            raise self.fault(name, 'is not of the form "WIDTHxHEIGHT", as in "832x480"')
        return int(match[1]), int(match[2])

    def scalars(
        self, name: str, *, max_items: int = 64, max_chars: int = 4096
    ) -> dict[str, str | int | float | bool | None]:
        """An object of plain values, empty when absent."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(name, "is not an object")
        if len(value) > max_items:
            raise self.fault(name, f"has too many members, at most {max_items}")
        label = self.label(name)
        for key, item in value.items():
            if not key.isidentifier() or len(key) > 64:
                raise invalid(label, key, "cannot name an argument", place=self.place)
            if not _plain(item, max_chars):
                rule = (
                    f"is not a string of at most {max_chars} characters, a number within 64 bits, true, false or null"
                )
                raise invalid(f"{label}.{key}", item, rule, place=self.place)
        return value

    def unknown(self, known: Iterable[str]) -> list[str]:
        """The fields that are none of these, in the order sent."""
        names = set(known)
        names.update(alias for name in list(names) for alias in self._aliases.get(name, ()))
        return [name for name in self.fields if name not in names]


def missing(names: list[str], *, place: str = "body") -> EdgeError:
    """The error for required fields that are not there."""
    first, many = names[0], len(names) > 1
    text = f"{', '.join(names)}: required, but missing" if many else f"{first}: it is required, but missing"
    return EdgeError("missing_field", text, param=first, params=names, place=place)


def _float(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _plain(value: Any, max_chars: int) -> bool:
    if isinstance(value, str):
        return len(value) <= max_chars and "\0" not in value
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -MAX_INT <= value <= MAX_INT
    return isinstance(value, float) and math.isfinite(value)
