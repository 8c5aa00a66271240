"""A job's webhook: as requests of every API name it, and as a job shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from msgspec import Struct

from broker.wire.messages import WebhookEvent
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.json_text import BadJson, decode_json
from http_edge.body.fields import Reader
from http_edge.media.fetch import named_url, parse_url

#: Fields of a request.
WEBHOOK_FIELDS = ("webhook", "webhook_events")

#: What a submission's header has room for.
MAX_URL_CHARS = 1024

EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)

_EVENTS: dict[str, WebhookEvent] = {
    **{event: event for event in EVENTS},
    "succeeded": "completed",
    "canceled": "cancelled",
}

_PREFIXES = ("job.", "video.", "image.")


class Webhook(Struct, frozen=True, kw_only=True):
    """Webhook of a job: its URL and events; no events: all of them."""

    url: str
    events: tuple[WebhookEvent, ...] = ()


def read_webhook(values: Mapping[str, Any], *, place: str = "body") -> Webhook | None:
    """The webhook among a request's fields; None when there is none. Raises `EdgeError`. Where the URL leads is not looked at."""
    reader = Reader(values, place=place)
    text = (reader.text("webhook", max_chars=MAX_URL_CHARS) or "").strip()
    events = _read_events(reader)
    if not text:
        if events:
            raise EdgeError("missing_field", "webhook: webhook_events needs it, but it is missing", param="webhook")
        return None
    url = str(parse_url("webhook", text))
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        raise invalid("webhook", named_url(text), f"is no URL of at most {MAX_URL_CHARS} characters", place=place)
    return Webhook(url=url, events=events)


def _read_events(reader: Reader) -> tuple[WebhookEvent, ...]:
    """Read events from a list, its JSON text, or text with commas; in one order, so that equal requests have equal digests."""
    value = reader.raw("webhook_events")
    if isinstance(value, str):
        text = value.strip()
        value = text.split(",")
        if text.startswith("["):
            try:
                value = decode_json(text)
            except BadJson as error:
                raise reader.fault("webhook_events", f"cannot be read: {error}") from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise reader.fault("webhook_events", "is not a list")
    found = {_event(reader, name) for name in value if name != ""}
    return tuple(event for event in EVENTS if event in found)


def _event(reader: Reader, name: Any) -> WebhookEvent:
    key = name.strip().lower() if isinstance(name, str) else ""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    event = _EVENTS.get(key)
    if event is None:
        names = ", ".join(f"job.{event}" for event in EVENTS)
        raise invalid("webhook_events", name, f"is no event; events: {names}", place=reader.place)
    return event
