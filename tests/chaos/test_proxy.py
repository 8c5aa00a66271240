"""The cable: passes bytes, can be cut, and can be held without either end noticing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos.proxy import Proxy
from tests.support.waiting import eventually

Exchange = Callable[[Proxy, asyncio.StreamReader, asyncio.StreamWriter, bytearray], Awaitable[None]]


@asynccontextmanager
async def cable() -> AsyncIterator[tuple[Proxy, bytearray]]:
    """A cable to a server that echoes, and all that has reached the server."""
    heard = bytearray()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1024):
            heard.extend(chunk)
            writer.write(chunk)
        writer.close()

    with tempfile.TemporaryDirectory(prefix="zc-") as directory:
        server = await asyncio.start_unix_server(echo, f"{directory}/there")
        proxy = Proxy(Path(directory, "here"), Path(directory, "there"))
        await proxy.start()
        try:
            yield proxy, heard
        finally:
            await proxy.close()
            server.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def run(exchange: Exchange) -> None:
    async def whole() -> None:
        async with cable() as (proxy, heard):
            reader, writer = await asyncio.open_unix_connection(proxy.address)
            try:
                await exchange(proxy, reader, writer, heard)
            finally:
                await hang_up(writer)

    asyncio.run(whole())


def test_bytes_pass_both_ways():
    async def exchange(proxy, reader, writer, heard):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert proxy.connections == 2

    run(exchange)


def test_a_cut_ends_the_connection_and_new_ones_pass():
    async def exchange(proxy, reader, writer, heard):
        writer.write(b"one")
        await reader.readexactly(3)
        proxy.cut()
        assert await reader.read() == b""
        await eventually(lambda: proxy.connections == 0)
        again, back = await asyncio.open_unix_connection(proxy.address)
        back.write(b"two")
        assert await again.readexactly(3) == b"two"
        await hang_up(back)

    run(exchange)


@pytest.mark.parametrize("deliver", [True, False])
def test_what_is_held_arrives_late_or_never(deliver):
    async def exchange(proxy, reader, writer, heard):
        writer.write(b"one")
        await reader.readexactly(3)
        proxy.hold()
        writer.write(b"two")
        waiting = asyncio.create_task(reader.read(3))
        # A connection made now is taken, and says nothing either.
        late, later = await asyncio.open_unix_connection(proxy.address)
        later.write(b"late")
        await eventually(lambda: proxy.connections == 3)
        assert bytes(heard) == b"one"
        assert not waiting.done()
        proxy.release(deliver=deliver)
        assert await waiting == (b"two" if deliver else b"")
        assert await late.read(4) == (b"late" if deliver else b"")
        await hang_up(later)

    run(exchange)


def test_without_a_server_a_connection_ends_at_once():
    async def exchange() -> None:
        with tempfile.TemporaryDirectory(prefix="zc-") as directory:
            proxy = Proxy(Path(directory, "here"), Path(directory, "there"))
            await proxy.start()
            reader, writer = await asyncio.open_unix_connection(proxy.address)
            assert await reader.read() == b""
            await hang_up(writer)
            await proxy.close()
            assert not proxy.address.exists()

    asyncio.run(exchange())
