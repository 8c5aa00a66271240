"""Requests and answers of one connection as bytes, without sockets: how answers are written, what is refused, when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from http_edge.http.head_cap import CappedProtocol

_TURNS = 6


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, lines: Any) -> None:
        self.written.append(b"".join(lines))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read by itself."""

    def resume_reading(self) -> None:
        """Nothing is read by itself."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)}.get(name, default)


class _Clock:
    """An event loop that says another time, and keeps timers for it instead of waiting."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = 0.0
        self._timers: list[tuple[float, asyncio.TimerHandle, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), self._loop)
        self._timers.append((when, handle, callback))
        return handle

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback)

    def move_to(self, now: float) -> None:
        self.now = now
        due = [one for one in self._timers if one[0] <= now]
        self._timers = [one for one in self._timers if one[0] > now]
        for _, handle, callback in due:
            if not handle.cancelled():
                callback()


class _Line:
    """A connection to an application."""

    def __init__(self, app: Any, **settings: Any) -> None:
        config = uvicorn.Config(app, http=CappedProtocol, ws="none", lifespan="off", log_config=None, **settings)
        config.load()
        self.clock = _Clock(asyncio.get_running_loop())
        self.state = ServerState()
        self.transport = _Transport()
        self.protocol = CappedProtocol(config, self.state, {}, self.clock)  # type: ignore[arg-type]
        self.protocol.connection_made(self.transport)

    async def send(self, data: bytes) -> bytes:
        """What is written once these bytes have come."""
        before = len(self.transport.written)
        self.protocol.data_received(data)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        return b"".join(self.transport.written[before:])


def _answers(status: int, *headers: tuple[bytes, bytes], pieces: tuple[bytes, ...] = (b"word",)) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})

    return app


def _request(method: str = "GET", path: str = "/", *headers: str, version: str = "1.1") -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n{lines}\r\n".encode()


def _exchange(app: Any, *requests: bytes) -> tuple[list[bytes], _Line]:
    async def scene() -> tuple[list[bytes], _Line]:
        line = _Line(app)
        return [await line.send(request) for request in requests], line

    return asyncio.run(scene())


_WORD_LENGTH = (b"Content-Length", b"4")


def test_head_and_body_leave_together_and_the_connection_goes_on() -> None:
    answers, line = _exchange(_answers(200, _WORD_LENGTH, (b"X-Kind", b"a b")), _request(), _request())
    assert answers == [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-kind: a b\r\n\r\nword"] * 2
    assert len(line.transport.written) == 2
    assert not line.transport.closed
    assert line.state.total_requests == 2
    assert not line.state.tasks


def test_the_head_of_a_body_without_a_length_does_not_wait_for_it() -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sent.append(len(line[0].transport.written))
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    line: list[_Line] = []

    async def scene() -> bytes:
        line.append(_Line(app))
        return await line[0].send(_request())

    assert asyncio.run(scene()) == (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")
    assert sent == [1]


@pytest.mark.parametrize(
    ("request_bytes", "app", "answer", "ends"),
    [
        (_request("HEAD"), _answers(200, _WORD_LENGTH), b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", False),
        (_request(), _answers(204, pieces=(b"",)), b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (
            _request(version="1.0"),
            _answers(200, _WORD_LENGTH),
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nword",
            True,
        ),
        (
            _request(),
            _answers(200, _WORD_LENGTH, (b"connection", b"Close")),
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: Close\r\n\r\nword",
            True,
        ),
    ],
    ids=["head", "no content", "http 1.0", "connection: close"],
)
def test_an_answer_ends_where_its_head_says(request_bytes: bytes, app: Any, answer: bytes, ends: bool) -> None:
    answers, line = _exchange(app, request_bytes)
    assert answers == [answer]
    assert line.transport.closed is ends


@pytest.mark.parametrize(
    "header",
    [(b"x-kind", b"a\r\nset-cookie: b"), (b"x-kind", b"a\x00"), (b"x kind", b"a"), (b"x-kind\r\n", b"a")],
    ids=["line end", "control", "space in a name", "line end in a name"],
)
def test_a_header_that_is_none_is_not_sent(header: tuple[bytes, bytes]) -> None:
    answers, line = _exchange(_answers(200, _WORD_LENGTH, header), _request())
    assert answers == [b""]
    assert line.transport.closed


@pytest.mark.parametrize("pieces", [(b"longer than it",), (b"wo",)], ids=["longer", "shorter"])
def test_a_body_of_another_length_than_was_said_ends_the_connection(pieces: tuple[bytes, ...]) -> None:
    _, line = _exchange(_answers(200, _WORD_LENGTH, pieces=pieces), _request())
    assert line.transport.closed


def test_requests_behind_one_another_are_answered_in_turn() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": body})

    (answer,), _ = _exchange(app, _request(path="/a") + _request(path="/b") + _request(path="/%63"))
    assert [part[-2:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"/a", b"/b", b"/c"]


def test_a_proxys_headers_are_believed_of_the_request_that_bears_them() -> None:
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["client"][0]))
        await _answers(204, pieces=(b"",))(scope, receive, send)

    _exchange(app, _request("GET", "/", "X-Forwarded-Proto: https", "X-Forwarded-For: 10.1.2.3"), _request())
    assert seen == [("https", "10.1.2.3"), ("http", "127.0.0.1")]


def test_a_connection_ends_when_nothing_was_asked_for_its_time() -> None:
    async def scene() -> None:
        line = _Line(_answers(200, _WORD_LENGTH), timeout_keep_alive=10)
        await line.send(_request())
        line.clock.move_to(9.0)
        await line.send(_request())
        line.clock.move_to(18.0)
        assert not line.transport.closed
        line.clock.move_to(19.0)
        assert line.transport.closed

    asyncio.run(scene())


def test_a_connection_does_not_end_while_it_is_answered_however_long_that_takes() -> None:
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await done.wait()
        await _answers(200, _WORD_LENGTH)(scope, receive, send)

    async def scene() -> None:
        line = _Line(app, timeout_keep_alive=10)
        await line.send(_request())
        await line.send(_request(path="/slow"))
        line.clock.move_to(1_000.0)
        assert not line.transport.closed
        done.set()
        assert await line.send(b"") != b""
        line.clock.move_to(1_011.0)
        assert line.transport.closed

    asyncio.run(scene())
