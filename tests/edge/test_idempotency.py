"""`Idempotency-Key`: one key, one job, whichever edge is asked and however often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from broker.wire import messages as m
from broker.wire.jobspec import decode_spec
from http_edge.app import build_app, build_edge
from http_edge.auth.keys import KeyRecord, hash_of, write_keys
from http_edge.base.settings import EdgeSettings
from tests.edge.conftest import World
from tests.testing.fake_broker import VIDEO, FakeBroker, worker

KEY = {"Idempotency-Key": '"a key"'}

#: Route -> a request that creates something there at once.
CREATES: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"prompt": "a red circle"},
    "/v1/videos": {"prompt": "a red circle"},
    "/v1/tasks/video": {"prompt": "a red circle"},
    "/v1/tasks/image": {"prompt": "a red circle"},
    "/api/v1/task/submit": {"prompt": "a red circle", "task": "t2v"},
}


def post(world: World, path: str, body: dict[str, Any], **headers: str) -> Any:
    return world.http.post(path, json=body, headers={**KEY, **headers})


@pytest.mark.parametrize("path", CREATES)
def test_the_same_request_again_is_answered_with_the_same_job(world: World, path: str) -> None:
    first, second = (post(world, path, CREATES[path]) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200), second.text
    assert len(world.fake.jobs) == 1
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert first.json().get("id") == second.json().get("id")
    assert first.json().get("task_id") == second.json().get("task_id")
    other = world.http.post(path, json=CREATES[path], headers={"Idempotency-Key": "another"})
    assert other.status_code == 200
    assert len(world.fake.jobs) == 2


@pytest.mark.parametrize("path", CREATES)
def test_the_same_key_with_another_request_is_422(world: World, path: str) -> None:
    post(world, path, CREATES[path])
    for changed in ({"prompt": "a blue square"}, {"seed": 5}):
        refused = post(world, path, {**CREATES[path], **changed})
        assert refused.status_code == 422
        assert refused.headers["x-should-retry"] == "false"
        assert "Idempotency-Key" in refused.text
    assert len(world.fake.jobs) == 1


def test_a_replay_shows_the_job_as_it_is_and_needs_no_worker(world: World) -> None:
    first = post(world, "/v1/videos", {"prompt": "a"}).json()
    assert first["status"] == "queued"
    world.do(world.fake.run, first["id"])
    world.do(world.fake.succeed, first["id"])
    again = post(world, "/v1/videos", {"prompt": "a"}).json()
    assert (again["id"], again["status"], again["progress"]) == (first["id"], "completed", 100)
    tasks = [post(world, "/v1/tasks/video", {"prompt": "a"}).json() for _ in range(2)]
    assert tasks[0] == tasks[1]


def test_the_order_of_members_is_no_difference(world: World) -> None:
    first = post(world, "/v1/jobs", {"prompt": "a", "seed": 1})
    second = post(world, "/v1/jobs", {"seed": 1, "prompt": "a"})
    assert first.json()["id"] == second.json()["id"]


def test_a_picture_is_drawn_once_and_answered_twice(world: World) -> None:
    body = {"prompt": "a", "response_format": "url"}
    asynchronous = world.http.post("/v1/images/generations", json=body, headers={**KEY, "Prefer": "respond-async"})
    assert asynchronous.status_code == 202
    (job_id,) = world.fake.jobs
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id, image_png=b"\x89PNG\r\n\x1a\n" + bytes(40))
    waiting = post(world, "/v1/images/generations", body)
    assert waiting.status_code == 200
    assert waiting.headers["idempotency-replayed"] == "true"
    assert list(world.fake.jobs) == [job_id]


@pytest.mark.parametrize("key", [{}, KEY])
def test_a_picture_that_its_client_can_ask_for_again_is_not_cancelled_when_the_wait_ends(
    open_edge: Callable[..., World], key: dict[str, str]
) -> None:
    world = open_edge(sync_timeout_s=0.05)
    answer = world.http.post("/v1/images/generations", json={"prompt": "a"}, headers=key)
    assert answer.status_code == 504
    (job,) = world.fake.jobs.values()
    assert job.state == ("queued" if key else "cancelled")


def test_uploads_are_compared_by_their_bytes(world: World, png: Callable[[int], bytes]) -> None:
    def send(data: bytes, key: str = "k") -> Any:
        return world.http.post(
            "/v1/videos",
            data={"prompt": "a"},
            files={"input_reference": ("a.png", data, "image/png")},
            headers={"Idempotency-Key": key},
        )

    first, second = send(png(1)), send(png(1))
    assert first.status_code == 200, first.text
    assert second.json()["id"] == first.json()["id"]
    assert send(png(2)).status_code == 422
    assert send(png(2), "k2").status_code == 200
    assert len(world.fake.jobs) == 2


@pytest.fixture
def png() -> Callable[[int], bytes]:
    def make(shade: int) -> bytes:
        file = BytesIO()
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(file, "PNG")
        return file.getvalue()

    return make


def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    assert post(world, "/v1/jobs", {"prompt": "a", "width": 17}).status_code == 422
    assert post(world, "/v1/jobs", {"prompt": "a"}).status_code == 200


def test_a_key_belongs_to_its_route_and_tenant(open_edge: Callable[..., World], tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    write_keys(path, [KeyRecord(name=name, hash=hash_of(name), tenant=name) for name in ("red", "blue")])
    world = open_edge(keys_file=str(path))
    ids = set()
    for tenant in ("red", "blue"):
        for route in ("/v1/jobs", "/v1/videos"):
            answer = post(world, route, {"prompt": f"of {tenant}"}, **{"X-API-Key": tenant})
            assert answer.status_code == 200, answer.text
            ids.add(answer.json()["id"])
    assert len(ids) == 4


def test_a_clients_own_id_excludes_a_key(world: World) -> None:
    refused = post(world, "/v1/jobs", {"prompt": "a", "id": "mine"})
    assert refused.status_code == 422
    assert "Idempotency-Key" in refused.json()["detail"]


@pytest.mark.parametrize("key", ["", '""', "   ", "a" * 256, f'"{"b" * 256}"', '"half', 'a"b', "caf\xe9", '"a\\x"'])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/videos", "/v1/tasks/video", "/v1/local/video/generate"])
def test_a_malformed_key_is_400(world: World, key: str, path: str) -> None:
    refused = world.http.post(path, json={"prompt": "a"}, headers={"Idempotency-Key": key.encode("latin-1")})
    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.text
    assert not world.fake.jobs


def test_a_quoted_key_and_a_bare_one_are_the_same(world: World) -> None:
    ids = {
        world.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Idempotency-Key": key}).json()["id"]
        for key in ("8e03978e-40d5", '"8e03978e-40d5"', ' "8e03978e-40d5" ')
    }
    assert len(ids) == 1


def test_another_edge_gives_the_same_answer(open_edge: Callable[..., World]) -> None:
    one, two = open_edge(), open_edge()
    first = post(one, "/v1/videos", {"prompt": "a"})
    again = post(two, "/v1/videos", {"prompt": "a"})
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"


# ---------------------------------------------------------------- at the same time


class Gate(FakeBroker):
    """Lets nobody know of the other: both have found no job before either submits."""

    def __init__(self, artefacts: Path, parties: int) -> None:
        super().__init__(artefacts, worker("cpu-0", VIDEO))
        self._barrier = asyncio.Barrier(parties)
        self._looked = 0
        self._parties = parties

    async def get(self, job_id: str, tenant: str = "") -> m.JobView | None:
        found = await super().get(job_id, tenant)
        self._looked += 1
        if self._looked <= self._parties:
            await self._barrier.wait()
        return found


def edge_over(broker: FakeBroker, start: Path) -> httpx.AsyncClient:
    edge = build_edge(EdgeSettings(home=str(start / ".zoetrope")), start, lambda hub: broker)  # type: ignore[arg-type,return-value]
    return httpx.AsyncClient(transport=httpx.ASGITransport(build_app(edge)), base_url="http://localhost")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/videos", "/v1/tasks/video"])
def test_duplicates_at_the_same_time_over_two_edges_make_one_job(start: Path, path: str) -> None:
    async def scenario() -> None:
        broker = Gate(start, 2)
        async with edge_over(broker, start) as one, edge_over(broker, start) as two:
            first, second = await asyncio.gather(
                *(edge.post(path, json={"prompt": "a"}, headers=KEY) for edge in (one, two))
            )
        assert (first.status_code, second.status_code) == (200, 200), second.text
        assert len(broker.jobs) == 1
        assert first.json().get("id") == second.json().get("id")
        assert first.json().get("task_id") == second.json().get("task_id")
        replayed = sorted(answer.headers.get("idempotency-replayed", "") for answer in (first, second))
        assert replayed == ["", "true"]

    asyncio.run(scenario())


def test_different_requests_at_the_same_time_over_two_edges_make_one_job_and_a_422(start: Path) -> None:
    async def scenario() -> None:
        broker = Gate(start, 2)
        async with edge_over(broker, start) as one, edge_over(broker, start) as two:
            answers = await asyncio.gather(
                one.post("/v1/jobs", json={"prompt": "a"}, headers=KEY),
                two.post("/v1/jobs", json={"prompt": "b"}, headers=KEY),
            )
        assert sorted(answer.status_code for answer in answers) == [200, 422]
        assert len(broker.jobs) == 1

    asyncio.run(scenario())


def test_a_duplicate_while_the_first_is_being_served_is_409_to_be_tried_again(start: Path) -> None:
    async def scenario() -> None:
        broker = Gate(start, 2)
        async with edge_over(broker, start) as edge:
            first = asyncio.create_task(edge.post("/v1/videos", json={"prompt": "a"}, headers=KEY))
            while not broker.calls:
                await asyncio.wait([first], timeout=0.01)
            second = await edge.post("/v1/videos", json={"prompt": "a"}, headers=KEY)
            assert second.status_code == 409
            assert second.headers["x-should-retry"] == "true"
            assert int(second.headers["retry-after"]) >= 1
            other = await edge.post("/v1/videos", json={"prompt": "a"}, headers={"Idempotency-Key": "other"})
            assert other.status_code == 200
            assert (await first).status_code == 200
            third = await edge.post("/v1/videos", json={"prompt": "a"}, headers=KEY)
            assert third.json()["id"] == (await first).json()["id"]

    asyncio.run(scenario())


# ---------------------------------------------------------------- the client's own id


def test_a_clients_own_id_is_idempotent_whatever_seed_and_trace_were_drawn(world: World) -> None:
    jobs = [world.submit(id="mine") for _ in range(2)]
    assert jobs[0]["spec"]["seed"] == jobs[1]["spec"]["seed"]
    assert [job["duplicate"] for job in jobs] == [False, True]
    assert world.http.post("/v1/jobs", json={"prompt": "another", "id": "mine"}).status_code == 409
    assert decode_spec(world.fake.jobs["mine"].body).request_digest == ""


def test_drawn_ids_begin_with_the_time(world: World) -> None:
    ids = [world.submit()["id"] for _ in range(3)]
    assert all(len(job_id) == len("job-") + 11 + 20 for job_id in ids)
    assert len({job_id[:8] for job_id in ids}) == 1
    assert world.http.post("/v1/videos", json={"prompt": "a"}).json()["id"][6:10] == ids[0][4:8]


def test_only_an_id_that_was_drawn_here_for_this_request_is_called_fresh(world: World) -> None:
    drawn, own = world.submit()["id"], world.submit(id="mine")["id"]
    keyed = post(world, "/v1/jobs", CREATES["/v1/jobs"]).json()["id"]
    assert [world.fake.submits[job_id].fresh for job_id in (drawn, own, keyed)] == [True, False, False]
