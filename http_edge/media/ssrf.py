"""Protection from server-side request forgery: allowed addresses for clients' URLs, and connections to a checked address alone.

Rules. A client's URL may only lead to the public internet on ports 80 and 443. The name is resolved here, every address is judged, and the
connection goes to the very address that was judged: a name that answers differently the second time gains nothing. Names of the HTTP
request and of TLS stay those of the URL. Setting `fetch_allow` lists the hosts, addresses and networks that are trusted whatever they
resolve to, on any port.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import httpx

Address = IPv4Address | IPv6Address

#: Host and port -> addresses as text. Raises `OSError` or `UnicodeError` when there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]

_PORTS = (80, 443)

#: Names looked up at once. Each waits in a thread of its own, as the event loop has only a few, and a client's name server may hang.
_LOOK_UPS = threading.BoundedSemaphore(256)

#: Addresses of a host that are tried.
_TRIED = 3

#: IPv4 that is not the public internet (IANA's special-purpose registry), and one address inside it at which a cloud's hosts talk to
#: their own virtual machines. Written out, as what Python calls global changed from version to version.
_PRIVATE_V4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)

#: All of IPv6 that is the public internet, and what in it is not: protocol assignments with Teredo and ORCHID, documentation, 6to4.
#: Loopback, mapped and compatible IPv4, unique-local, link-local, multicast and local NAT64 lie outside it.
_PUBLIC_V6 = ip_network("2000::/3")
_PRIVATE_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

#: How a network without IPv4 writes IPv4 addresses: judged by the address inside.
_NAT64 = ip_network("64:ff9b::/96")


class Refused(Exception):
    """The address, or the port, is not one that clients may send this service to."""


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, in no special range and in no form that hides another address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _PRIVATE_V6)


class SsrfGuard:
    """Judges where a connection may go. Raises `ValueError` for an entry of `allow` that is neither a host nor a network."""

    def __init__(self, allow: Sequence[str] = (), resolve: Resolve | None = None) -> None:
        self._resolve = resolve or resolve_host
        self._hosts: set[str] = set()
        self._networks = []
        for entry in allow:
            text = entry.strip().lower()
            try:
                self._networks.append(ip_network(text, strict=False))
            except ValueError:
                if "/" in text or ":" in text or not text:
                    raise ValueError(f"{entry!r} is neither a host name nor an address nor a network") from None
                self._hosts.add(_ascii(text))

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of this host that may be connected to on this port. Raises `Refused`; `OSError`, `UnicodeError`."""
        trusted = _ascii(host) in self._hosts
        found = await self._resolve(host, port)
        good = [text for text in found if trusted or self._may(ip_address(text), port)]
        if not good:
            raise Refused(host)
        return good

    def _may(self, address: Address, port: int) -> bool:
        if any(address in network for network in self._networks):
            return True
        return port in _PORTS and is_public(address)


def _ascii(host: str) -> str:
    """A host's name in lower case as URLs carry it over the network, so that a setting may be written in any script."""
    name = host.lower().rstrip(".")
    if name.isascii():
        return name
    try:
        return httpx.URL(scheme="http", host=name).raw_host.decode("ascii")
    except httpx.InvalidURL as error:
        raise ValueError(f"{host!r} is neither a host name nor an address nor a network") from error


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's access to the network behind the guard: every connection, also of a redirect, is made here."""

    def __init__(self, guard: SsrfGuard, network: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._guard = guard
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the host's good addresses. Raises `Refused`; httpcore's errors."""
        try:
            addresses = await self._guard.addresses(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the host name cannot be resolved") from error
        failure: Exception | None = None
        for address in addresses[:_TRIED]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no URL leads to a socket."""
        raise Refused(path)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


async def resolve_host(host: str, port: int) -> list[str]:
    """The system's answer, each address once. Raises `OSError`, `UnicodeError`."""
    if not _LOOK_UPS.acquire(blocking=False):
        raise OSError("too many names are being looked up")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str], error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        found: list[str] = []
        failure: Exception | None = None
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except (OSError, UnicodeError) as error:
            failure = error
        finally:
            _LOOK_UPS.release()
        # The loop may have ended before the name server answered.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, found, failure)

    # A daemon: the process ends without waiting for a name server.
    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return await answer
