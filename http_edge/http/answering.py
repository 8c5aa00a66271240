"""A request that is being answered: uvicorn's cycle, with a `send` that knows each header's name and writes head and body together.

Lowering, checking and joining every header of every answer was a good part of what a status read costs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

#: Control characters but the tab: those that end a line, and those that mean nothing in one.
_CONTROLS = bytes(code for code in range(128) if (code < 32 or code == 127) and code != 9)

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

#: How the line of a header begins, by its name. Names are literals of the code, so few; bounded nevertheless.
_BEGINNINGS: dict[bytes, bytes] = {}
_MOST_NAMES = 512

_LENGTH = b"\r\ncontent-length: "
_TRANSFER = b"\r\ntransfer-encoding: "
_CONNECTION = b"\r\nconnection: "
#: The headers that say where an answer ends.
_FRAMING = frozenset((_LENGTH, _TRANSFER, _CONNECTION))

#: Statuses of answers that have neither body nor length.
_EMPTY = frozenset((204, 304))


def _beginning(name: bytes) -> bytes:
    """Return the beginning of a header's line. Raises `RuntimeError` for what is no name."""
    if _NAME.fullmatch(name) is None:
        raise RuntimeError(f"{name!r} is no name of a header")
    if len(_BEGINNINGS) >= _MOST_NAMES:
        _BEGINNINGS.clear()
    found = _BEGINNINGS[name] = b"\r\n%b: " % name.lower()
    return found


class Answering(RequestResponseCycle):
    """One request under way. Reading it is uvicorn's."""

    #: What runs the application.
    task: asyncio.Task[None]
    #: The head, while it waits for the first piece of the body whose length it tells.
    _head: bytes = b""
    _says_close = False

    async def send(self, message: Any) -> None:
        """ASGI's `send`.

        Raises `RuntimeError` for a message out of its turn, a header that is none, and a body of another length than was said.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"{kind} before http.response.start")
            self._begin(message["status"], message.get("headers", ()))
        elif kind != "http.response.body" or self.response_complete:
            raise RuntimeError(f"{kind} in an answer that {'is over' if self.response_complete else 'has begun'}")
        else:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        if self.access_log:
            self.access_logger.info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(self.scope),
                self.scope["method"],
                get_path_with_query_string(self.scope),
                self.scope["http_version"],
                status,
            )
        parts = [STATUS_LINE[status][:-2]]
        for name, value in (*self.default_headers, *headers):
            beginning = _BEGINNINGS.get(name) or _beginning(name)
            if beginning in _FRAMING:
                self._frame(beginning, value)
            parts.append(beginning)
            parts.append(value)
        if not self.keep_alive and not self._says_close:
            parts += (_CONNECTION, b"close")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _EMPTY:
            self.chunked_encoding = True
            parts += (_TRANSFER, b"chunked")
        lines = len(parts) // 2 + 1
        parts.append(b"\r\n\r\n")
        head = b"".join(parts)
        # A line ends in two of them, and so does the head.
        if len(head) - len(head.translate(None, _CONTROLS)) != 2 * (lines + 1):
            raise RuntimeError("the value of a header has control characters")
        if self.chunked_encoding is False:
            self._head = head
        else:
            self.transport.write(head)

    def _frame(self, beginning: bytes, value: bytes) -> None:
        """Take over what a header says of where the answer ends."""
        if beginning == _CONNECTION:
            if b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive, self._says_close = False, True
        elif beginning == _TRANSFER:
            if value.lower() == b"chunked":
                self.expected_content_length, self.chunked_encoding = 0, True
        elif self.chunked_encoding is None:
            self.expected_content_length, self.chunked_encoding = int(value), False

    def _write(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk + b"0\r\n\r\n" if is_last else chunk
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its content-length")
        if self._head:
            self.transport.writelines((self._head, body))
            self._head = b""
        elif body:
            self.transport.write(body)
        if not is_last:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its content-length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
