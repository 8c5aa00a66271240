"""Where the edge may be sent: the public internet on its usual ports, by the address that was judged, and nowhere else."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest
from PIL import Image

from http_edge.base.errors import EdgeError
from http_edge.media import fetch
from http_edge.media.fetch import Fetcher
from http_edge.media.ssrf import GuardedBackend, Refused, SsrfGuard, is_public, resolve_host

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "223.255.255.255",
    "192.0.1.1",
    "198.17.255.255",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "2a00::1",
    "64:ff9b::808:808",  # NAT64 of 8.8.8.8
]
PRIVATE = [
    # IPv4: unspecified, loopback, private, CGNAT, link-local and metadata, test nets, benchmarks, multicast, reserved, broadcast
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    # IPv6: unspecified, loopback, unique-local, link-local with and without a zone, site-local, multicast, discard, documentation
    "::",
    "::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    # IPv4 in disguise: mapped, compatible, translated, NAT64 (well-known and local), 6to4, Teredo, ORCHID
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:10.0.0.1",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:20::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet_is_allowed(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_special_addresses_are_not(text: str) -> None:
    assert not is_public(ip_address(text))


def answers(*addresses: str) -> Callable[[str, int], Coroutine[Any, Any, list[str]]]:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


#: (allow, host, port, its addresses, those that may be used)
JUDGED: list[tuple[tuple[str, ...], str, int, list[str], list[str]]] = [
    ((), "a.example", 443, ["8.8.8.8"], ["8.8.8.8"]),
    ((), "a.example", 80, ["10.0.0.1", "8.8.8.8", "::1"], ["8.8.8.8"]),
    ((), "a.example", 443, ["10.0.0.1"], []),
    ((), "a.example", 8080, ["8.8.8.8"], []),
    ((), "a.example", 22, ["8.8.8.8"], []),
    (("10.0.0.0/8",), "a.example", 8080, ["10.0.0.1", "192.168.0.1"], ["10.0.0.1"]),
    (("fd00::/8",), "a.example", 443, ["fd00::1", "10.0.0.1"], ["fd00::1"]),
    (("127.0.0.1",), "localhost", 5000, ["127.0.0.1", "::1"], ["127.0.0.1"]),
    (("Files.LAN",), "files.lan.", 5000, ["10.0.0.1"], ["10.0.0.1"]),
    (("files.lan",), "x.files.lan", 80, ["10.0.0.1"], []),
]


@pytest.mark.parametrize(("allow", "host", "port", "found", "good"), JUDGED, ids=range(len(JUDGED)))
def test_hosts_are_judged_by_what_they_resolve_to(
    allow: tuple[str, ...], host: str, port: int, found: list[str], good: list[str]
) -> None:
    guard = SsrfGuard(allow, answers(*found))
    if good:
        assert asyncio.run(guard.addresses(host, port)) == good
    else:
        with pytest.raises(Refused):
            asyncio.run(guard.addresses(host, port))


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "017700000001", "0", "[::1]", "localhost"])
def test_other_spellings_of_this_machine_are_this_machine(host: str) -> None:
    try:
        found = asyncio.run(resolve_host(host.strip("[]"), 80))
    except OSError:
        return
    assert not any(is_public(ip_address(text)) for text in found)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://a.example", "a.example:80", "", "::/x"])
def test_a_bad_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an address nor a network"):
        SsrfGuard((entry,))


# ---------------------------------------------------------------- connections


class Wire(httpcore.AsyncNetworkBackend):
    """A network that notes who is called and answers what it was told to."""

    def __init__(self, *replies: bytes, dead: tuple[str, ...] = ()) -> None:
        self.replies = list(replies)
        self.dead = dead
        self.calls: list[tuple[str, int]] = []
        self.sent: list[bytes] = []
        self.tls: list[str | None] = []

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        self.calls.append((host, port))
        if host in self.dead:
            raise httpcore.ConnectError("no route")
        return Line(self, self.replies.pop(0))


class Line(httpcore.AsyncMockStream):
    def __init__(self, wire: Wire, reply: bytes) -> None:
        super().__init__([reply])
        self._wire = wire

    async def write(self, buffer: bytes, *args: Any, **kwargs: Any) -> None:
        self._wire.sent.append(buffer)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.AsyncNetworkStream:
        assert ssl_context.verify_mode == ssl.CERT_REQUIRED
        assert ssl_context.check_hostname
        self._wire.tls.append(server_hostname)
        return self


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


IMAGE = {"Content_Type": "image/png"}


def get(wire: Wire, url: str, guard: SsrfGuard | None = None, max_bytes: int = 1000) -> bytes:
    async def fetching() -> bytes:
        async with asyncio.timeout(60):
            backend = GuardedBackend(guard or SsrfGuard((), answers("8.8.8.8")), wire)
            return await Fetcher(SsrfGuard(), backend).get("image", url, kind="image", max_bytes=max_bytes)

    return asyncio.run(fetching())


def test_the_connection_goes_to_the_judged_address_under_the_urls_name() -> None:
    wire = Wire(reply(b"png", **IMAGE))
    assert get(wire, "https://pictures.example/a%20b.png?x=1&y=%2F#part") == b"png"
    assert wire.calls == [("8.8.8.8", 443)]
    assert wire.tls == ["pictures.example"]
    head = b"".join(wire.sent).decode().split("\r\n")
    assert head[0] == "GET /a%20b.png?x=1&y=%2F HTTP/1.1"
    assert "Host: pictures.example" in head
    assert "Accept-Encoding: identity" in head


def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    first = iter([["8.8.8.8"], ["127.0.0.1"]])

    async def resolve(host: str, port: int) -> list[str]:
        return next(first)

    wire = Wire(reply(status="302 Found", Location="http://rebind.example/2"), reply(b"png", **IMAGE))
    with pytest.raises(EdgeError, match="does not fetch from"):
        get(wire, "http://rebind.example/1", SsrfGuard((), resolve))
    assert wire.calls == [("8.8.8.8", 80)]


def test_the_next_address_is_tried_when_one_is_dead() -> None:
    wire = Wire(reply(b"png", **IMAGE), dead=("8.8.8.8",))
    assert get(wire, "http://a.example/", SsrfGuard((), answers("8.8.8.8", "10.0.0.1", "1.1.1.1"))) == b"png"
    assert wire.calls == [("8.8.8.8", 80), ("1.1.1.1", 80)]
    every = tuple(f"8.8.8.{n}" for n in range(9))
    wire = Wire(dead=every)
    with pytest.raises(EdgeError, match="could not be fetched: no route"):
        get(wire, "http://a.example/", SsrfGuard((), answers(*every)))
    assert len(wire.calls) == 3


def test_redirects_are_followed_and_judged_each() -> None:
    wire = Wire(
        reply(status="301 Moved", Location="//b.example/x"),
        reply(status="307 Temporary", Location="../y"),
        reply(status="303 See", Location="http://c.example"),
        reply(b"png", **IMAGE),
    )
    assert get(wire, "https://a.example/1/2") == b"png"
    assert wire.calls == [("8.8.8.8", 443)] * 3 + [("8.8.8.8", 80)]
    assert [line.split()[1] for line in wire.sent if line.startswith(b"GET")] == [b"/1/2", b"/x", b"/y", b"/"]


@pytest.mark.parametrize("host", ["xn--", "xn--a", "xn--i-7iq.ws", "xn--zzzzzzzz.example"])
def test_a_name_is_asked_for_as_it_is_written_whatever_it_decodes_to(host: str) -> None:
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[str]:
        asked.append(name)
        return ["8.8.8.8"]

    wire = Wire(reply(status="302 Found", Location=f"http://{host}/y"), reply(b"png", **IMAGE))
    assert get(wire, f"http://{host}/x", SsrfGuard((), resolve)) == b"png"
    asyncio.run(Fetcher(SsrfGuard((), resolve)).check("webhook", f"http://{host}/"))
    assert asked == [host] * 3


def test_a_trusted_name_of_another_script_is_trusted_as_urls_carry_it() -> None:
    guard = SsrfGuard(("Bücher.lan",), answers("10.0.0.1"))
    asyncio.run(Fetcher(guard).check("webhook", "http://bücher.lan:8080/"))
    assert get(Wire(reply(b"png", **IMAGE)), "http://bücher.lan:8080/", guard) == b"png"


def test_unresolvable_names_are_told() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("nobody")

    with pytest.raises(EdgeError, match="the host name cannot be resolved"):
        get(Wire(), "http://nobody.example/", SsrfGuard((), resolve))
    with pytest.raises(EdgeError, match=r"cannot be resolved|not a valid URL"):
        get(Wire(), f"http://{'x' * 70}.example/", SsrfGuard())


#: (URL, replies, words)
REFUSED: list[tuple[str, list[bytes], str]] = [
    ("ftp://a.example/x", [], "is no URL of http or https"),
    ("file:///etc/passwd", [], "is no URL of http or https"),
    ("http://", [], "is not a valid URL"),
    ("http://[::1", [], "is not a valid URL"),
    ("http://a.example:99999/", [], "is not a valid URL"),
    ("http://me:secret@a.example/", [], "holds a user name"),
    ("http://a.example/" + "x" * 9000, [], "is not a valid URL"),
    ("http://a.example:22/", [], "does not fetch from"),
    ("http://a.example/", [reply(status="404 Not Found")], "its server answered 404"),
    ("http://a.example/", [reply(status="204 No Content")], "its server answered 204"),
    ("http://a.example/", [reply(status="304 Not Modified")], "its server answered 304"),
    ("http://a.example/", [reply(status="302 Found")], "its server answered 302"),
    ("http://a.example/", [reply(status="302 Found", Location="ftp://a.example/")], "redirects to neither"),
    ("http://a.example/", [reply(status="302 Found", Location="http://me@a.example/")], "holds a user name"),
    ("http://a.example/", [reply(status="302 Found", Location="http://a.example:81/")], "does not fetch from"),
    ("http://a.example/", [reply(status="302 Found", Location="/")] * 4, "redirects more than 3 times"),
    (
        "http://a.example/",
        [reply(b"<html>", Content_Type="text/html; charset=x")],
        "is of type text/html, not an image",
    ),
    ("http://a.example/", [reply(b"x", Content_Encoding="gzip", **IMAGE)], "is sent compressed"),
    ("http://a.example/", [reply(b"x" * 1001, **IMAGE)], "is too large, at most 1000 bytes"),
    ("http://a.example/", [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001], "is too large, at most 1000 bytes"),
    ("http://a.example/", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"], "could not be fetched"),
    ("http://a.example/", [b"SSH-2.0-OpenSSH\r\n"], "could not be fetched"),
    ("http://a.example/", [b""], "could not be fetched"),
]


@pytest.mark.parametrize(("url", "replies", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_fetched_names_the_field(url: str, replies: list[bytes], words: str) -> None:
    with pytest.raises(EdgeError, match=words) as caught:
        get(Wire(*replies), url)
    assert (caught.value.kind, caught.value.param) == ("invalid_value", "image")
    assert caught.value.message.startswith('image: "')
    assert "8.8.8.8" not in caught.value.message


@pytest.mark.parametrize(
    "kind", [{}, {"Content_Type": "application/octet-stream"}, {"Content_Type": "IMAGE/webp; x=y"}]
)
def test_servers_that_know_no_type_are_taken_at_their_bytes(kind: dict[str, str]) -> None:
    assert get(Wire(reply(b"png", **kind)), "http://a.example/") == b"png"


# ---------------------------------------------------------------- a real server


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 30)).save(data, "PNG")
    return data.getvalue()


@asynccontextmanager
async def server(*replies: bytes) -> AsyncIterator[int]:
    """A server on this machine that gives each connection its reply and then waits; its port."""
    queue, writers = list(replies), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(queue.pop(0))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def test_a_trusted_server_is_fetched_from_and_others_are_not() -> None:
    async def scenario() -> None:
        async with server(reply(png(), **IMAGE)) as port:
            url = f"http://pictures.test:{port}/cat.png"
            resolve = answers("127.0.0.1")
            trusting = Fetcher(SsrfGuard(("pictures.test",), resolve))
            assert await trusting.get("image", url, kind="image", max_bytes=10_000) == png()
            with pytest.raises(EdgeError, match="does not fetch from"):
                await Fetcher(SsrfGuard((), resolve)).get("image", url, kind="image", max_bytes=10_000)

    asyncio.run(scenario())


def test_a_server_that_stops_talking_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TOTAL_S", 0.2)

    async def scenario() -> None:
        async with server(reply(png(), **IMAGE)[:-10]) as port:
            fetcher = Fetcher(SsrfGuard(("127.0.0.1",)))
            with pytest.raises(EdgeError, match="could not be fetched within"):
                await fetcher.get("image", f"http://127.0.0.1:{port}/", kind="image", max_bytes=10_000)

    asyncio.run(scenario())


def test_servers_that_hang_delay_no_other_fetch() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async def scenario() -> None:
        fetcher = Fetcher(SsrfGuard(("127.0.0.1",)))
        hung = await asyncio.start_server(hang, "127.0.0.1", 0)
        where = f"http://127.0.0.1:{hung.sockets[0].getsockname()[1]}/"
        async with server(reply(png(), **IMAGE)) as port:
            waiting = [
                asyncio.create_task(fetcher.get("image", where, kind="image", max_bytes=10_000)) for _ in range(80)
            ]
            await asyncio.wait(waiting, timeout=0)
            url = f"http://127.0.0.1:{port}/"
            assert await fetcher.get("image", url, kind="image", max_bytes=10_000) == png()
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert fetcher._hosts == {}
        hung.close()

    asyncio.run(scenario())


def test_a_large_picture_may_not_be_sent_by_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_SMALL_BYTES", 10)
    monkeypatch.setattr(fetch, "_LARGE_SILENCE_S", 0.05)

    async def scenario() -> None:
        async with server(reply(png(), **IMAGE)[:-10]) as port:
            fetcher = Fetcher(SsrfGuard(("127.0.0.1",)))
            with pytest.raises(EdgeError, match="sends too slowly"):
                await fetcher.get("image", f"http://127.0.0.1:{port}/", kind="image", max_bytes=10_000)

    asyncio.run(scenario())
