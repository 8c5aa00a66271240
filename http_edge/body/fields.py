"""Typed reading of a request's fields: every error names the field as the client wrote it, the value and the rule.

JSON and forms mean the same: a number may be its text ("12" is 12; `true` is no number), empty text stands for an absent number, size or
name, which a query has no need of. `null` counts as absent: generated clients send it for what their caller left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from broker.wire.jobspec import MAX_INT, Scalar
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.json_text import BadJson, decode_json
from http_edge.body.aspect import parse_aspect

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}(\.0*)?")
#: Python's own reader takes more: 1_0, and digits of every script.
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_SIZE = re.compile(r"([0-9]{1,6})\s*[xX*×]\s*([0-9]{1,6})")
_SIDES = re.compile(r"([0-9]{1,6})\s*,\s*([0-9]{1,6})")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Reader:
    """Typed reader of a request's fields."""

    def __init__(self, fields: Mapping[str, Any], *, place: str = "body") -> None:
        self.fields = fields
        self.place = place

    def raw(self, name: str) -> Any:
        """The value as sent; None when absent."""
        return self.fields.get(name)

    def fault(self, name: str, rule: str) -> EdgeError:
        """The error for this field's value."""
        return invalid(name, self.raw(name), rule, place=self.place)

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
        """Return a string without NUL. Raises `EdgeError` when absent."""
        value = self.text(name, max_chars=max_chars, min_chars=min_chars)
        if value is None:
            raise missing([name], place=self.place)
        return value

    def _given(self, name: str) -> Any:
        """The value; None also for the empty text that stands for an absent one, but in a query."""
        value = self.raw(name)
        return None if self.place != "query" and isinstance(value, str) and not value.strip() else value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds, or None when absent."""
        value = self._given(name)
        if value is None:
            return None
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value.strip().partition(".")[0])
        # JSON does not distinguish 25.0 from 25, so neither do we; bool is an int to Python, not to a client.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(name, "is not a whole number")
        if not low <= value <= high:
            raise self.fault(name, f"must be {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A finite number within bounds, or None when absent."""
        value = self._given(name)
        if value is None:
            return None
        if isinstance(value, str):
            value = parsed_number(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(name, "is not a number")
        if not low <= value <= high:
            raise self.fault(name, f"must be {low:.15g} to {high:.15g}")
        return float(value)

    def flag(self, name: str) -> bool | None:
        """A boolean, or None when absent; 0, 1, yes, no, on and off are read, too."""
        value = self._given(name)
        if isinstance(value, bool) or value is None:
            return value
        if str(value).strip().lower() in _TRUE:
            return True
        if str(value).strip().lower() in _FALSE:
            return False
        raise self.fault(name, "is not true or false")

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Return one of these values, or None when absent."""
        value = self._given(name)
        if value is not None and value not in choices:
            raise self.fault(name, f"must be {' or '.join(f'{chr(34)}{one}{chr(34)}' for one in choices)}")
        return None if value is None else str(value)

    def size(self, name: str, *, height_first: bool = False) -> tuple[int, int] | None:
        """(width, height) of "WxH" or of two numbers; None when absent, empty or "auto".

        Which of two numbers is the width differs from service to service: the second where `height_first`, else they must be equal.
        """
        value = self._given(name)
        if isinstance(value, str) and value.strip().lower() == "auto":
            value = None
        if value is None or value == []:
            return None
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is not None and int(match[1]) and int(match[2]):
            return int(match[1]), int(match[2])
        sides = _sides(value)
        if sides is None or (not height_first and sides[0] != sides[1]):
            raise self.fault(name, _SIZE_RULES[height_first, sides is not None])
        return sides[1], sides[0]

    def aspect(self, name: str) -> tuple[int, int] | None:
        """(width, height) of "W:H", the proportion alone; None when absent, empty or "auto"."""
        text = self.text(name, max_chars=16)
        if text is None or text == "auto" or (self.place != "query" and not text.strip()):
            return None
        found = parse_aspect(text)
        if found is None:
            raise self.fault(name, 'is not of the form "WIDTH:HEIGHT", as in "16:9"')
        return found

    def scalars(self, name: str, *, max_items: int = 64, max_chars: int = 4096) -> dict[str, Scalar]:
        """An object of plain values, itself or as JSON text, empty when absent. Numbers and booleans in it may be text."""
        value = self._given(name)
        if isinstance(value, str):
            try:
                value = decode_json(value)
            except BadJson as error:
                raise self.fault(name, f"cannot be read: {error}") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(name, "is not an object")
        if len(value) > max_items:
            raise self.fault(name, f"has too many members, at most {max_items}")
        for key, item in value.items():
            if not key.isidentifier() or len(key) > 64:
                raise invalid(name, key, "cannot name an argument", place=self.place)
            if not _plain(item, max_chars):
                rule = (
                    f"is not a string of at most {max_chars} characters, a number within 64 bits, true, false or null"
                )
                raise invalid(f"{name}.{key}", item, rule, place=self.place)
        return {key: parsed_scalar(item) for key, item in value.items()}

    def unknown(self, known: Iterable[str]) -> list[str]:
        """The fields that are none of these, in the order sent."""
        names = set(known)
        return [name for name in self.fields if name not in names]


def missing(names: list[str], *, place: str = "body") -> EdgeError:
    """The error for required fields that are not there."""
    first, many = names[0], len(names) > 1
    text = f"{', '.join(names)}: required, but missing" if many else f"{first}: it is required, but missing"
    return EdgeError("missing_field", text, param=first, params=names, place=place)


#: (whether the height comes first, whether there were two numbers) -> the rule.
_SIZE_RULES = {
    (True, False): 'is not [height, width] in pixels, as in [480, 832], nor "WIDTHxHEIGHT"',
    (False, False): 'is not of the form "WIDTHxHEIGHT", as in "832x480"',
    (False, True): 'does not say which is the width: write "WIDTHxHEIGHT", as in "832x480"',
}


def _sides(value: Any) -> tuple[int, int] | None:
    """Two whole numbers above 0, of a list or its text."""
    if isinstance(value, str):
        text = value.strip()
        match = _SIDES.fullmatch(text[1:-1].strip() if text[:1] == "[" and text[-1:] == "]" else text)
        value = list(match.groups()) if match else None
    if not isinstance(value, list) or len(value) != 2 or not all(_is_side(side) for side in value):
        return None
    return int(value[0]), int(value[1])


def _is_side(side: Any) -> bool:
    if isinstance(side, str):
        return side.isascii() and side.strip().isdecimal() and len(side) <= 6 and int(side) > 0
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side < 1_000_000


def parsed_scalar(value: Any) -> Any:
    """Parse a text that is a number or a boolean: for arguments whose type is not known here, and for forms, where all is text."""
    if not isinstance(value, str) or len(value) > 40:
        return value
    if value in ("true", "True", "false", "False"):
        return value in ("true", "True")
    try:
        number = msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return value
    return number if isinstance(number, int | float) and not isinstance(number, bool) and _plain(number, 0) else value


def parsed_number(text: str) -> float | None:
    """The finite number that a text of at most 40 characters is; None for any other text."""
    if len(text) > 40 or _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _plain(value: Any, max_chars: int) -> bool:
    if isinstance(value, str):
        return len(value) <= max_chars and "\0" not in value
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -MAX_INT <= value <= MAX_INT
    return isinstance(value, float) and math.isfinite(value)
