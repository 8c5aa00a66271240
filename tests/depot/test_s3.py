"""Results in an object store, beyond the contract of all depots: a store that is away or lies, the cache, what stays at the edge."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from obstore.store import MemoryStore
from PIL import Image

from broker.depot import object_store
from broker.depot.object_store import ObjectStore, StoreError, store_of
from broker.depot.tokens import artefact_key
from broker.runtime.settings import CommonSettings, SettingsError
from broker.wire.jobspec import preview_name
from tests.depot.conftest import CLIP, FarEdge, Place, http_depot
from workers.depot.depot import NotNow
from workers.depot.s3_depot import S3Depot
from workers.settings import WorkerSettings, agent_configs


class Bucket(ObjectStore):
    """A store in memory that can be away, and that counts what is fetched."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.away = False
        self.fetched = 0

    def put(self, *args: Any, **kwargs: Any) -> None:
        self._answer()
        super().put(*args, **kwargs)

    def fetch(self, *args: Any, **kwargs: Any) -> float:
        self._answer()
        self.fetched += 1
        return super().fetch(*args, **kwargs)

    def remove(self, prefix: str) -> None:
        self._answer()
        super().remove(prefix)

    def signed_url(self, key: str, good_s: float) -> str:
        return f"https://bucket.example/{key}?good={good_s:.0f}"

    def _answer(self) -> None:
        if self.away:
            raise StoreError("the store cannot be asked: it is away")

    def keys(self) -> list[str]:
        return [one.key for one in self.below("artefacts")]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found = Bucket()
    monkeypatch.setattr(ObjectStore, "of", lambda url: found)
    return found


def opened(tmp_path: Path, bucket: Bucket, **settings: Any) -> Place:
    start = tmp_path / "start"
    start.mkdir(exist_ok=True)
    far = FarEdge(tmp_path / "edge", start, results_store="s3://bucket/some", **settings)
    return Place("s3", far, S3Depot(bucket, http_depot(far)), tmp_path / "spool")


@pytest.fixture
def place(tmp_path: Path, bucket: Bucket) -> Iterator[Place]:
    found = opened(tmp_path, bucket)
    yield found
    found.far.close()


def published(place: Place, data: bytes = CLIP, name: str = "video.mp4") -> str:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence, data, name)
    place.put(file)
    place.far.publish(job_id, file)
    return job_id


def result(place: Place, job_id: str, **kwargs: Any) -> httpx.Response:
    return place.far.http.get(f"/v1/jobs/{job_id}/result", **kwargs)


def test_a_store_that_is_away_is_asked_again_and_loses_nothing(place: Place, bucket: Bucket) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    bucket.away = True
    with pytest.raises(NotNow, match="it is away"):
        place.put(file)
    bucket.away = False
    place.put(file, again=True)
    place.far.publish(job_id, file)
    bucket.away = True
    assert (result(place, job_id).status_code, result(place, job_id).headers["retry-after"]) == (503, "5")
    bucket.away = False
    assert result(place, job_id).content == CLIP
    # What was fetched once is served while the store is away.
    bucket.away = True
    assert result(place, job_id, headers={"Range": "bytes=0-3"}).content == CLIP[:4]


def test_other_bytes_than_were_published_are_never_served(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    (key,) = bucket.keys()
    bucket._obstore.put(bucket._store, key, b"x" * len(CLIP))
    answer = result(place, job_id)
    assert (answer.status_code, "not what was published" in answer.text) == (503, True)
    assert not list((place.far.home / "result_cache").rglob("*.mp4"))


def test_an_object_that_is_gone_is_said_to_be(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    bucket.remove("artefacts")
    assert result(place, job_id).status_code == 410


def test_results_are_kept_here_up_to_a_size_those_asked_for_last(tmp_path: Path, bucket: Bucket) -> None:
    place = opened(tmp_path, bucket, result_cache_mb=1)
    first, second, third = (published(place, bytes([n]) * 400_000) for n in range(3))
    for job_id in (first, second, first, third):
        assert result(place, job_id).status_code == 200
    assert bucket.fetched == 3
    result(place, first)
    assert bucket.fetched == 3
    result(place, second)
    assert bucket.fetched == 4
    place.far.close()
    # Another edge after this one knows what lies there.
    place = opened(tmp_path, bucket, result_cache_mb=1)
    fourth = published(place, b"\4" * 400_000)
    assert result(place, fourth).status_code == 200
    kept = list((place.far.home / "result_cache").rglob("*.mp4"))
    assert len(kept) <= 2
    place.far.close()


def test_thumbnails_and_formats_are_made_of_what_is_fetched(place: Place) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    job_id = published(place, picture.getvalue(), "image.png")
    thumbnail = place.far.http.get(f"/v1/jobs/{job_id}/thumbnail")
    assert (thumbnail.status_code, thumbnail.headers["content-type"].partition("/")[0]) == (200, "image")


def test_previews_go_to_the_edge_and_results_to_the_store(place: Place, bucket: Bucket) -> None:
    job_id, fence = place.far.running()
    name = preview_name(1)
    place.put(place.drawn(job_id, fence, b"a preview", name))
    assert (place.far.home / artefact_key(job_id, fence, name)).exists()
    place.put(place.drawn(job_id, fence))
    assert bucket.keys() == [artefact_key(job_id, fence, "video.mp4")]


def test_what_the_store_does_not_remove_now_is_swept_later(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    bucket.away = True
    assert place.far.http.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 200
    bucket.away = False
    assert bucket.keys()
    (one,) = bucket.below("artefacts")
    place.far.do(place.far.edge.retention._cleaner.sweep_strays, one.at + 90_000)
    assert bucket.keys() == []


def test_a_deleted_result_is_not_left_in_the_cache(place: Place) -> None:
    job_id = published(place)
    result(place, job_id)
    kept = place.far.home / "result_cache"
    assert list(kept.rglob("*.mp4"))
    assert place.far.http.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 200
    assert not list(kept.rglob("*.mp4"))


def test_a_cache_that_is_cleared_meanwhile_is_no_crash(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = published(place)

    def cleared(source: Path, target: Path) -> None:
        raise FileNotFoundError(2, "its directory is gone", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(object_store.os, "replace", cleared)
        assert result(place, job_id).status_code == 503
    assert result(place, job_id).content == CLIP


def test_a_client_is_sent_to_the_store_where_that_is_wanted(tmp_path: Path, bucket: Bucket) -> None:
    place = opened(tmp_path, bucket, results_redirect=True)
    job_id = published(place)
    answer = result(place, job_id)
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    assert answer.headers["location"].startswith(f"https://bucket.example/artefacts/{job_id}/")
    assert place.far.http.head(f"/v1/jobs/{job_id}/result").headers["content-length"] == str(len(CLIP))
    place.far.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://bucket/x", "must be s3://BUCKET or s3://BUCKET/PREFIX"),
        ("s3://B", "must be s3://BUCKET"),
        ("s3://bucket/../x y", "must be s3://BUCKET"),
    ],
)
def test_an_address_that_names_no_store_is_refused(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"results_store: '{url}' {words}"):
        store_of(CommonSettings(results_store=url))


def test_without_its_package_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_MODULE", "no_such_module")
    assert importlib.util.find_spec("no_such_module") is None
    with pytest.raises(SettingsError, match=r"needs obstore, which is not installed: pip install 'zoetrope\[s3\]'"):
        store_of(CommonSettings(results_store="s3://bucket"))


def test_workers_need_an_edge_beside_the_store() -> None:
    settings = WorkerSettings(results_store="s3://bucket/x")
    with pytest.raises(SettingsError, match="results_store: 's3://bucket/x' needs depot"):
        agent_configs(settings, (), (), 2, {})
