"""Reading requests: three encodings, one meaning; what is malformed or too much gets one 4xx; nothing is left on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from http_edge.app import FAMILIES
from http_edge.base.errors import EdgeError, ErrorResponses
from http_edge.base.limits import Limits
from http_edge.body import forms, multipart
from http_edge.body.forms import read_fields
from http_edge.body.spool import Spool
from tests.edge.form_bodies import BOUNDARY, MIB, build, field, file, left, post, read, seen


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


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
