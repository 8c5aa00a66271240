"""The text that stands for an image or a clip in a field's value: itself, or a member of the objects that other services have for it."""

from __future__ import annotations

from typing import Any

from http_edge.base.errors import EdgeError, invalid
from http_edge.base.json_text import BadJson, decode_json
from http_edge.base.limits import MAX_TEXT_BYTES

#: Where the text is: OpenAI's and vLLM-Omni's objects, and LightX2V's `{"type", "data"}`.
_MEMBERS = ("image_url", "video_url", "file_id", "url", "data")


def media_texts(name: str, value: Any, *, place: str = "body") -> tuple[str, ...] | None:
    """The texts in a field that may hold several; None when it holds none. Raises `EdgeError`."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(name, value, place)
    items = value if isinstance(value, list) else [value]
    texts = tuple(text for item in items if (text := media_text(name, item, place=place)))
    if isinstance(value, list) and len(texts) < len(value):
        raise invalid(name, value, "has an entry that names nothing", place=place)
    return texts or None


def media_text(name: str, value: Any, *, place: str = "body") -> str:
    """The text that stands for one medium; "" when there is none. Raises `EdgeError`."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _parsed(name, value, place)
    if isinstance(value, dict):
        member = next((key for key in _MEMBERS if value.get(key)), None)
        if member is None:
            raise invalid(name, value, f"holds none of {', '.join(_MEMBERS)}", place=place)
        inner = value[member]
        return media_text(f"{name}.{member}", inner.get("url") if isinstance(inner, dict) else inner, place=place)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_BYTES or "\0" in value:
        raise _no_medium(name, value, place)
    return value.strip()


def _parsed(name: str, text: str, place: str) -> Any:
    try:
        return decode_json(text)
    except BadJson as error:
        raise invalid(name, text, f"cannot be read: {error}", place=place) from None


def _no_medium(name: str, value: Any, place: str) -> EdgeError:
    return invalid(name, value, "is not a file, a URL, a data URL, base64 or the id of a file", place=place)
