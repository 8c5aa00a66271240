"""Connections that are used again: requests that offer another protocol, and bodies that come behind their answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from tests.sockets.connections import serving

_OFFER = (
    b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)
_PLAIN = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
_BODY = b"0123456789" * 20_000


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the body of the request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await _answer(send, scope["path"].encode() + b" " + body)


async def _early(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading the body."""
    await _answer(send, scope["path"].encode())


async def _answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return await reader.readexactly(length)


@pytest.mark.parametrize(
    ("head", "sent", "body"),
    [
        (b"POST /first HTTP/1.1\r\n%sContent-Length: 3\r\n\r\n" % _OFFER, b"abc", b"abc"),
        (b"POST /first HTTP/1.1\r\nContent-Length: 0\r\n%s\r\n" % _OFFER, b"", b""),
        (b"POST /first HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%s\r\n" % _OFFER, b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"PUT /first HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (_OFFER, len(_BODY)), _BODY, _BODY),
        (b"GET /first HTTP/1.1\r\n%s\r\n" % _OFFER, b"", b""),
        (b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"", b""),
    ],
    ids=["length", "empty", "chunked", "large", "no body", "websocket"],
)
@pytest.mark.parametrize("pieces", ["at once", "head first", "bytes"])
def test_a_request_that_offers_another_protocol_is_answered_with_its_body(
    head: bytes, sent: bytes, body: bytes, pieces: str
) -> None:
    """And so are those behind it, with the offer again and without."""

    async def scene() -> None:
        async with serving(_echo) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            request = head + sent
            if pieces == "at once":
                writer.write(request + request + _PLAIN)
            else:
                for part in [head[n : n + 1] for n in range(len(head))] if pieces == "bytes" else [head]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(sent + request + _PLAIN)
            answers = [await _read(reader) for _ in range(3)]
            assert answers == [b"/first " + body, b"/first " + body, b"/plain "]
            writer.close()

    uvloop.run(scene())


def test_many_offers_in_one_piece_are_all_answered() -> None:
    async def scene() -> None:
        async with serving(_echo) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 2000)
            assert {await _read(reader) for _ in range(2000)} == {b"/ "}
            writer.close()

    uvloop.run(scene())


def test_a_body_that_trickles_in_behind_its_answer_does_not_hold_the_connection() -> None:
    async def scene() -> None:
        async with serving(_early, keep_alive_s=1) as (port, ended):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
            assert await _read(reader) == b"/early"
            while not ended.is_set():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            writer.close()

    uvloop.run(scene())


def test_a_connection_is_used_again_behind_a_body_that_came_after_its_answer() -> None:
    async def scene() -> None:
        async with serving(_early) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
            assert await _read(reader) == b"/early"
            writer.write(b"abc" + _PLAIN)
            assert await _read(reader) == b"/plain"
            writer.close()

    uvloop.run(scene())
