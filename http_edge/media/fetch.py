"""Fetching what a client's URL names, and putting a result there, through the guard, within caps on bytes, time, redirects and kind."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import cast

import httpcore
import httpx
from msgspec import Struct

from http_edge.base.errors import EdgeError, invalid
from http_edge.media.ssrf import GuardedBackend, Refused, SsrfGuard

MAX_REDIRECTS = 3
MAX_URL_CHARS = 8192

#: The whole fetch with its redirects: the client that submits waits for it, and many no longer than 30 s.
_TOTAL_S = 20.0
_CONNECT_S = 5.0
_READ_S = 10.0

#: Limits of putting a result: as long as a slow store takes for some ten MB.
_PUT_TOTAL_S = 60.0
_PUT_READ_S = 30.0

#: Fetches at once: in all, and from one host and port, so that a server that hangs delays no other fetch.
_AT_ONCE = 64
_OF_HOST = 4

#: Fetched bytes are in memory: beyond this a fetch needs one of a few turns, and its server may not be silent for long while it has it.
_SMALL_BYTES = 1024 * 1024
_LARGE_AT_ONCE = 8
_LARGE_SILENCE_S = 3.0

_PORTS = {"http": 80, "https": 443}

_REDIRECTS = (301, 302, 303, 307, 308)

#: Content type of a server without a known one; the bytes are checked anyway.
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream", "application/binary")

#: User and password of a URL, however badly formed the rest is.
_USERINFO = re.compile(r"^([^/]*//|[a-z]+:)[^/]*@", re.IGNORECASE)


class NotSent(Exception):
    """No answer came; the text is the reason."""


class _Answer(Struct, frozen=True):
    """One answer: either where to go on, or the bytes."""

    location: str
    data: bytes = b""


class Fetcher:
    """Fetches; `backend` is the only way to the network. Proxies of the environment are not used: they would connect past the guard."""

    def __init__(self, guard: SsrfGuard, backend: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._guard = guard
        self._backend = backend or GuardedBackend(guard)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        #: Fetches from each host and port that wait or are under way, and its turns.
        self._hosts: dict[str, tuple[int, asyncio.Semaphore]] = {}
        self._tls: ssl.SSLContext | None = None

    async def get(self, field: str, text: str, *, kind: str, max_bytes: int) -> bytes:
        """The bytes behind a URL of this kind (`image`, `video`). Raises `EdgeError` naming field, URL and what went wrong."""
        name = named_url(text)
        try:
            async with asyncio.timeout(_TOTAL_S):
                if self._tls is None:
                    # Reading the certificates would delay all other requests.
                    self._tls = await asyncio.to_thread(httpx.create_ssl_context)
                url = _parse(field, name, text)
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self._request(field, name, url, kind, max_bytes)
                    if not answer.location:
                        return answer.data
                    url = _parse(field, name, answer.location, url)
        except TimeoutError:
            raise invalid(field, name, f"could not be fetched within {_TOTAL_S:.0f} s") from None
        raise invalid(field, name, f"redirects more than {MAX_REDIRECTS} times")

    async def _request(self, field: str, text: str, url: httpx.URL, kind: str, max_bytes: int) -> _Answer:
        """Send one GET."""
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", b"zoetrope"),
            (b"Accept", f"{kind}/*".encode()),
            (b"Accept-Encoding", b"identity"),
        ]
        try:
            async with self._turn_of(url), self._turns, self._sent("GET", url, headers, b"", _READ_S) as response:
                return await self._read(field, text, response, kind, max_bytes)
        except Refused:
            raise invalid(field, text, "leads to an address or port that this service does not fetch from") from None
        except httpcore.TimeoutException:
            raise invalid(field, text, "could not be fetched: its server did not answer in time") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise invalid(field, text, f"could not be fetched: {_reason(error)}") from None

    async def _read(self, field: str, text: str, response: httpcore.Response, kind: str, max_bytes: int) -> _Answer:
        """The answer's bytes, or where it leads on. Raises `EdgeError`."""
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS and headers.get(b"location"):
            return _Answer(headers[b"location"])
        if response.status != 200:
            raise invalid(field, text, f"could not be fetched: its server answered {response.status}")
        media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if not media_type.startswith(f"{kind}/") and media_type not in _UNTYPED:
            raise invalid(
                field, text, f"is of type {media_type[:80]}, not {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
            )
        if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise invalid(field, text, "is sent compressed, which was not asked for")
        length = headers.get(b"content-length", "")
        data = bytearray()
        if length.isdecimal() and int(length[:20]) > max_bytes:
            raise invalid(field, text, f"is too large, at most {max_bytes} bytes")
        stream = cast(AsyncGenerator[bytes, None], response.aiter_stream())
        async with AsyncExitStack() as held:
            await held.enter_async_context(aclosing(stream))
            large = False
            while True:
                try:
                    async with asyncio.timeout(_LARGE_SILENCE_S if large else None):
                        data += await anext(stream)
                except StopAsyncIteration:
                    return _Answer("", bytes(data))
                except TimeoutError:
                    raise invalid(field, text, "could not be fetched: its server sends too slowly") from None
                if len(data) > max_bytes:
                    raise invalid(field, text, f"is too large, at most {max_bytes} bytes")
                if not large and len(data) > _SMALL_BYTES:
                    await held.enter_async_context(self._large)
                    large = True

    @asynccontextmanager
    async def _turn_of(self, url: httpx.URL) -> AsyncIterator[None]:
        """Hold one of the turns of a URL's host and port."""
        host = f"{host_of(url).rstrip('.')}:{url.port or _PORTS[url.scheme]}"
        count, turns = self._hosts.get(host, (0, asyncio.Semaphore(_OF_HOST)))
        self._hosts[host] = count + 1, turns
        try:
            async with turns:
                yield
        finally:
            count, _ = self._hosts.pop(host)
            if count > 1:
                self._hosts[host] = count - 1, turns

    async def check(self, field: str, text: str) -> None:
        """Raise `EdgeError` for a URL to which nothing may be sent, before the work whose result is to be sent there."""
        name = named_url(text)
        url = _parse(field, name, text)
        try:
            await self._guard.addresses(host_of(url), url.port or _PORTS[url.scheme])
        except Refused:
            raise invalid(field, name, "leads to an address or port that this service does not send to") from None
        except (OSError, UnicodeError):
            raise invalid(field, name, "names a host that cannot be resolved") from None

    async def put(self, field: str, text: str, data: bytes, media_type: str) -> None:
        """Put these bytes at a URL; redirects are not followed. Raises `EdgeError` `upload_failed` unless its server answered 2xx."""
        url = _parse(field, named_url(text), text)
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", b"zoetrope"),
            (b"Content-Type", media_type.encode("ascii")),
            (b"Content-Length", str(len(data)).encode("ascii")),
        ]
        try:
            async with asyncio.timeout(_PUT_TOTAL_S), self._sent("PUT", url, headers, data, _PUT_READ_S) as response:
                status = response.status
        except Refused:
            raise _not_put(field, "it leads to an address or port that this service does not send to") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise _not_put(field, "its server did not take it in time") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise _not_put(field, _reason(error)) from None
        if not 200 <= status < 300:
            raise _not_put(field, f"its server answered {status}")

    async def post(
        self, text: str, headers: Mapping[str, str], data: bytes, total_s: float
    ) -> tuple[int, dict[str, str]]:
        """Post these bytes to a URL that `check` let pass: the answer's status and headers. Raises `NotSent` when there is none.

        Redirects are not followed, and the answer's body is not read.
        """
        async with self._posted("webhook", text, headers, data, total_s) as response:
            return response.status, {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
            }

    async def post_for_body(
        self, text: str, headers: Mapping[str, str], data: bytes, total_s: float, max_bytes: int
    ) -> tuple[int, bytes]:
        """Post these bytes to an operator's URL: the answer's status and body. Raises `NotSent`, also for one of more than `max_bytes`."""
        async with self._posted("url", text, headers, data, total_s) as response:
            answer = bytearray()
            async for part in response.aiter_stream():
                answer += part
                if len(answer) > max_bytes:
                    raise NotSent(f"its answer has more than {max_bytes} bytes")
            return response.status, bytes(answer)

    @asynccontextmanager
    async def _posted(
        self, field: str, text: str, headers: Mapping[str, str], data: bytes, total_s: float
    ) -> AsyncIterator[httpcore.Response]:
        """The response to a POST, all within `total_s`. Raises `NotSent`, and turns what goes wrong inside into one."""
        try:
            url = parse_url(field, text)
            sent = {"Host": url.netloc.decode("ascii"), "User-Agent": "zoetrope", "Content-Length": str(len(data))}
            raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in {**sent, **headers}.items()]
            async with asyncio.timeout(total_s), self._sent("POST", url, raw, data, total_s) as response:
                yield response
        except EdgeError as error:
            raise NotSent(error.message) from None
        except Refused:
            raise NotSent("it leads to an address or port that this service does not send to") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise NotSent("its server did not answer in time") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise NotSent(_reason(error)) from None

    @asynccontextmanager
    async def _sent(
        self, method: str, url: httpx.URL, headers: list[tuple[bytes, bytes]], data: bytes, patience_s: float
    ) -> AsyncIterator[httpcore.Response]:
        """The response to one request. A connection serves one request, so nothing is shared between clients' URLs."""
        if self._tls is None and url.scheme == "https":
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        limits = {"connect": _CONNECT_S, "read": patience_s, "write": patience_s, "pool": _CONNECT_S}
        request = httpcore.Request(method, target, headers=headers, content=data, extensions={"timeout": limits})
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=self._backend, max_keepalive_connections=0
        ) as pool:
            response = await pool.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()


def _reason(error: Exception) -> str:
    return str(error)[:120] or type(error).__name__


def _not_put(field: str, why: str) -> EdgeError:
    """The URL is not repeated: a presigned one is a secret."""
    return EdgeError("upload_failed", f"{field}: the result could not be uploaded: {why}", param=field)


def parse_url(field: str, text: str) -> httpx.URL:
    """The absolute http(s) URL in a field, without its fragment. Raises `EdgeError`."""
    return _parse(field, named_url(text), text)


def host_of(url: httpx.URL) -> str:
    """The host as it is requested on the network, in ASCII. `URL.host` raises for an A-label (xn--…) that decodes to nothing valid."""
    return url.raw_host.decode("ascii")


def named_url(text: str) -> str:
    """A URL as errors and logs may name it: without user, password and query, each of which can be a secret."""
    place, query, _ = text.partition("?")
    return _USERINFO.sub(r"\1…@", place.partition("#")[0]) + ("?…" if query else "")


def _parse(field: str, text: str, location: str, base: httpx.URL | None = None) -> httpx.URL:
    """The absolute http(s) URL meant; errors call it `text`. Raises `EdgeError`."""
    try:
        url = base.join(location) if base is not None else httpx.URL(location)
        if url.scheme not in ("http", "https"):
            raise invalid(
                field, text, "is no URL of http or https" if base is None else "redirects to neither http nor https"
            )
        if not url.raw_host or len(location) > MAX_URL_CHARS or not 0 < (url.port or 80) < 65_536:
            raise invalid(field, text, "is not a valid URL")
        if url.userinfo:
            raise invalid(field, text, "holds a user name, which is not supported")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise invalid(field, text, "is not a valid URL") from None
    return url.copy_with(fragment=None)
