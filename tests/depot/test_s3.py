"""Results in an object store, beyond the contract of all depots: a store that is away or lies, the cache, what stays at the edge."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from obstore.store import MemoryStore
from PIL import Image

from broker.depot import object_store
from broker.depot.object_store import OWNER_KEY, ObjectStore, Stored, StoreError, store_of
from broker.depot.tokens import artefact_key, draft_key
from broker.runtime.settings import CommonSettings, SettingsError
from broker.wire.job_files import CHECKPOINTS, preview_name
from http_edge.background import file_cleaner
from http_edge.background.retention import _Record
from tests.depot.conftest import CLIP, FarEdge, Place, http_depot, never
from tests.support.waiting import wait_until
from workers.depot.depot import NotNow
from workers.depot.s3_depot import S3Depot
from workers.settings import WorkerSettings, agent_configs


class Counted:
    """The library, whose requests are counted by their kind: of a listing, its pages."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if name != "list":
                self.requests[name] += 1
                return function(*args, **kwargs)
            return self._pages(function(*args, **kwargs))

        return counted

    def _pages(self, pages: Any) -> Iterator[Any]:
        self.requests["list"] += 1
        for number, page in enumerate(pages):
            self.requests["list"] += number > 0
            yield page


class Bucket(ObjectStore):
    """A store in memory that can be away, and that counts what is fetched, and all requests."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self._obstore = Counted(self._obstore)
        self.requests: Counter[str] = self._obstore.requests
        self.away = False
        self.fetched = 0

    def put(self, *args: Any, **kwargs: Any) -> None:
        self._answer()
        super().put(*args, **kwargs)

    def fetch(self, *args: Any, **kwargs: Any) -> float:
        self._answer()
        self.fetched += 1
        return super().fetch(*args, **kwargs)

    def remove(self, keys: Sequence[str]) -> None:
        self._answer()
        super().remove(keys)

    def has(self, key: str) -> bool:
        self._answer()
        return super().has(key)

    def below(self, prefix: str, after: str = "") -> Iterator[Stored]:
        self._answer()
        return super().below(prefix, after)

    def claim(self, service: str) -> str:
        self._answer()
        return super().claim(service)

    def signed_url(self, key: str, good_s: float) -> str:
        return f"https://bucket.example/{key}?good={good_s:.0f}"

    def _answer(self) -> None:
        if self.away:
            raise StoreError("the store cannot be asked: it is away")

    def all_keys(self, prefix: str = "artefacts") -> list[str]:
        return [one.key for one in self.below(prefix)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found = Bucket()
    monkeypatch.setattr(ObjectStore, "of", lambda url, **_: found)
    return found


def opened(tmp_path: Path, bucket: Bucket, **settings: Any) -> Place:
    start = tmp_path / "start"
    start.mkdir(exist_ok=True)
    far = FarEdge(tmp_path / "edge", start, results_store="s3://bucket/some", **settings)
    return Place("s3", far, S3Depot(bucket, http_depot(far)), tmp_path / "spool", bucket)


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
    (key,) = bucket.all_keys()
    bucket._obstore.put(bucket._store, key, b"x" * len(CLIP))
    answer = result(place, job_id)
    assert (answer.status_code, "not what was put there" in answer.text) == (503, True)
    assert not list((place.far.home / "result_cache").rglob("*.mp4"))


def test_an_object_that_is_gone_is_said_to_be(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    bucket.remove(bucket.all_keys())
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
    assert bucket.all_keys() == [artefact_key(job_id, fence, "video.mp4")]


def test_what_the_store_does_not_remove_now_is_swept_later(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    bucket.away = True
    assert place.far.http.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 200
    bucket.away = False
    assert bucket.all_keys()
    swept(place)
    assert bucket.all_keys() == []


def swept(place: Place, later_s: float = 90_000) -> None:
    """Have leftovers of long ago removed, as if that were now."""
    assert place.store is not None
    at = max((one.at for one in place.store.below("artefacts")), default=0.0)
    place.far.do(place.far.edge.retention._cleaner.sweep_strays, at + later_s)


def test_a_sweep_lists_the_store_once_however_many_jobs_there_are(place: Place, bucket: Bucket) -> None:
    for _ in range(20):
        published(place)
    swept(place)
    bucket.requests.clear()
    swept(place)
    # The one of the files, the one of the pins, and the one by which the sweep is timed here.
    assert bucket.requests == {"list": 3}
    assert len(bucket.all_keys()) == 20


def test_sweeps_take_turns_over_all_jobs_of_a_store(
    place: Place, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cleaner, "_STRAYS", 3)
    kept = published(place)
    # Among them names that begin with another's: keys are in another order than names.
    for name in ("a", "a-b", "a_b", "a0", "ab", "b", "zz"):
        bucket._obstore.put(bucket._store, f"artefacts/{name}/7/video.mp4", CLIP)
    # What is no job's is nobody's to remove.
    bucket._obstore.put(bucket._store, "artefacts/readme", b"x")
    for _ in range(3):
        swept(place)
    assert sorted(key.split("/")[1] for key in bucket.all_keys()) == sorted([kept, "readme"])


def test_a_job_is_deleted_with_one_listing(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    bucket.requests.clear()
    assert place.far.http.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 200
    wait_until(lambda: bucket.requests["delete"] == 2, what="its objects and its pin are removed")
    assert bucket.requests == {"list": 1, "delete": 2}


def test_another_services_results_are_left_alone(place: Place, bucket: Bucket, caplog: Any) -> None:
    bucket._obstore.put(bucket._store, OWNER_KEY, b"another")
    bucket._obstore.put(bucket._store, "artefacts/theirs/7/video.mp4", CLIP)
    bucket.note("pins/theirs")
    swept(place)
    assert bucket.all_keys() == ["artefacts/theirs/7/video.mp4"]
    assert bucket.all_keys("pins") == ["pins/theirs"]
    assert any("of another service, 'another'" in getattr(record, "detail", "") for record in caplog.records)


def test_a_full_disk_costs_no_job_whose_result_is_in_the_store(tmp_path: Path, bucket: Bucket) -> None:
    place = opened(tmp_path, bucket, disk_quota_mb=2)
    jobs = []
    for number in range(4):
        job_id, fence = place.far.running()
        preview = place.drawn(job_id, fence, bytes([number]) * 700_000, preview_name(1))
        file = place.drawn(job_id, fence)
        place.put(preview)
        place.put(file)
        place.far.publish(job_id, file)
        jobs.append((job_id, place.far.home / preview.key))
    assert place.far.http.put(f"/v1/jobs/{jobs[0][0]}/pin").status_code == 200
    # A job of before there was a store: its result is what takes the room.
    before, fence = place.far.running()
    old = place.drawn(before, fence, b"x" * 1_500_000)
    (place.far.home / old.key).parent.mkdir(parents=True)
    (place.far.home / old.key).write_bytes(old.path.read_bytes())
    place.far.publish(before, old)
    place.far.do(place.far.edge.retention._make_room, 0.0)
    assert [path.exists() for _, path in jobs] == [True, False, False, False], "one is pinned"
    assert place.far.http.get(f"/v1/jobs/{before}").status_code == 404
    assert [result(place, job_id).content == CLIP for job_id, _ in jobs] == [True] * 4
    place.far.close()


def test_a_pin_is_known_to_edges_of_all_homes(place: Place, bucket: Bucket) -> None:
    job_id = published(place)
    assert place.far.http.put(f"/v1/jobs/{job_id}/pin").json()["pinned"]
    assert bucket.all_keys("pins") == [f"pins/{job_id}"]
    retention = place.far.edge.retention
    view = place.far.do(place.far.edge.calls.jobs.view, job_id)
    record = _Record(view.id, view.fence, view.submitted_at, view.finished_at)
    bucket.away = True
    assert place.far.do(retention._delete, [record]) == set()
    assert place.far.http.get(f"/v1/jobs/{job_id}/pin").status_code == 503
    bucket.away = False
    assert place.far.do(retention._delete, [record]) == set()
    assert not place.far.http.delete(f"/v1/jobs/{job_id}/pin").json()["pinned"]
    assert place.far.do(retention._delete, [record]) == {job_id}
    assert (bucket.all_keys(), bucket.all_keys("pins")) == ([], [])


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


def test_checkpoints_go_to_the_store_and_drafts_to_the_edge(place: Place, bucket: Bucket) -> None:
    job_id, fence = place.far.running()
    file = place.kept(job_id, fence, "0-5.safetensors", b"state")
    place.put(file)
    assert bucket.all_keys("checkpoints") == [file.key]
    draft = place.drawn(job_id, fence, b"a draft", "draft.png")
    place.put(replace(draft, key=draft_key(job_id, fence, "draft.png")))
    kept = place.far.home / "artefacts" / CHECKPOINTS / job_id
    assert [path.name for path in kept.iterdir()] == ["draft.png"]
    assert bucket.all_keys("drafts") == []


def test_what_an_attempt_before_sends_late_takes_the_place_of_nothing_that_a_later_one_has_sent(
    place: Place, bucket: Bucket
) -> None:
    job_id, early = place.far.running()
    place.put(place.kept(job_id, early, "0-5.safetensors", b"five"))
    place.far.do(place.far.fake.lose, job_id)
    fence = place.far.do(place.far.fake.run, job_id, "cpu-1").fence
    late = place.kept(job_id, early, "0-8.safetensors", b"eight")
    place.put(late)
    other = place.of("cpu-1")
    assert other.checkpoints(job_id, fence) == [late.key], "it has sent none itself"
    # It could not use that one, and began anew.
    own = place.kept(job_id, fence, "0-2.safetensors", b"two")
    other.put(own, never, again=False)
    assert other.checkpoints(job_id, fence) == [own.key]
    place.far.do(place.far.edge.retention._cleaner.sweep_checkpoints, 0.0)
    assert own.key in bucket.all_keys("checkpoints")


def test_checkpoints_are_waited_for_while_the_store_is_away(place: Place, bucket: Bucket, tmp_path: Path) -> None:
    job_id, fence = place.far.running()
    file = place.kept(job_id, fence, "0-5.safetensors", b"state")
    place.put(file)
    bucket.away = True
    with pytest.raises(NotNow, match="it is away"):
        place.depot.fetch_checkpoint(file.key, tmp_path / "x", never)
    with pytest.raises(NotNow, match="503"):
        place.depot.checkpoints(job_id, fence)
    bucket.away = False
    place.depot.fetch_checkpoint(file.key, tmp_path / "x", never)
    assert (tmp_path / "x").read_bytes() == b"state"


def test_a_checkpoint_that_a_worker_of_before_put_at_the_edge_is_had(place: Place, tmp_path: Path) -> None:
    job_id, fence = place.far.running()
    file = place.kept(job_id, fence, "0-5.safetensors", b"state")
    http_depot(place.far).put(file, never, again=False)
    assert place.depot.checkpoints(job_id, fence) == [file.key]
    place.depot.fetch_checkpoint(file.key, tmp_path / "x", never)
    assert (tmp_path / "x").read_bytes() == b"state"


def test_a_sweep_of_checkpoints_lists_the_store_once(place: Place, bucket: Bucket) -> None:
    jobs = [place.far.running() for _ in range(5)]
    for job_id, fence in jobs:
        place.put(place.kept(job_id, fence, "0-5.safetensors", b"state"))
    sweep = place.far.edge.retention._cleaner.sweep_checkpoints
    place.far.do(sweep, 0.0)
    bucket.requests.clear()
    place.far.do(sweep, 0.0)
    assert bucket.requests == {"list": 1}
    assert len(bucket.all_keys("checkpoints")) == 5


def test_sweeps_of_checkpoints_take_turns(place: Place, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cleaner, "_STRAYS", 2)
    for _ in range(3):
        job_id, fence = place.far.running()
        place.put(place.kept(job_id, fence, "0-5.safetensors", b"state"))
    ended, fence = place.far.running()
    for step in (3, 5):
        place.put(place.kept(job_id, fence, f"0-{step}.safetensors", b"state"))
        place.put(place.kept(ended, fence, f"0-{step}.safetensors", b"state"))
    place.far.do(place.far.fake.fail, ended, "its worker died")
    for _ in range(3):
        place.far.do(place.far.edge.retention._cleaner.sweep_checkpoints, 0.0)
    assert {key.split("/")[1] for key in bucket.all_keys("checkpoints")} == {
        job_id for job_id in place.far.fake.jobs if job_id != ended
    }
