"""A network cable of our own: passes bytes between a socket that processes connect to and the broker's real one, unix or tcp.

It knows nothing of ZMTP. It can be cut (every connection ends at once, what was under way is lost), held (connections stay open and
nothing passes, as when a cable is pulled: a half-open connection), and then let go, either delivering late what it held
or losing it. New connections made while it is held are taken and held too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

_CHUNK = 64 * 1024
_HOST = "127.0.0.1"


#: A unix socket's path, or a port of this machine.
Address = Path | int


def endpoint(address: Address) -> str:
    """As libzmq writes it."""
    return f"tcp://{_HOST}:{address}" if isinstance(address, int) else f"ipc://{address}"


class Proxy:
    """One cable; start it inside a running loop."""

    def __init__(self, address: Address, target: Address) -> None:
        self.address = address
        self._target = target
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._lines: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Ends that are open now, two for each connection."""
        return len(self._lines)

    async def start(self) -> None:
        """Listen; the socket is for this user alone."""
        umask = os.umask(0o177)
        try:
            if isinstance(self.address, int):
                self._server = await asyncio.start_server(self._connected, _HOST, self.address)
            else:
                self._server = await asyncio.start_unix_server(self._connected, self.address)
        finally:
            os.umask(umask)

    def cut(self) -> None:
        """End every connection now."""
        for line in tuple(self._lines):
            line.transport.abort()
        self._lines.clear()

    def hold(self) -> None:
        """Let nothing pass, and say nothing about it."""
        self._passing.clear()

    def release(self, *, deliver: bool) -> None:
        """Pass again what was held, or lose it and its connections."""
        if not deliver:
            self.cut()
        self._passing.set()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        self.release(deliver=False)
        for pump in tuple(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        # A transport closes its socket in the next turn of the loop.
        await asyncio.sleep(0)
        if not isinstance(self.address, int):
            self.address.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        try:
            await self._passing.wait()
            if writer.is_closing():  # cut while it was held
                return
            there_reader, there_writer = await self._connect()
        except OSError:
            # No broker: what connects to a dead socket is refused as well.
            self._forget(writer)
            return
        self._lines.add(there_writer)
        ends = (writer, there_writer)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink, ends))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, int):
            return await asyncio.open_connection(_HOST, self._target)
        return await asyncio.open_unix_connection(self._target)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, ends: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(_CHUNK):
                await self._passing.wait()
                sink.write(chunk)
                await sink.drain()
            # Held, an end does not hear that the other has gone.
            await self._passing.wait()
        for end in ends:
            self._forget(end)

    def _forget(self, line: asyncio.StreamWriter) -> None:
        self._lines.discard(line)
        line.close()
