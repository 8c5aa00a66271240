"""The sockets that the edge listens on, bound before anything else starts, so that an address that cannot be had is one sentence."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from broker.runtime.settings import SettingsError

#: Every network, over IPv4 and IPv6.
_EVERYWHERE = ("*", "")


def bind(host: str, port: int) -> list[socket.socket]:
    """A bound socket for each address of `host`. Raises `SettingsError` naming option, value and reason.

    `::` serves IPv4 as well, as it does in most other servers; `*` is whatever families there are.
    """
    families = _addresses(host, port)
    bound: list[socket.socket] = []
    try:
        for family, address in families:
            if host in _EVERYWHERE and family == socket.AF_INET and (socket.AF_INET6, "::") in families:
                # The socket of `::` has it.
                continue
            bound.append(_bind(family, address, bound[0].getsockname()[1] if bound else port))
    except OSError as error:
        for one in bound:
            one.close()
        raise SettingsError(_reason(host, port, error)) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL of this socket from this machine, as a person would type it."""
    host, port = bound.getsockname()[:2]
    address = ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 or not _v6_only(bound) else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open(bound: socket.socket) -> bool:
    """Whether other machines can reach this socket."""
    return not ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    if host.startswith("["):
        raise SettingsError(f"host: {host!r} is written without brackets: {host.strip('[]')}")
    try:
        found = socket.getaddrinfo(
            None if host in _EVERYWHERE else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise SettingsError(
            f"host: {host!r} is neither an address of this machine (0.0.0.0, 127.0.0.1, ::, * for every network) nor a name that can be"
            " resolved"
        ) from None
    return list(dict.fromkeys((entry[0], str(entry[4][0])) for entry in found))


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        one.bind((address, port))
        # Two processes may bind one port; that it is taken is reported here.
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def _v6_only(bound: socket.socket) -> bool:
    return bool(bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _reason(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port: {port} is in use by another process on {host or '*'}; stop that one, or choose another port"
        case errno.EACCES | errno.EPERM:
            return f"port: {port} may not be listened on by this user; choose one from 1024"
        case errno.EADDRNOTAVAIL:
            return f"host: {host!r} is not an address of this machine"
        case errno.EAFNOSUPPORT:
            return f"host: {host!r} is of a family that this machine does not have"
        case _:
            return f"host: {host!r}, port: {port} cannot be listened on: {error.strerror or error}"
