"""A parser of server-sent events, after the HTML standard: bytes in, events out."""

from __future__ import annotations

from typing import NamedTuple


class ServerEvent(NamedTuple):
    """An event: its name, its data, and its id ("" where it has none of its own)."""

    name: str
    data: str
    id: str


class EventParser:
    """Parses one stream, however it was cut into pieces. What is not ended by an empty line is no event."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that end in this piece."""
        found = []
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line:
                self._lines.append(line)
                continue
            event = _event(self._lines)
            self._lines = []
            if event is not None:
                found.append(event)
        return found


def _event(lines: list[bytes]) -> ServerEvent | None:
    """The event of these lines; None: they have no data, as comments."""
    name, event_id, data = "message", "", []
    for line in lines:
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            event_id = value
        elif field == "data":
            data.append(value)
    return ServerEvent(name, "\n".join(data), event_id) if data else None
