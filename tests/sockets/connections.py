"""A server of the edge's connections in this process, over an application of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from http_edge.http.connection import ConnectionProtocol


@contextlib.asynccontextmanager
async def serving(app: Any, *, keep_alive_s: int = 75) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Serve `app`; yields the port, and the event that is set once a connection has ended. `keep_alive_s`: how long one may lie idle."""
    config = uvicorn.Config(
        app, http=ConnectionProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s
    )
    config.load()
    ended = asyncio.Event()

    class Watched(ConnectionProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Watched(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(60):
        yield server.sockets[0].getsockname()[1], ended
