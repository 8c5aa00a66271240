"""Protection from web pages: allowed host names (against DNS rebinding) and origins (against request forgery).

A browser sends a page's requests to every address that its machine reaches, and the page need not read the answer to have done harm. So
without API keys a request that changes something is taken only from this service's own pages, from `cors_origins`, and from programs,
which send neither `Origin` nor `Sec-Fetch-Site`. A page whose own name was made to lead here (DNS rebinding) is known by `Host`: it is
neither an address nor a name of this service. With API keys a page can do nothing, as no browser adds a key by itself; names are then
checked only if `allowed_hosts` lists them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from starlette.types import Scope

from http_edge.base.errors import EdgeError, shown
from http_edge.base.limits import CLOSE, SMALL_BODY_BYTES

#: Headers of a request by name: of one that was sent twice, the first.
Sent = Mapping[bytes, bytes]

#: Headers of the origin, the target and the end of a request: two of one contradict.
_ONCE = frozenset(
    (
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"origin",
        b"referer",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-api-key",
    )
)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._~%-]{1,32})?\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{0,5})?")
#: How an IPv4 address may be written (127.0.0.1, 127.1, 0x7f000001); no name of DNS ends in a number.
_IPV4 = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")

#: Valid values of `Host` that are remembered: a client always sends the same.
_MAX_KEPT = 256

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class WebPages:
    """Rules for hosts and origins. `own_names`: of the machine; `keyed`: API keys are required."""

    def __init__(
        self,
        *,
        allowed_hosts: Sequence[str],
        cors_origins: Sequence[str],
        public_url: str,
        own_names: Iterable[str],
        keyed: bool,
    ) -> None:
        listed = {name.lower().rstrip(".") for name in (*allowed_hosts, *own_names) if name}
        if public_url:
            listed.add((urlsplit(public_url).hostname or "").rstrip("."))
        self._any_host = "*" in allowed_hosts or (keyed and not allowed_hosts)
        self._names = {name for name in listed if not name.startswith("*")}
        self._suffixes = tuple(name[1:] for name in listed if name.startswith("*."))
        self._any_page = keyed or "*" in cors_origins
        self._origins = {origin.lower().rstrip("/") for origin in (*cors_origins, public_url) if origin}
        #: Values of `Host` that were found valid.
        self.good_hosts: set[bytes] = set()

    # ------------------------------------------------------------ every request

    def refuse(self, scope: Scope, sent: Sent) -> EdgeError | None:
        """The refusal of a head, None for a valid one: 400 for a header that must come once and did not, 421 for another service's `Host`.

        This is called for heads with a name that is not in `good_hosts`, or with a header that came twice.
        """
        try:
            self._check_head(scope, sent)
        except EdgeError as error:
            return error
        return None

    def _check_head(self, scope: Scope, sent: Sent) -> None:
        _check_once(name for name, _ in scope["headers"])
        host = sent.get(b"host")
        if host is None:
            # HTTP/1.0 has none, and health checks of load balancers use it. No browser does.
            if scope["http_version"] == "1.0":
                return
            raise EdgeError("bad_header", "Host: the header is missing", param="Host", place="header", headers=CLOSE)
        self._check_host(host.decode("latin-1"), sent)
        if len(self.good_hosts) >= _MAX_KEPT:
            self.good_hosts.clear()
        self.good_hosts.add(host)

    def _check_host(self, text: str, sent: Sent) -> None:
        match = _HOST.fullmatch(text)
        if match is None or (match[1][0] == "[" and not _is_ipv6(match[1][1:-1])):
            message = f"Host: {shown(text)} is neither a name nor an address, with or without a port"
            raise EdgeError("bad_header", message, param="Host", value=text, place="header", headers=CLOSE)
        name = match[1].lower().removesuffix(".")
        if not (self._any_host or name.startswith("[") or _is_ipv4(name) or self._is_own(name)):
            message = (
                f"Host: {shown(text)} is not a name of this service, which answers to its addresses, to localhost, and to the names in"
                " public_url and allowed_hosts"
            )
            raise EdgeError(
                "misdirected", message, param="Host", value=text, place="header", headers=close_if_large(sent)
            )

    def _is_own(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return name in self._names or name.endswith(self._suffixes)

    # ------------------------------------------------------------ requests that change something

    def check_page(self, method: str, sent: Sent) -> None:
        """Raise `EdgeError` for a request that changes something and comes from a page that may not."""
        if self._any_page:
            return
        origin, site = sent.get(b"origin"), sent.get(b"sec-fetch-site")
        if origin is not None and origin.decode("latin-1").lower() in self._origins:
            return
        if site is not None and site not in (b"same-origin", b"none"):
            raise _foreign("Sec-Fetch-Site", site, sent)
        if origin is not None:
            if not self._is_same(origin, sent):
                raise _foreign("Origin", origin, sent)
            return
        if site is None:
            self._check_silent(method, sent)

    def _check_silent(self, method: str, sent: Sent) -> None:
        """Check a request without both headers.

        A browser sends `Sec-Fetch-Site` to https and this machine only, and with a GET that it makes for `<img>` no `Origin` either.
        """
        referer = sent.get(b"referer")
        if referer is not None:
            if not self._is_same(referer, sent) and _origin_of(referer) not in self._origins:
                raise _foreign("Referer", referer, sent)
        elif method in ("GET", "HEAD") and sent.get(b"user-agent", b"").startswith(b"Mozilla/"):
            message = (
                "this request changes something, and a browser sent it without saying for which page: use a program"
            )
            raise EdgeError("forbidden", message, code="cross_site", headers=close_if_large(sent))

    def _is_same(self, url: bytes, sent: Sent) -> bool:
        """Whether a URL is of the host and port that the request is for; a proxy may have changed the scheme."""
        scheme, _, authority = _origin_of(url).partition("://")
        host = sent.get(b"host", b"").decode("latin-1").lower()
        port = _DEFAULT_PORTS.get(scheme, "")
        return bool(port and authority) and authority.removesuffix(port) == host.removesuffix(port)


def own_names(host: str) -> list[str]:
    """Return the machine's names on its network: its own, as it is, alone and with mDNS's ending, and the name that it listens on."""
    name = socket.gethostname().lower().rstrip(".")
    first = name.partition(".")[0]
    return [name, first, f"{first}.local", host]


def close_if_large(sent: Sent) -> dict[str, str]:
    """Headers of a refusal: the connection is not worth keeping for a large body that is not read."""
    length = sent.get(b"content-length", b"0").decode("latin-1")
    small = b"transfer-encoding" not in sent and length.isdecimal() and int(length[:20]) <= SMALL_BODY_BYTES
    return {} if small else CLOSE


def _check_once(names: Iterable[bytes]) -> None:
    seen: set[bytes] = set()
    for name in names:
        if name in seen and name in _ONCE:
            text = "-".join(word.capitalize() for word in name.decode("latin-1").split("-"))
            raise EdgeError(
                "bad_header", f"{text}: the header was sent twice", param=text, place="header", headers=CLOSE
            )
        seen.add(name)


def _foreign(header: str, value: bytes, sent: Sent) -> EdgeError:
    message = (
        f"{header}: {shown(value.decode('latin-1'))}: pages of other sites may not change anything here, unless cors_origins lists them"
        " (or public_url, behind a proxy that changes Host)"
    )
    return EdgeError(
        "forbidden", message, param=header, code="cross_site", place="header", headers=close_if_large(sent)
    )


def _origin_of(url: bytes) -> str:
    """Return scheme and authority of a URL in lower case; "null" and what is no URL as they are."""
    return "/".join(url.decode("latin-1").lower().split("/", 3)[:3])


def _is_ipv4(name: str) -> bool:
    if _IPV4.fullmatch(name) is None:
        return False
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
