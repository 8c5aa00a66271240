"""Address at which the leader of a group over several machines waits for the others, and the network device that leads there."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from broker.runtime.settings import SettingsError, check_endpoint


class AddressMissing(SettingsError):
    """The address is not this machine's, or not to be had: as it is now, which may change."""


_EVERYWHERE = ("0.0.0.0", "::", "*")


def host_and_port(name: str, endpoint: str) -> tuple[str, int]:
    """Host and port of `endpoint`. Raises `SettingsError` naming the option `name`."""
    if not endpoint.startswith("tcp://"):
        raise SettingsError(f"{name}: {endpoint!r} must be tcp://ADDRESS:PORT, as tcp://10.0.0.1:29400")
    check_endpoint(name, endpoint)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    if host in _EVERYWHERE:
        raise SettingsError(
            f"{name}: {endpoint!r} is every address of a machine; give the one of the leader by which the others reach it"
        )
    return host, int(port)


def own_address(name: str, host: str) -> str:
    """The numeric address of a name that is this machine's. Raises `AddressMissing`."""
    try:
        family, _, _, _, found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((found[0], 0))
    except OSError as error:
        raise AddressMissing(f"{name}: {host!r} is no address of this machine: {error.strerror or error}") from None
    return str(found[0])


def device_of(address: str) -> str:
    """The network device with this numeric address; "": none has it."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        # The system has all of 127.0.0.0/8, and names one.
        return next((name for name, own in psutil.net_if_addrs().items() if _has(own, "127.0.0.1")), "")
    return next((name for name, own in psutil.net_if_addrs().items() if _has(own, address)), "")


def _has(addresses: list[object], wanted: str) -> bool:
    return any(str(getattr(one, "address", "")).partition("%")[0] == wanted for one in addresses)


def address_towards(host: str, port: int) -> str:
    """The numeric address from which this machine reaches that host. Raises `OSError`. Nothing is sent."""
    family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
