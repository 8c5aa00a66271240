"""A connection whose client sends requests and reads no answers: the next request begins when the answers before it were read, and the
connection ends when they are not for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from http_edge.http.connection import ConnectionProtocol
from tests.sockets.connections import serving

#: More than the buffers of both sockets take.
_LARGE = b"x" * (64 * 1024 * 1024)


class _App:
    """Answers `/large`, `/last` (with the end of the connection) and `/pieces` with more than lies unread anywhere, everything else with a
    word; notes what began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.sent = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.append(scope["path"])
        path = scope["path"]
        body = _LARGE if path in ("/large", "/last", "/pieces") else b"word"
        headers = [(b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")] if path == "/last" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, len(body), 1024 * 1024) if path == "/pieces" else ():
            await send({"type": "http.response.body", "body": body[at : at + 1024 * 1024], "more_body": True})
        await send({"type": "http.response.body", "body": b"" if path == "/pieces" else body})
        self.sent.set()


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer; the length of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return len(await reader.readexactly(length))


async def _leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def test_no_request_begins_while_answers_lie_unread_and_all_are_answered_once_they_are_read() -> None:
    async def scene() -> None:
        app = _App()
        async with serving(app) as (port, _), contextlib.AsyncExitStack() as left:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            left.push_async_callback(_leave, writer)
            writer.write(_request("/large") + _request("/second") + _request("/third"))
            await app.sent.wait()
            other_reader, other = await asyncio.open_connection("127.0.0.1", port)
            left.push_async_callback(_leave, other)
            for _ in range(3):
                other.write(_request("/other"))
                assert await _answer(other_reader) == 4
            assert app.began == ["/large", "/other", "/other", "/other"]
            assert [await _answer(reader) for _ in range(3)] == [len(_LARGE), 4, 4]
            assert app.began[-2:] == ["/second", "/third"]

    asyncio.run(scene())


def test_a_request_that_waits_for_a_client_that_left_never_begins() -> None:
    async def scene() -> None:
        app = _App()
        async with serving(app) as (port, lost):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_request("/large") + _request("/second"))
            await app.sent.wait()
            writer.transport.abort()
            await lost.wait()
            await asyncio.sleep(0)
            assert app.began == ["/large"]

    asyncio.run(scene())


@pytest.mark.parametrize("path", ["/large", "/last", "/pieces"])
def test_the_connection_of_a_client_that_never_reads_ends(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was to be closed behind the answer, and where the answer is still being written: that ends, too."""
    monkeypatch.setattr("http_edge.http.connection._UNREAD_S", 0.05)

    async def scene() -> None:
        app = _App()
        async with serving(app) as (port, ended):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(_request(path))
                await ended.wait()
                await app.sent.wait()

    uvloop.run(scene())


class _Loop:
    """Keeps the last timer; the test lets it ring."""

    def __init__(self) -> None:
        self.ring: Callable[[], None] = lambda: None

    def call_later(self, seconds: float, ring: Callable[[], None]) -> asyncio.TimerHandle:
        self.ring = ring
        return asyncio.TimerHandle(0.0, ring, (), asyncio.get_running_loop())


class _Transport(asyncio.Transport):
    """Has the bytes that the test says lie ready."""

    ready, aborted = 0, False

    def get_write_buffer_size(self) -> int:
        return self.ready

    def abort(self) -> None:
        self.aborted = True


def test_a_client_that_reads_slowly_keeps_its_connection_until_it_reads_too_little() -> None:
    async def scene() -> None:
        loop, transport = _Loop(), _Transport()
        config = uvicorn.Config(_App(), http=ConnectionProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = ConnectionProtocol(config, ServerState(), {}, cast(asyncio.AbstractEventLoop, loop))
        connection.connection_made(transport)
        transport.ready = 1_000_000
        connection.pause_writing()
        for transport.ready in (900_000, 800_000, 700_000):
            loop.ring()
            assert not transport.aborted
        transport.ready -= 10_000
        loop.ring()
        assert transport.aborted

    asyncio.run(scene())
