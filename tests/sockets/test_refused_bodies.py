"""A request that is refused while its client still sends: the client reads why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from http_edge.http.connection import MAX_HEAD_BYTES
from tests.sockets.connections import serving

#: More than the buffers of both sockets take, and less than is read in a moment.
_LARGE = 32 * 1024 * 1024


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answers 413 without reading the body."""
    headers = [(b"content-length", b"9"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"too large"})


@pytest.mark.parametrize(
    ("head", "rest", "status"),
    [
        (b"PUT /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % _LARGE, _LARGE, b"413"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, _LARGE, b"431"),
        (b"NOTHING OF HTTP\r\n\r\n", _LARGE, b"400"),
    ],
    ids=["body", "head", "junk"],
)
def test_a_client_that_sends_on_reads_the_refusal(head: bytes, rest: int, status: bytes) -> None:
    async def scene() -> None:
        async with serving(_refuse) as (port, ended):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            # The answer is there, and unread, before the rest of the request is sent.
            first = await reader.read(1)
            for _ in range(rest // (1024 * 1024)):
                writer.write(bytes(1024 * 1024))
                await writer.drain()
            answer = first + await reader.read()
            assert answer.split(b" ")[1] == status
            assert b"connection: close" in answer.lower()
            writer.close()
            await writer.wait_closed()
            await ended.wait()

    uvloop.run(scene())


@pytest.mark.parametrize(
    ("length", "body", "idle_s"),
    [(100, b"", 0.0), (3, b"abc", 3600.0)],
    ids=["no more comes", "it came whole"],
)
def test_the_connection_of_a_refused_client_ends(
    length: int, body: bytes, idle_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some silence where the rest of the body does not come, and at once where there is none."""
    monkeypatch.setattr("http_edge.http.connection._DROP_IDLE_S", idle_s)

    async def scene() -> None:
        async with serving(_refuse) as (port, ended):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (length, body))
            assert b" 413 " in await reader.read()
            await ended.wait()
            writer.close()

    uvloop.run(scene())
