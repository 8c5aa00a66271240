"""The address that the edge listens on: what can be given, and one sentence for what cannot."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.runtime.settings import SettingsError
from http_edge import cli, listening
from http_edge.base.settings import EdgeSettings


def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "reached", "open_to_others"),
    [
        ("127.0.0.1", {"127.0.0.1"}, False),
        ("localhost", {"127.0.0.1"}, False),
        ("::1", {"::1"}, False),
        ("0.0.0.0", {"127.0.0.1"}, True),
        ("::", {"127.0.0.1", "::1"}, True),
        ("*", {"127.0.0.1", "::1"}, True),
    ],
)
def test_what_a_host_serves(host: str, reached: set[str], open_to_others: bool) -> None:
    sockets = listening.bind(host, 0)
    try:
        port = sockets[0].getsockname()[1]
        assert {one.getsockname()[1] for one in sockets} == {port}
        assert {address for address in ("127.0.0.1", "::1") if reaches(address, port)} >= reached
        assert any(map(listening.is_open, sockets)) is open_to_others
        assert listening.url_of(sockets[0]) in (f"http://127.0.0.1:{port}", f"http://[::1]:{port}")
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("[::1]", "host: '[::1]' is written without brackets: ::1"),
        ("no such host", "host: 'no such host' is neither an address"),
        ("host.invalid", "host: 'host.invalid' is neither an address"),
        ("203.0.113.77", "host: '203.0.113.77' is not an address of this machine"),
        ("x" * 300, "is neither an address"),
        ("127.0.0.1:8000", "host: '127.0.0.1:8000' is neither an address"),
    ],
)
def test_a_host_that_is_none_of_ours_is_one_sentence(host: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        listening.bind(host, 0)
    assert words in str(caught.value)
    assert "Errno" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "*"])
def test_a_port_that_is_taken_ends_the_edge_with_one_line(
    host: str, taken: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--home", str(tmp_path / "z"), "--host", host, "--port", str(taken)]
    assert cli.main(flags, {}) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f"http_edge: port: {taken} is in use by another process")


@pytest.mark.parametrize(("host", "keys", "lines"), [("0.0.0.0", "", 1), ("0.0.0.0", "k", 0), ("127.0.0.1", "", 0)])
def test_an_open_port_without_keys_is_said_once(
    host: str, keys: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    sockets = listening.bind(host, 0)
    with caplog.at_level(logging.WARNING):
        cli._warn_if_open(EdgeSettings(host=host, keys_file=keys), sockets)
    for one in sockets:
        one.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * lines
