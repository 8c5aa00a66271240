"""Reading requests of clients that stall, leave or send anything at all, and with a disk that is full: nothing is left on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from http_edge.base import errors
from http_edge.base.errors import EdgeError
from http_edge.base.limits import Limits
from http_edge.body import spool, upload_places
from http_edge.body.forms import Fields, read_fields
from http_edge.body.json_body import read_object
from http_edge.body.spool import Spool
from tests.edge.form_bodies import BOUNDARY, MIB, build, field, file, left, read, receiver
from tests.support.waiting import eventually


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


HALF = build([field("a", "1"), file("f", "n", bytes(3 * MIB))])[: 2 * MIB]
#: The beginnings of two bodies: one on disk already, one not.
BEGINNINGS = [
    ([HALF], f"multipart/form-data; boundary={BOUNDARY}"),
    ([b'{"a": "', bytes(3 * MIB)], "application/json"),
    ([b'{"a": "'], "application/json"),
    ([b"a=", b"x" * (3 * MIB)], "application/x-www-form-urlencoded"),
]


@pytest.mark.parametrize(("chunks", "kind"), BEGINNINGS, ids=range(len(BEGINNINGS)))
def test_a_client_gone_in_the_middle_leaves_no_file(temporary: Path, chunks: list[bytes | str], kind: str) -> None:
    with pytest.raises(ClientDisconnect):
        read(temporary, [*chunks, "gone"], kind)
    assert left(temporary) == []


@pytest.mark.parametrize(("chunks", "kind"), BEGINNINGS, ids=range(len(BEGINNINGS)))
def test_a_silent_client_is_timed_out_and_leaves_no_file(temporary: Path, chunks: list[bytes | str], kind: str) -> None:
    with pytest.raises(EdgeError, match=r"nothing came for 0.05 s") as caught:
        read(temporary, [*chunks, "stall"], kind, Spool(temporary, Limits(idle_s=0.05)))
    assert (caught.value.kind, errors.TABLE[caught.value.kind].status) == ("request_timeout", 408)
    assert left(temporary) == []


def test_a_trickle_is_timed_out_although_it_never_stops(temporary: Path) -> None:
    with pytest.raises(EdgeError, match="it did not arrive within") as caught:
        read(temporary, [HALF, *[b"x"] * 1000, "stall"], where=Spool(temporary, Limits(total_s=0.2)))
    assert caught.value.kind == "request_timeout"
    assert left(temporary) == []


def test_a_cancelled_request_leaves_no_file(temporary: Path) -> None:
    async def scenario() -> None:
        app = SimpleNamespace(state=SimpleNamespace(spool=Spool(temporary)))
        kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)], "app": app}
        arrived = asyncio.Event()
        inner = receiver([HALF, "stall"])

        async def receive() -> dict[str, Any]:
            if left(temporary):
                arrived.set()
            return await inner()

        reading = asyncio.create_task(read_fields(Request(scope, receive)))  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            await arrived.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(scenario())
    assert left(temporary) == []


def test_a_full_disk_is_507_before_and_while_writing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Spool(temporary, free_bytes=lambda path: 100 * MIB)
    with pytest.raises(EdgeError, match="disk is full") as caught:
        read(temporary, [HALF, "stall"], where=full)
    assert (caught.value.kind, errors.TABLE["disk_full"].status) == ("disk_full", 507)

    def refuse(descriptor: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(EdgeError, match="disk is full"):
        read(temporary, [HALF, "stall"])
    assert left(temporary) == []


def test_uploads_at_once_are_bounded(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_places, "AT_ONCE", 0)
    with pytest.raises(EdgeError, match="too many uploads") as caught:
        read(temporary, [HALF, "stall"])
    assert (caught.value.kind, caught.value.retry_after_s > 0) == ("busy", True)


def test_a_slow_upload_is_told_that_its_place_was_needed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_places, "AT_ONCE", 1)
    monkeypatch.setattr(upload_places, "_NEW_S", 0.0)
    monkeypatch.setattr(upload_places, "_QUICK_BYTES_PER_S", math.inf)

    async def scenario() -> None:
        app = SimpleNamespace(state=SimpleNamespace(spool=Spool(temporary)))
        kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)], "app": app}
        held = asyncio.Event()
        inner = receiver([HALF, "stall"])

        async def receive() -> dict[str, Any]:
            if left(temporary):
                held.set()
            return await inner()

        slow = asyncio.create_task(read_fields(Request(scope, receive)))  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            await held.wait()
            async with await read_fields(Request(scope, receiver([build([field("a", "1")])]))) as fields:  # type: ignore[arg-type]
                assert fields.values["a"] == "1"
            with pytest.raises(EdgeError, match="its place was given to another") as caught:
                await slow
        assert caught.value.kind == "request_timeout"

    asyncio.run(scenario())
    assert left(temporary) == []


def test_large_bodies_in_memory_wait_for_each_other(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_LARGE_WAIT_S", 0.05)
    body = [b'{"a": "', b"x" * (3 * MIB), b'"}']

    async def scenario() -> None:
        where = Spool(temporary)
        app = SimpleNamespace(state=SimpleNamespace(spool=where))
        scope = {"type": "http", "method": "POST", "headers": [], "app": app}

        async def one() -> Fields:
            return await read_fields(Request(scope, receiver(list(body))))  # type: ignore[arg-type]

        async with asyncio.timeout(60):
            held = [await one() for _ in range(spool.LARGE_AT_ONCE)]
            with pytest.raises(EdgeError, match="too many large requests"):
                await one()
            held[0].close()
            held[0] = await one()
        for fields in held:
            fields.close()

    asyncio.run(scenario())
    assert left(temporary) == []


def test_small_bodies_that_do_not_come_on_leave_memory_to_others(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what all may have in memory together, a small body goes over the disk, and one that must not is refused for now."""
    monkeypatch.setattr(spool, "ARRIVING_BYTES", 3 * MIB)
    value = "x" * MIB
    body = [b'{"a": "', value.encode(), b'"}']

    async def scenario() -> None:
        app = SimpleNamespace(state=SimpleNamespace(spool=Spool(temporary)))
        scope = {"type": "http", "method": "POST", "headers": [], "app": app}

        def request(chunks: list[bytes | str]) -> Request:
            return Request(scope, receiver(list(chunks)))  # type: ignore[arg-type]

        async with asyncio.timeout(60):
            stalled = [asyncio.ensure_future(read_fields(request([*body[:2], "stall"]))) for _ in range(10)]
            await eventually(lambda: len(left(temporary)) >= 7 or None)
            with pytest.raises(EdgeError) as refused:
                await read_object(request(body))  # type: ignore[arg-type]
            assert refused.value.kind == "busy"
            assert (await read_object(request([b'{"a": 1}']))) == {"a": 1}
            fields = await read_fields(request(body))  # type: ignore[arg-type]
            assert fields.values == {"a": value}
            fields.close()
            for one in stalled:
                one.cancel()
            await asyncio.gather(*stalled, return_exceptions=True)
            assert (await read_object(request(body))) == {"a": value}  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert left(temporary) == []


def test_what_a_killed_process_left_is_removed_by_age(temporary: Path) -> None:
    where = Spool(temporary)
    assert where.sweep(0.0) == 0
    old, new = where.create(), where.create()
    os.utime(old.path, (1000, 1000))
    assert where.sweep(os.stat(new.path).st_mtime) == 1
    assert left(temporary) == [new.path.name]
    old.discard()
    new.discard()


# ---------------------------------------------------------------- anything at all


PIECES = st.sampled_from(
    [
        b"--x-Boundary-7",
        b"\r\n",
        b"--",
        b'Content-Disposition: form-data; name="a"',
        b'Content-Disposition: form-data; name="f"; filename="n"',
        b"Content-Type: image/png",
        b": ",
        b"\r",
        b"\n",
        b"\0",
        b"\xff",
        b"x" * 100,
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=25).map(b"".join), cut=st.integers(1, 50))
def test_any_multipart_body_is_read_or_refused_and_leaves_nothing(tmp_path: Path, data: bytes, cut: int) -> None:
    chunks: list[bytes | str] = [data[at : at + cut] for at in range(0, len(data), cut)] or [b""]
    with contextlib.suppress(EdgeError):
        read(tmp_path, chunks).close()
    assert left(tmp_path) == []


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
NAMES = st.text("abcde_", min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(NAMES, TEXT, max_size=5),
    files=st.dictionaries(NAMES, st.binary(max_size=300), max_size=3),
    cut=st.integers(1, 400),
)
def test_any_fields_and_files_come_back_as_they_were(
    tmp_path: Path, values: dict[str, str], files: dict[str, bytes], cut: int
) -> None:
    if any(f"--{BOUNDARY}".encode() in data for data in files.values()):
        return
    body = build([*(field(*item) for item in values.items()), *(file(name, "n", data) for name, data in files.items())])
    fields = read(tmp_path, [body[at : at + cut] for at in range(0, len(body), cut)])
    assert fields.values == values
    assert {name: one.path.read_bytes() for name, (one,) in fields.uploads.items()} == files
    fields.close()
    assert left(tmp_path) == []
