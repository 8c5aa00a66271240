"""OpenAI's Files API: what is uploaded is there for every edge, until it is deleted or expires."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from http_edge.media.uploads import Uploads, is_file_id
from tests.edge.conftest import World


def put(world: World, data: bytes = b"some bytes", name: str = "notes.txt", **fields: str) -> dict[str, Any]:
    response = world.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "user_data", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def directory(world: World) -> Path:
    return world.edge.settings.uploads_path / "files"


def test_a_file_is_kept_as_openai_shows_it(world: World) -> None:
    record = put(world, b"x" * 100_000, "my notes.txt", purpose="vision")
    assert is_file_id(record["id"])
    assert record.pop("created_at") > 1_700_000_000
    assert record == {
        "id": record["id"],
        "object": "file",
        "bytes": 100_000,
        "expires_at": None,
        "filename": "my notes.txt",
        "purpose": "vision",
        "status": "processed",
        "status_details": None,
    }
    shown = world.http.get(f"/v1/files/{record['id']}").json()
    assert {**shown, "created_at": None} == {**record, "created_at": None}
    assert os.listdir(world.edge.settings.uploads_path / "tmp") == []
    assert {path.stat().st_mode & 0o077 for path in directory(world).iterdir()} == {0}


def test_its_bytes_are_an_attachment_with_ranges(world: World) -> None:
    data = bytes(range(256)) * 10
    record = put(world, data, '<b>"x".html')
    url = f"/v1/files/{record['id']}/content"
    whole = world.http.get(url)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["content-disposition"].startswith("attachment; ")
    # The test's client writes a quote as browsers do.
    assert "filename*=utf-8''%3Cb%3E%22x%22.html" in whole.headers["content-disposition"]
    assert whole.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    part = world.http.get(url, headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, data[1:4])
    assert world.http.head(url).headers["content-length"] == str(len(data))


@pytest.mark.parametrize("name", ["/etc/passwd", "..\\..\\x.png", "a/b/c.png"])
def test_a_name_is_only_a_name(world: World, name: str) -> None:
    assert put(world, name=name)["filename"] == name.replace("\\", "/").rsplit("/", 1)[1]


def test_lists_are_paged_in_both_orders_and_by_purpose(world: World) -> None:
    ids = [put(world, purpose="vision" if n % 2 else "user_data")["id"] for n in range(5)]
    page = world.http.get("/v1/files", params={"limit": 2}).json()
    assert [file["id"] for file in page["data"]] == ids[:2:-1]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[4], ids[3])
    rest = world.http.get("/v1/files", params={"after": page["last_id"]}).json()
    assert [file["id"] for file in rest["data"]] == ids[2::-1]
    assert not rest["has_more"]
    oldest = world.http.get("/v1/files", params={"order": "asc", "purpose": "vision"}).json()
    assert [file["id"] for file in oldest["data"]] == ids[1::2]
    assert world.http.get("/v1/files", params={"after": "file-nobody"}).json()["data"] == []


def test_any_edge_answers_for_it_and_a_deleted_file_is_gone(open_edge: Callable[..., World]) -> None:
    first, second = open_edge(), open_edge()
    record = put(first)
    url = f"/v1/files/{record['id']}"
    assert second.http.get(f"{url}/content").content == b"some bytes"
    assert second.http.delete(url).json() == {"id": record["id"], "object": "file", "deleted": True}
    for response in (first.http.get(url), first.http.get(f"{url}/content"), first.http.delete(url)):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert os.listdir(directory(first)) == []


def test_a_file_expires_when_it_was_told_to(world: World) -> None:
    record = put(world, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert record["expires_at"] == record["created_at"] + 3600
    store = Uploads(directory(world))
    assert store.get(record["id"], record["expires_at"] - 1) is not None
    assert store.get(record["id"], record["expires_at"] + 1) is None
    assert store.sweep(record["expires_at"] - 1) == 0
    assert store.sweep(record["expires_at"] + 1) == 1
    assert os.listdir(directory(world)) == []


def test_what_a_crash_left_is_swept_and_records_that_are_none_are_no_files(world: World) -> None:
    record = put(world)
    store = Uploads(directory(world))
    half = directory(world) / f"file-{'0' * 24}.data"
    half.write_bytes(b"x")
    assert store.sweep(half.stat().st_mtime + 60) == 0
    assert store.sweep(half.stat().st_mtime + 7200) == 1
    broken = directory(world) / f"{record['id']}.json"
    broken.write_bytes(b"\xff{")
    assert world.http.get(f"/v1/files/{record['id']}").status_code == 404
    assert world.http.get("/v1/files").json()["data"] == []


#: (files, fields, status, field blamed, words)
REFUSED: list[tuple[dict[str, Any], dict[str, str], int, str | None, str]] = [
    ({}, {"purpose": "vision"}, 422, "file", "required"),
    ({"other": ("a", b"1")}, {"purpose": "vision"}, 422, "file", "required"),
    ({"x": ("a", b"1")}, {"file": "text"}, 422, "file", "is not a file"),
    ({"file": ("a", b"1")}, {"purpose": "x" * 65}, 422, "purpose", "at most 64"),
    ({"file": ("a", b"1")}, {"expires_after[seconds]": "3600"}, 422, "expires_after[anchor]", "created_at"),
    (
        {"file": ("a", b"1")},
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
        422,
        "expires_after[seconds]",
        "3600",
    ),
    (
        {"file": ("a", b"1")},
        {"expires_after[anchor]": "created_at"},
        422,
        "expires_after[seconds]",
        "required",
    ),
]


@pytest.mark.parametrize(("files", "fields", "status", "param", "words"), REFUSED, ids=range(len(REFUSED)))
def test_bad_uploads_are_refused(
    world: World, files: dict[str, Any], fields: dict[str, str], status: int, param: str | None, words: str
) -> None:
    response = world.http.post("/v1/files", files=files or {"": ("", b"")}, data=fields)
    if not files:
        response = world.http.post("/v1/files", data=fields)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    assert words in response.json()["detail"]
    assert not directory(world).exists()


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up"])
def test_bad_queries_are_refused(world: World, query: str) -> None:
    assert world.http.get(f"/v1/files?{query}").status_code == 422


@pytest.mark.parametrize("file_id", ["nobody", "file-", "file-" + "g" * 24, "..%2f..%2fx", "file-" + "0" * 24])
def test_unknown_ids_are_404(world: World, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert world.http.get(path).status_code == 404
    assert world.http.delete(f"/v1/files/{file_id}").status_code == 404


def test_a_file_over_the_cap_is_413_and_leaves_nothing(open_edge: Callable[..., World]) -> None:
    world = open_edge(max_upload_mb=1)
    for content in ({"files": {"file": ("a", bytes(1 << 20))}}, {"content": iter([bytes(1 << 20)] * 2)}):
        headers = {} if "files" in content else {"content-type": "multipart/form-data; boundary=b"}
        response = world.http.post("/v1/files", headers=headers, **content)
        assert response.status_code in (400, 413)
    temporary = world.edge.settings.uploads_path / "tmp"
    assert not temporary.exists() or os.listdir(temporary) == []
    assert not directory(world).exists()
