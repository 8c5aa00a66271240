"""A connection whose client sends requests and reads no answers: the next request begins when the answers before it were read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from http_edge.http.head_cap import CappedProtocol

#: More than the buffers of both sockets take.
_LARGE = b"x" * (64 * 1024 * 1024)


class _App:
    """Answers `/large` with more than lies unread anywhere, everything else with a word; notes what began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.sent = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.append(scope["path"])
        body = _LARGE if scope["path"] == "/large" else b"word"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
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
        config = uvicorn.Config(app, http=CappedProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: CappedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        async with server, contextlib.AsyncExitStack() as left:
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
        config = uvicorn.Config(app, http=CappedProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        lost = asyncio.Event()

        class Watched(CappedProtocol):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Watched(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        async with server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            writer.write(_request("/large") + _request("/second"))
            await app.sent.wait()
            writer.transport.abort()
            await lost.wait()
            await asyncio.sleep(0)
            assert app.began == ["/large"]

    asyncio.run(scene())
