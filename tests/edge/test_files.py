"""Downloads: validators, conditions and ranges, as a table on the plan and over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from http_edge.http.file_response import lock_unless_sent, plan
from tests.edge.conftest import World
from tests.support.exchange import exchanging

ETAG = '"abc"'
SIZE = 1000
#: Wed, 04 Mar 2026 05:06:07 GMT
MODIFIED = 1_772_600_767
SAME, BEFORE, AFTER = (
    "Wed, 04 Mar 2026 05:06:07 GMT",
    "Wed, 04 Mar 2026 05:06:06 GMT",
    "Wed, 04 Mar 2026 05:06:08 GMT",
)

#: (request headers, status, ranges)
PLANS: list[tuple[dict[str, str], int, list[tuple[int, int]]]] = [
    ({}, 200, []),
    # single ranges
    ({"range": "bytes=0-0"}, 206, [(0, 1)]),
    ({"range": "bytes=0-"}, 206, [(0, 1000)]),
    ({"range": "bytes=900-"}, 206, [(900, 1000)]),
    ({"range": "bytes=900-5000"}, 206, [(900, 1000)]),
    ({"range": "bytes=-100"}, 206, [(900, 1000)]),
    ({"range": "bytes=-5000"}, 206, [(0, 1000)]),
    ({"range": "BYTES = 1-2"}, 206, [(1, 3)]),
    ({"range": "bytes=999-999"}, 206, [(999, 1000)]),
    # none satisfiable
    ({"range": "bytes=1000-"}, 416, []),
    ({"range": "bytes=5000-6000"}, 416, []),
    ({"range": "bytes=-0"}, 416, []),
    ({"range": "bytes=2000-,3000-"}, 416, []),
    # several: those out of bounds are dropped, overlapping ones become one
    ({"range": "bytes=0-9, 990-"}, 206, [(0, 10), (990, 1000)]),
    ({"range": "bytes=0-9,5000-"}, 206, [(0, 10)]),
    ({"range": "bytes=0-9,10-19"}, 206, [(0, 20)]),
    ({"range": "bytes=500-,0-600"}, 206, [(0, 1000)]),
    ({"range": "bytes=10-19,,0-4"}, 206, [(0, 5), (10, 20)]),
    # not understood: ignored
    ({"range": "items=0-1"}, 200, []),
    ({"range": "bytes"}, 200, []),
    ({"range": "bytes="}, 200, []),
    ({"range": "bytes=-"}, 200, []),
    ({"range": "bytes=a-b"}, 200, []),
    ({"range": "bytes=9-0"}, 200, []),
    ({"range": "bytes=0-9,x"}, 200, []),
    ({"range": "bytes=0-99999999999999999999999"}, 200, []),
    ({"range": "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 100, 2))}, 200, []),
    # If-Range
    ({"range": "bytes=0-9", "if-range": ETAG}, 206, [(0, 10)]),
    ({"range": "bytes=0-9", "if-range": '"other"'}, 200, []),
    ({"range": "bytes=0-9", "if-range": f"W/{ETAG}"}, 200, []),
    ({"range": "bytes=0-9", "if-range": SAME}, 206, [(0, 10)]),
    ({"range": "bytes=0-9", "if-range": AFTER}, 200, []),
    ({"range": "bytes=0-9", "if-range": "yesterday"}, 200, []),
    # If-None-Match compares weakly, If-Match strongly
    ({"if-none-match": ETAG}, 304, []),
    ({"if-none-match": f'"x", W/{ETAG}'}, 304, []),
    ({"if-none-match": "*"}, 304, []),
    ({"if-none-match": '"x"'}, 200, []),
    ({"if-none-match": ETAG, "range": "bytes=0-9"}, 304, []),
    ({"if-match": ETAG}, 200, []),
    ({"if-match": "*"}, 200, []),
    ({"if-match": f'"x", {ETAG}'}, 200, []),
    ({"if-match": f"W/{ETAG}"}, 412, []),
    ({"if-match": '"x"'}, 412, []),
    ({"if-match": ETAG, "range": "bytes=0-9"}, 206, [(0, 10)]),
    # dates, passed over when a tag is there
    ({"if-modified-since": SAME}, 304, []),
    ({"if-modified-since": AFTER}, 304, []),
    ({"if-modified-since": BEFORE}, 200, []),
    ({"if-modified-since": "yesterday"}, 200, []),
    ({"if-modified-since": AFTER, "if-none-match": '"x"'}, 200, []),
    ({"if-unmodified-since": SAME}, 200, []),
    ({"if-unmodified-since": BEFORE}, 412, []),
    ({"if-unmodified-since": BEFORE, "if-match": ETAG}, 200, []),
]


@pytest.mark.parametrize(("headers", "status", "ranges"), PLANS, ids=range(len(PLANS)))
def test_the_plan_for_request_headers(headers: dict[str, str], status: int, ranges: list[tuple[int, int]]) -> None:
    decided = plan(Headers(headers), etag=ETAG, size=SIZE, modified_s=MODIFIED)
    assert (decided.status, list(decided.ranges)) == (status, ranges)


DATA = bytes(range(256)) * 4096  # 1 MiB: several reads


@pytest.fixture
def url(world: World) -> str:
    job = world.submit(id="clip")
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"], video_mp4=DATA)
    return str(job["urls"]["result"])


def test_a_whole_file(world: World, url: str) -> None:
    response = world.http.get(url)
    assert (response.status_code, response.content) == (200, DATA)
    digest = hashlib.sha256(DATA)
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(len(DATA))
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-disposition"] == 'inline; filename="clip.mp4"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["repr-digest"].startswith("sha-256=:")


def test_as_a_download(world: World, url: str) -> None:
    response = world.http.get(url, params={"download": "1"})
    assert response.headers["content-disposition"] == 'attachment; filename="clip.mp4"'


def test_a_single_range(world: World, url: str) -> None:
    response = world.http.get(url, headers={"range": "bytes=300000-600000"})
    assert (response.status_code, response.content) == (206, DATA[300000:600001])
    assert response.headers["content-range"] == f"bytes 300000-600000/{len(DATA)}"
    assert response.headers["content-length"] == "300001"


def test_several_ranges_are_multipart(world: World, url: str) -> None:
    response = world.http.get(url, headers={"range": "bytes=0-3,100-103,-2"})
    assert response.status_code == 206
    kind, boundary = response.headers["content-type"].split("; boundary=")
    assert kind == "multipart/byteranges"
    assert int(response.headers["content-length"]) == len(response.content)
    parts = response.content.split(f"--{boundary}".encode())
    assert parts[-1] == b"--\r\n"
    bodies = [part.split(b"\r\n\r\n", 1) for part in parts[1:-1]]
    assert [body.removesuffix(b"\r\n") for _, body in bodies] == [DATA[:4], DATA[100:104], DATA[-2:]]
    assert f"Content-Range: bytes 100-103/{len(DATA)}".encode() in bodies[1][0]
    assert b"Content-Type: video/mp4" in bodies[1][0]


def test_head_has_the_headers_and_no_body(world: World, url: str) -> None:
    whole = world.http.head(url)
    assert (whole.status_code, whole.headers["content-length"], whole.content) == (200, str(len(DATA)), b"")
    # Ranges are of GET alone.
    for asked in ("bytes=0-9", f"bytes={len(DATA)}-"):
        part = world.http.head(url, headers={"range": asked})
        assert (part.status_code, part.headers["content-length"]) == (200, str(len(DATA)))


def test_an_unsatisfiable_range_says_how_long_the_file_is(world: World, url: str) -> None:
    response = world.http.get(url, headers={"range": f"bytes={len(DATA)}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(DATA)}"
    assert response.json()["error"]["code"] == "range_not_satisfiable"


def test_conditions_over_http(world: World, url: str) -> None:
    etag = world.http.get(url).headers["etag"]
    fresh = world.http.get(url, headers={"if-none-match": etag})
    assert (fresh.status_code, fresh.content, fresh.headers["etag"]) == (304, b"", etag)
    failed = world.http.get(url, headers={"if-match": '"other"'})
    assert (failed.status_code, failed.json()["error"]["code"]) == (412, "precondition_failed")


def test_a_file_that_is_gone_or_changed_is_410(world: World, url: str) -> None:
    path = next(world.fake.artefacts.glob("clip/*/video.mp4"))
    path.write_bytes(DATA[:-1])
    changed = world.http.get(url)
    assert (changed.status_code, changed.json()["error"]["code"]) == (410, "gone")
    path.unlink()
    assert world.http.get(url).status_code == 410


def test_a_link_out_of_the_artefacts_is_not_followed(world: World, url: str) -> None:
    path = next(world.fake.artefacts.glob("clip/*/video.mp4"))
    elsewhere = world.start / "secret"
    elsewhere.write_bytes(DATA)
    path.unlink()
    path.symlink_to(elsewhere)
    assert world.http.get(url).status_code == 410
    path.unlink()
    os.rename(path.parent, world.start / "moved")
    (world.start / "moved" / "video.mp4").write_bytes(DATA)
    path.parent.symlink_to(world.start / "moved")
    assert world.http.get(url).status_code == 410


def test_no_directory_that_is_exchanged_for_a_link_leads_a_download_out(world: World, tmp_path: Path) -> None:
    job = world.finished()
    directory = world.fake.artefacts / job["id"]
    (published,) = directory.rglob("video.mp4")
    outside = tmp_path / "outside" / published.parent.name
    outside.mkdir(parents=True)
    (outside / "video.mp4").write_bytes(bytes(published.stat().st_size))
    data = published.read_bytes()
    link = directory.with_name("link")
    link.symlink_to(outside.parent)
    with exchanging(directory, link):
        for _ in range(60):
            answer = world.http.get(job["urls"]["result"])
            assert (answer.status_code, answer.content) == (200, data) or answer.status_code == 410


def test_downloads_of_files_that_are_being_deleted_keep_no_other_waiting(world: World) -> None:
    """More of them than there are threads to read files."""
    locked, other = world.finished(), world.finished()
    (published,) = (world.fake.artefacts / locked["id"]).rglob("video.mp4")
    lock = lock_unless_sent(published)
    assert lock is not None

    async def scene() -> None:
        transport = httpx.ASGITransport(app=world.http.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, asyncio.timeout(60):
            waiting = [asyncio.ensure_future(client.get(f"{locked['urls']['self']}/result")) for _ in range(100)]
            try:
                for _ in range(20):
                    assert (await client.get(f"{other['urls']['self']}/result")).status_code == 200
                assert not any(one.done() for one in waiting)
            finally:
                os.close(lock)
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}

    assert world.http.portal is not None
    world.http.portal.call(scene)
