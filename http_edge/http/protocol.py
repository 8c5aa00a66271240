"""uvicorn's HTTP protocol with less to do for each request: one timer of a connection's idleness, which is moved when it rings; no
callback when a request's task ends; and no layer that reads a proxy's headers for requests that have none.
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from http_edge.http.answering import Answering

#: Answer to what is no HTTP.
_NO_HTTP = "Invalid HTTP request received."


class LeanProtocol(HttpToolsProtocol):
    """One connection. It is no websocket's, and has no cap of the server's on connections."""

    #: Since when nothing is asked, by the loop's clock; None while a request is read or answered.
    _idle_since: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    #: Whether a header of the request names what a proxy passed on.
    _is_forwarded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app
        self._direct_app = app.app if isinstance(app, ProxyHeadersMiddleware) else app

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self.logger.warning(_NO_HTTP)
            self.send_400_response(_NO_HTTP)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name.startswith(b"x-forwarded-"):
            self._is_forwarded = True
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        cycle = self.cycle = Answering(
            scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            asyncio.Event(),
            self.expect_100_continue,
            version != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
        )
        app = self.app if self._is_forwarded else self._direct_app
        self._is_forwarded = False
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            # It came before the one before it was answered.
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        assert isinstance(cycle, Answering)
        cycle.task = self.loop.create_task(self._answer(cycle, app))
        self.tasks.add(cycle.task)

    async def _answer(self, cycle: Answering, app: ASGI3Application) -> None:
        """Run the application. The server waits for the task before it stops."""
        try:
            await cycle.run_asgi(app)
        finally:
            # A callback of the task would be one more turn of the loop.
            self.tasks.discard(cycle.task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_if_idle)

    def _look_if_idle(self) -> None:
        """End a connection that was idle for as long as it may be; look again when it may have been."""
        self._idle_timer = None
        if self._idle_since is None:
            return
        due_at = self._idle_since + self.timeout_keep_alive
        if self.loop.time() < due_at:
            self._idle_timer = self.loop.call_at(due_at, self._look_if_idle)
        elif not self.transport.is_closing():
            self.transport.close()
