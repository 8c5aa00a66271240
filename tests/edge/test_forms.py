"""Reading requests: three encodings, one meaning; what is malformed or too much gets one 4xx; nothing is left on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from http_edge.app import FAMILIES
from http_edge.base import errors
from http_edge.base.errors import EdgeError, ErrorResponses
from http_edge.base.limits import Limits
from http_edge.body import forms, multipart, spool, upload_places
from http_edge.body.forms import Fields, read_fields
from http_edge.body.spool import Spool

MIB = 1024 * 1024


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


def left(temporary: Path) -> list[str]:
    return sorted(os.listdir(temporary)) if temporary.exists() else []


def seen(fields: Fields) -> dict[str, Any]:
    """Everything in the fields, files by their bytes."""
    return {
        "values": fields.values,
        "uploads": {
            name: [[one.field, one.file_name, one.media_type, one.size, one.path.read_bytes().hex()] for one in group]
            for name, group in fields.uploads.items()
        },
        "is_form": fields.is_form,
    }


async def show(request: Request) -> Response:
    async with await read_fields(request) as fields:
        return JSONResponse(seen(fields))


@pytest.fixture
def http(temporary: Path) -> Iterator[TestClient]:
    app = Starlette(routes=[Route("/", show, methods=["POST"])], exception_handlers=ErrorResponses(FAMILIES).handlers)
    app.state.spool = Spool(temporary, Limits(request_bytes=4 * MIB))
    with TestClient(app) as client:
        yield client
    assert left(temporary) == []


# ---------------------------------------------------------------- one meaning


#: (fields of a form in the order sent, values)
FORMS: list[tuple[list[tuple[str, str]], dict[str, Any]]] = [
    ([], {}),
    ([("prompt", "a cat"), ("seconds", "4")], {"prompt": "a cat", "seconds": "4"}),
    ([("prompt", "春 & = + % ; \r\n")], {"prompt": "春 & = + % ; \r\n"}),
    ([("empty", "")], {"empty": ""}),
    # the last of a repeated field counts
    ([("seed", "1"), ("seed", "2")], {"seed": "2"}),
    # objects
    ([("input_reference[image_url]", "http://x/y")], {"input_reference": {"image_url": "http://x/y"}}),
    ([("video[id]", "v"), ("video[x]", "y")], {"video": {"id": "v", "x": "y"}}),
    ([("a[b][c][d]", "1"), ("a[b][e]", "2")], {"a": {"b": {"c": {"d": "1"}, "e": "2"}}}),
    ([("a[b]", "1"), ("a[b]", "2")], {"a": {"b": "2"}}),
    # lists
    ([("arr[]", "1"), ("arr[]", "2")], {"arr": ["1", "2"]}),
    ([("a[b][]", "1"), ("a[b][]", "2")], {"a": {"b": ["1", "2"]}}),
    ([("t[1][x]", "1"), ("t[0][x]", "2"), ("t[1][y]", "3")], {"t": [{"x": "2"}, {"x": "1", "y": "3"}]}),
    ([("t[7][x][y]", "1"), ("t[7][x][z]", "2")], {"t": [{"x": {"y": "1", "z": "2"}}]}),
    ([("t[][x]", "1"), ("t[][y]", "2"), ("t[][x]", "3")], {"t": [{"x": "1", "y": "2"}, {"x": "3"}]}),
    # keys whose brackets mean nothing are plain
    ([("a[b", "1"), ("a]b", "2"), ("[x]", "3"), ("a[b]c", "4")], {"a[b": "1", "a]b": "2", "[x]": "3", "a[b]c": "4"}),
]


@pytest.mark.parametrize(("pairs", "values"), FORMS, ids=range(len(FORMS)))
@pytest.mark.parametrize("encoding", ["urlencoded", "multipart"])
def test_forms_mean_the_same_in_both_encodings(
    http: TestClient, encoding: str, pairs: list[tuple[str, str]], values: dict[str, Any]
) -> None:
    if encoding == "urlencoded":
        kind, body = "application/x-www-form-urlencoded", urlencode(pairs).encode()
    else:
        kind, body = f"multipart/form-data; boundary={BOUNDARY}", build([field(name, value) for name, value in pairs])
    response = http.post("/", content=body, headers={"content-type": kind})
    assert response.json() == {"values": values, "uploads": {}, "is_form": True}


BOUNDARY = "x-Boundary-7"


def field(name: str, value: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def file(name: str, file_name: str, data: bytes, kind: str = "image/png") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + data


def build(parts: list[bytes], boundary: str = BOUNDARY, end: bytes = b"--\r\n") -> bytes:
    lead = f"--{boundary}".encode()
    return b"".join(lead + b"\r\n" + part + b"\r\n" for part in parts) + lead + end


def post(http: TestClient, body: bytes, boundary: str = BOUNDARY) -> Any:
    return http.post("/", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"})


@pytest.mark.parametrize(
    "kind", ["application/json", "", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"]
)
def test_json_is_json_whatever_it_is_called(http: TestClient, kind: str) -> None:
    content = b' {"prompt": "a", "n": 2, "a[b]": 1, "n": 3}'
    response = http.post("/", content=content, headers={"content-type": kind})
    # In JSON a key is a key; brackets are of forms.
    assert response.json() == {"values": {"prompt": "a", "n": 3, "a[b]": 1}, "uploads": {}, "is_form": False}


def test_files_come_with_their_names_and_in_order(http: TestClient) -> None:
    body = build(
        [
            field("prompt", "a"),
            file("image[]", "one.png", b"1\r\n--x-Boundary-8\r\n"),
            file("image[]", "zw\u00f6lf.png", b"22", "text/html; charset=x"),
            file("image", "upload", b"", "application/octet-stream"),
            file("video[file]", "c:\\\\films\\\\v.mp4", b"v"),
            file("none", "", b""),
        ]
    )
    assert post(http, body).json() == {
        "values": {"prompt": "a"},
        "uploads": {
            "image": [
                ["image", "one.png", "image/png", 19, b"1\r\n--x-Boundary-8\r\n".hex()],
                ["image", "zwölf.png", "text/html", 2, b"22".hex()],
                ["image", "upload", "application/octet-stream", 0, ""],
            ],
            "video[file]": [["video[file]", "v.mp4", "image/png", 1, b"v".hex()]],
        },
        "is_form": True,
    }


def test_a_part_with_a_files_media_type_is_a_file_without_a_name(http: TestClient) -> None:
    def part(name: str, kind: str, data: str) -> bytes:
        return f'Content-Disposition: form-data; name="{name}"\r\nContent-Type: {kind}\r\n\r\n{data}'.encode()

    sent = [
        part("image", "image/png", "\x89PNG"),
        part("blob", "application/octet-stream", "x"),
        part("words", "text/plain; charset=utf-8", "a"),
        part("extra", "application/json", '{"a": 1}'),
        part("void", "image/png", ""),
    ]
    answer = post(http, build(sent)).json()
    assert answer["values"] == {"words": "a", "extra": '{"a": 1}'}
    assert {name: [row[1:4] for row in rows] for name, rows in answer["uploads"].items()} == {
        "image": [["", "image/png", 5]],
        "blob": [["", "application/octet-stream", 1]],
    }


def test_text_around_the_parts_and_any_chunking_change_nothing(temporary: Path) -> None:
    body = b"\r\n" + build([field("a", "1"), file("f", "n", b"x" * 100_000 + b"\r\n--"), field("b", "2")])
    body += b"an epilogue"
    for size in (1, 7, 100, 65_536, len(body)):
        # One byte at a time is slow: the middle of the file, where nothing happens, comes at once.
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        if size < 100:
            head, tail = body[:300], body[-300:]
            chunks = [*(head[at : at + size] for at in range(0, 300, size)), body[300:-300]]
            chunks += [tail[at : at + size] for at in range(0, 300, size)]
        fields = read(temporary, chunks)
        assert fields.values == {"a": "1", "b": "2"}
        assert fields.uploads["f"][0].path.read_bytes() == b"x" * 100_000 + b"\r\n--"
        assert len(left(temporary)) == 1
        fields.close()
        assert left(temporary) == []


def test_long_text_comes_whole_from_any_encoding(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "data:image/png;base64," + "ab+/" * 750_000
    for body, kind in (
        (json.dumps({"image": text}).encode(), "application/json"),
        (urlencode({"image": text}).encode(), "application/x-www-form-urlencoded"),
        (build([field("image", text), field("x", "y" * 70_000)]), f"multipart/form-data; boundary={BOUNDARY}"),
    ):
        response = http.post("/", content=body, headers={"content-type": kind})
        assert response.json()["values"]["image"] == text


def test_fields_answer_what_handlers_ask(temporary: Path) -> None:
    parts = [
        field("extra_params", ' {"a": {"b": [1, null]}}'),
        field("lora", "[1]"),
        field("broken", '{"a"'),
        field("word", "word"),
        field("url", "1"),
        field("url", "2"),
        field("arr[]", "3"),
        field("void", " "),
        file("image", "a.png", b"1"),
        file("mask", "b.png", b"1"),
        file("mask", "c.png", b"1"),
    ]
    with_form = read(temporary, [build(parts)])
    assert with_form.json_member("extra_params") == {"a": {"b": [1, None]}}
    assert with_form.json_value("lora") == [1]
    assert with_form.json_member("void") is None
    assert with_form.json_member("absent") is None
    assert (with_form.all("url"), with_form.all("arr"), with_form.all("absent")) == (["1", "2"], ["3"], [])
    assert with_form.upload("other", "image").file_name == "a.png"  # type: ignore[union-attr]
    assert with_form.upload("other") is None
    for name, words in (
        ("lora", "is not an object"),
        ("word", "nor the JSON text of one"),
        ("broken", "not valid JSON"),
    ):
        with pytest.raises(EdgeError, match=words) as caught:
            with_form.json_member(name)
        assert caught.value.param == name
    with pytest.raises(EdgeError, match=r'mask: "c.png" is one file too many: 2 came'):
        with_form.upload("mask")
    with_form.close()
    with_form.close()
    assert left(temporary) == []


# ---------------------------------------------------------------- malformed or too much


DISPOSITION = b'Content-Disposition: form-data; name="a"'

#: (body, status, words)
MALFORMED: list[tuple[bytes, int, str]] = [
    (b"", 400, "ends before the closing boundary"),
    (b"nonsense", 400, "not valid multipart"),
    (build([field("a", "1")])[:-10], 400, "ends before the closing boundary"),
    (build([file("a", "n", b"1" * 70_000)])[:-20], 400, "ends before the closing boundary"),
    (build([field("a", "1")], "other"), 400, "not valid multipart"),
    (build([b"\r\n1"]), 400, "no Content-Disposition"),
    (build([b"Content-Disposition: form-data\r\n\r\n1"]), 400, "no Content-Disposition"),
    (build([b'Content-Disposition: attachment; name="a"\r\n\r\n1']), 400, "no Content-Disposition"),
    (build([b'Content-Disposition: form-data; name=""\r\n\r\n1']), 400, "cannot name a field"),
    (build([b"no header\r\n\r\n1"]), 400, "not valid multipart"),
    (build([b"X: " + b"y" * 5000 + b"\r\n" + DISPOSITION + b"\r\n\r\n1"]), 400, "header size"),
    (build([b"X: y\r\n" * 9 + DISPOSITION + b"\r\n\r\n1"]), 400, "header count"),
    (build([DISPOSITION + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nMQ=="]), 400, "a: Content-Transfer-Encoding"),
    (build([DISPOSITION + b"\r\n\r\n\xff"]), 400, "a: it is not valid UTF-8"),
    (build([b'Content-Disposition: form-data; name="\xff"\r\n\r\n1']), 400, "name is not valid UTF-8"),
    (build([b'Content-Disposition: form-data; name="a"; filename="\xff"\r\n\r\n1']), 400, "file name is not valid"),
    (build([field("a" * 300, "1")]), 400, "more than 256 characters"),
    (build([file("a", "n" * 600, b"1")]), 400, "more than 512 characters"),
    (build([field("a[b][c][d][e][f]", "1")]), 400, "nests too deeply"),
    (build([field("a[][]", "1")]), 400, "a list in a list"),
    (build([field("a", "1"), field("a[b]", "2")]), 400, "another kind of field"),
    (build([field("a[b]", "1"), field("a", "2")]), 400, "another kind of field"),
    (build([field("a[]", "1"), field("a[b]", "2")]), 400, "another kind of field"),
    (build([field("a[b]", "1"), field("a[]", "2")]), 400, "another kind of field"),
    (build([field(f"f{n}", "1") for n in range(513)]), 413, "more than 512 fields"),
    (build([field("f[]", "1") for n in range(513)]), 413, "more than 512 fields"),
    (build([file("f", "n", b"1") for n in range(33)]), 413, "more than 32 files"),
    (build([file("f", "n", bytes(5 * MIB))]), 413, "at most 4194304"),
]


@pytest.mark.parametrize(("body", "status", "words"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_multipart_is_refused(http: TestClient, body: bytes, status: int, words: str) -> None:
    response = post(http, body)
    assert response.status_code == status
    assert words in response.json()["detail"]
    assert len(response.content) < 1000
    # What was not read is not read: the next request could begin anywhere in it.
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 300}"],
)
def test_multipart_without_a_boundary_is_refused(http: TestClient, kind: str) -> None:
    response = http.post("/", content=build([]), headers={"content-type": kind})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_form")


#: (body, status, words)
URLENCODED = [
    (b"a=%ff", 400, "a: it is not valid UTF-8"),
    (b"%ff=a", 400, "name: it is not valid UTF-8"),
    (b"=a", 400, "cannot name a field"),
    (b"a=1&a[b]=2", 400, "another kind of field"),
    (b"a=1&" * 600, 413, "more than 512 fields"),
    (b"&" * 600, 413, "more than 512 fields"),
    (b"a%00b=1", 400, "cannot name a field"),
    (b'{"a": 1', 400, "not valid JSON"),
]


@pytest.mark.parametrize(("body", "status", "words"), URLENCODED, ids=range(len(URLENCODED)))
def test_malformed_urlencoded_is_refused(http: TestClient, body: bytes, status: int, words: str) -> None:
    response = http.post("/", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert (response.status_code, words in response.json()["detail"]) == (status, True)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_text_has_a_cap_of_its_own(
    http: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str, declared: bool
) -> None:
    monkeypatch.setattr(forms, "MAX_TEXT_BYTES", MIB)
    monkeypatch.setattr(multipart, "MAX_TEXT_BYTES", MIB)
    text = "x" * (MIB + 1)
    body = {"application/json": b'{"a": "%s"}', "application/x-www-form-urlencoded": b"a=%s"}.get(kind)
    content = build([field("a", text)]) if body is None else body % text.encode()
    kind = f"{kind}; boundary={BOUNDARY}"
    response = http.post("/", content=content if declared else iter([content]), headers={"content-type": kind})
    assert response.status_code == 413
    assert "at most 1048576" in response.json()["detail"]


def test_a_compressed_body_is_refused_by_name(http: TestClient) -> None:
    response = http.post("/", content=b"{}", headers={"content-encoding": "gzip"})
    assert (response.status_code, "gzip" in response.json()["detail"]) == (400, True)


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.sampled_from([b"%", b"4", b"1", b"=", b"+", b" ", b"\n", b"%%", b"%0a", b"\0"])).map(b"".join),
    )
)
def test_percent_escapes_are_those_of_the_standard_library(raw: bytes) -> None:
    assert forms._unescaped(raw) == unquote_to_bytes(raw.replace(b"+", b" "))


# ---------------------------------------------------------------- clients and disks that misbehave


def receiver(chunks: list[bytes | str]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """ASGI's receive: bytes come, "gone" is a client that left, "stall" one that says nothing more."""
    queue = list(chunks)

    async def receive() -> dict[str, Any]:
        chunk = queue.pop(0)
        if chunk == "stall":
            await asyncio.get_running_loop().create_future()
        if chunk == "gone":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(queue)}

    return receive


def read(
    temporary: Path,
    chunks: list[bytes | str],
    kind: str = f"multipart/form-data; boundary={BOUNDARY}",
    where: Spool | None = None,
) -> Fields:
    async def reading() -> Fields:
        async with asyncio.timeout(60):
            app = SimpleNamespace(state=SimpleNamespace(spool=where or Spool(temporary)))
            scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())], "app": app}
            return await read_fields(Request(scope, receiver(chunks)))  # type: ignore[arg-type]

    return asyncio.run(reading())


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
