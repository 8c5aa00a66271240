"""The ceiling of HTTP here: one Starlette application that does nothing, served as the edge is.

Run as `python -m bench.suites.bare_http --port N --bytes N`. `/status` answers JSON of the given size; `/events` is a stream that sends
every change of one counter, which `POST /step` raises.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


class Bare:
    """Handlers that answer from memory. `size`: bytes of a status answer; `event`: bytes of an event."""

    def __init__(self, size: int, event: int) -> None:
        self._body = b"{" + b" " * max(0, size - 2) + b"}"
        self._event = b"data: " + b"x" * max(0, event - 8) + b"\n\n"
        self._changed = asyncio.Event()

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/status", self.status),
            Route("/events", self.events),
            Route("/step", self.step, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def status(self, request: Request) -> Response:
        """JSON of the given size."""
        return Response(self._body, media_type="application/json")

    async def step(self, request: Request) -> Response:
        """Wake every stream."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return Response(b"")

    async def events(self, request: Request) -> Response:
        """A stream without an end."""
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        while True:
            await self._changed.wait()
            yield self._event


def main(argv: Sequence[str]) -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.suites.bare_http", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bytes", type=int, default=600)
    parser.add_argument("--event", type=int, default=200)
    arguments = parser.parse_args(argv)
    app = Bare(arguments.bytes, arguments.event).app()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
