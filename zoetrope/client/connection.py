"""Carrying out flows over httpx: `Connection` blocks, `AsyncConnection` awaits."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx

from zoetrope.client.errors import ClientClosed, NotThisService, ZoetropeError
from zoetrope.client.requests import Address, Reply, Request
from zoetrope.client.steps import Close, ConnectionBroken, Emit, Flow, Notify, Open, Read, Send, Sleep, Step, Walk

T = TypeVar("T")
H = TypeVar("H", httpx.Client, httpx.AsyncClient)

#: Seconds until a connection is there.
_CONNECT_S = 5.0


def _options(place: Address) -> dict[str, Any]:
    """Options of both of httpx's clients."""
    # A proxy of the environment does not lead to this machine.
    return {"base_url": place.url, "headers": place.headers, "trust_env": not place.is_local, "follow_redirects": False}


def _made(kind: type[H], place: Address, transport: Any) -> H:
    """Make one of httpx's clients. Raises `ZoetropeError` for a proxy, or certificates, of the environment that cannot be used."""
    try:
        return kind(transport=transport, **_options(place))
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise ZoetropeError(f"the proxy or the certificates of the environment cannot be used: {error}") from error


def _built(http: httpx.Client | httpx.AsyncClient, request: Request, opened: ExitStack) -> httpx.Request:
    """Write a request. Raises `ClientClosed`, and `ZoetropeError` for a file, field or path that cannot be written."""
    if http.is_closed:
        raise ClientClosed("the client was closed; make another one")
    try:
        return http.build_request(**_arguments(request, opened))
    except (OSError, TypeError, ValueError, httpx.InvalidURL) as error:
        raise ZoetropeError(f"{request.method} {request.path[:80]} cannot be written: {error}") from error


def _arguments(request: Request, opened: ExitStack) -> dict[str, Any]:
    """httpx's words for a request; its files are opened, anew for every try."""
    files = []
    for part in request.files:
        source = part.source
        if isinstance(source, Path):
            source = opened.enter_context(source.open("rb"))
        elif hasattr(source, "seek"):
            source.seek(0)
        files.append((part.field, (part.name, source, part.media_type)))
    body = {} if request.fields is None else {"data" if files else "json": request.fields}
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "headers": request.headers,
        "timeout": httpx.Timeout(request.timeout_s, connect=min(_CONNECT_S, request.timeout_s)),
        **({"files": files} if files else {}),
        **body,
    }


def _reply(response: httpx.Response, *, read: bool) -> Reply:
    return Reply(status=response.status_code, headers=dict(response.headers), body=response.content if read else b"")


def _broken(base: str, error: httpx.RequestError) -> ConnectionBroken | NotThisService:
    if not isinstance(error, httpx.TransportError):
        return NotThisService(f"the answer of {base} cannot be read: {error}")
    never = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
    why = str(error) or type(error).__name__
    return ConnectionBroken(f"the service at {base} cannot be reached: {why}", sent=not isinstance(error, never))


class _Session:
    """Carries out the steps of one flow, blocking."""

    def __init__(self, http: httpx.Client, base: str) -> None:
        self._http = http
        self._base = base
        self._stream: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def do(self, step: Step) -> Any:
        """The outcome of a step. Raises `ConnectionBroken`, and `ZoetropeError` for what another try would not mend."""
        try:
            match step:
                case Send(request):
                    with ExitStack() as opened:
                        return _reply(self._http.send(_built(self._http, request, opened)), read=True)
                case Open(request):
                    self.close()
                    with ExitStack() as opened:
                        response = self._http.send(_built(self._http, request, opened), stream=True)
                    self._stream, self._chunks = response, response.iter_bytes()
                    if response.status_code >= 400:
                        response.read()
                    return _reply(response, read=response.status_code >= 400)
                case Read():
                    return next(self._chunks, None)
                case Close():
                    self.close()
                case Sleep(seconds):
                    time.sleep(seconds)
                case Notify(callback, value):
                    callback(value)
        except httpx.RequestError as error:
            self.close()
            raise _broken(self._base, error) from error
        return None

    def close(self) -> None:
        """Close the open stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _AsyncSession:
    """Carries out the steps of one flow, awaiting."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self._http = http
        self._base = base
        self._stream: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def do(self, step: Step) -> Any:
        """The outcome of a step. Raises `ConnectionBroken`, and `ZoetropeError` for what another try would not mend."""
        try:
            match step:
                case Send(request):
                    with ExitStack() as opened:
                        return _reply(await self._http.send(_built(self._http, request, opened)), read=True)
                case Open(request):
                    await self.close()
                    with ExitStack() as opened:
                        response = await self._http.send(_built(self._http, request, opened), stream=True)
                    self._stream, self._chunks = response, response.aiter_bytes()
                    if response.status_code >= 400:
                        await response.aread()
                    return _reply(response, read=response.status_code >= 400)
                case Read():
                    return await anext(self._chunks, None) if self._chunks is not None else None
                case Close():
                    await self.close()
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Notify(callback, value):
                    returned = callback(value)
                    if inspect.isawaitable(returned):
                        await returned
        except httpx.RequestError as error:
            await self.close()
            raise _broken(self._base, error) from error
        return None

    async def close(self) -> None:
        """Close the open stream."""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None


class Connection:
    """The connections to one service, blocking. Raises what the flows raise."""

    def __init__(self, place: Address, transport: httpx.BaseTransport | None) -> None:
        self._http = _made(httpx.Client, place, transport)
        self._base = place.url

    def close(self) -> None:
        """Close all."""
        self._http.close()

    def iterate(self, flow: Flow[Any]) -> Iterator[Any]:
        """Emit what a flow emits."""
        return self._walk(Walk(flow))

    def _walk(self, walk: Walk[Any]) -> Iterator[Any]:
        session = _Session(self._http, self._base)
        try:
            step = walk.give()
            while step is not None:
                if isinstance(step, Emit):
                    yield step.item
                    step = walk.give()
                    continue
                try:
                    outcome = session.do(step)
                except ConnectionBroken as error:
                    step = walk.fail(error)
                else:
                    step = walk.give(outcome)
        finally:
            session.close()

    def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        walk = Walk(flow)
        for _ in self._walk(walk):
            pass
        return walk.result


class AsyncConnection:
    """The connections to one service, awaited. Raises what the flows raise."""

    def __init__(self, place: Address, transport: httpx.AsyncBaseTransport | None) -> None:
        self._http = _made(httpx.AsyncClient, place, transport)
        self._base = place.url

    async def close(self) -> None:
        """Close all."""
        await self._http.aclose()

    def iterate(self, flow: Flow[Any]) -> AsyncIterator[Any]:
        """Emit what a flow emits."""
        return self._walk(Walk(flow))

    async def _walk(self, walk: Walk[Any]) -> AsyncIterator[Any]:
        session = _AsyncSession(self._http, self._base)
        try:
            step = walk.give()
            while step is not None:
                if isinstance(step, Emit):
                    yield step.item
                    step = walk.give()
                    continue
                try:
                    outcome = await session.do(step)
                except ConnectionBroken as error:
                    step = walk.fail(error)
                else:
                    step = walk.give(outcome)
        finally:
            await session.close()

    async def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        walk = Walk(flow)
        async for _ in self._walk(walk):
            pass
        return walk.result
