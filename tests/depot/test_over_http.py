"""What only a store that is reached over HTTP can show: signed addresses, listings that go on behind a key, large files in parts.

SeaweedFS and moto, where they are installed (`tests/support/object_stores.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from broker.depot.object_store import NotThere, ObjectStore
from broker.depot.store_check import check_edge, check_worker
from broker.runtime.settings import CommonSettings
from http_edge.background import file_cleaner
from tests.depot.conftest import CLIP, FarEdge, Place, http_depot, over_http
from tests.depot.test_s3 import published, result, swept
from workers.depot.s3_depot import S3Depot


@pytest.fixture(params=["weed", "moto_server"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return over_http(monkeypatch, request.getfixturevalue(f"{request.param}_store"), tmp_path.name)


@pytest.fixture
def place(tmp_path: Path, url: str) -> Iterator[Place]:
    start = tmp_path / "start"
    start.mkdir()
    far = FarEdge(tmp_path / "edge", start, results_store=url, results_redirect=True)
    store = ObjectStore.of(url)
    yield Place("s3", far, S3Depot(store, http_depot(far)), tmp_path / "spool", store)
    far.close()


def test_an_address_that_was_given_away_is_good_for_this_file_and_its_parts(place: Place) -> None:
    job_id = published(place)
    given = result(place, job_id)
    assert given.status_code == 307
    address = given.headers["location"]
    with httpx.Client(trust_env=False) as anybody:
        assert anybody.get(address).content == CLIP
        part = anybody.get(address, headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, CLIP[100:200])
    with pytest.raises(NotThere):
        place.store.read("artefacts/none/1/video.mp4")


def test_a_file_in_parts_arrives_whole(place: Place) -> None:
    data = os.urandom(1 << 20) * 17
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence, data)
    place.put(file)
    place.put(file, again=True)
    target = place.spool / "back.mp4"
    place.store.fetch(file.key, target, file.sha256)
    assert target.read_bytes() == data


def test_sweeps_find_every_leftover_whatever_its_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cleaner, "_STRAYS", 3)
    kept = published(place)
    names = ("a", "a-b", "a_b", "a0", "ab", "b", "zz")
    for name in names:
        file = place.drawn(name, 7)
        place.put(file)
    for _ in range(2 * len(names)):
        swept(place)
    assert {one.key.split("/")[1] for one in place.store.below("artefacts")} == {kept}


def test_a_store_that_is_there_is_found_so(tmp_path: Path, url: str) -> None:
    settings = CommonSettings(home=str(tmp_path / "other"), results_store=f"{url}/checked")
    for _ in range(2):
        check_edge(settings)
        check_worker(settings)
