"""What every request passes on its way: the table of routes, ids, the metrics; and that a status read costs the broker nothing."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.routing import Match

from http_edge.app import FAMILIES, build_app
from http_edge.auth.access import Access
from http_edge.auth.keys import KeyRecord, hash_of, write_keys
from http_edge.auth.web_pages import WebPages
from http_edge.base.errors import EdgeError, ErrorResponses
from http_edge.http.operation import Tag, operation
from http_edge.http.routing import EdgeRoute, RouteTable, route
from http_edge.middleware import Middleware
from tests.edge.conftest import World

_WORDS = (
    "",
    "v1",
    "jobs",
    "tasks",
    "videos",
    "files",
    "models",
    "download",
    "sync",
    "all",
    "running",
    "status",
    "x",
    "{id}",
    "a b",
)


def scanned(routes: list[EdgeRoute], path: str, method: str) -> tuple[str, dict[str, Any]] | None:
    """What Starlette's own router would choose."""
    partial = None
    for one in routes:
        match, child = one.matches({"type": "http", "path": path, "method": method})
        if match is Match.FULL:
            return one.path, child["path_params"]
        # That any path of several segments matches `{id:path}` does not make it one whose methods could be named.
        is_any = ":path}" in one.path and "/" in next(iter(child.get("path_params", {"": ""}).values()))
        if match is Match.PARTIAL and partial is None and not is_any:
            partial = one.path, child["path_params"]
    return partial


_ASK = operation("ask", Tag("Test", ""), answers={})


@_ASK
async def nothing(request: Any) -> Any:
    raise AssertionError(request)


def test_the_table_finds_what_a_scan_over_all_routes_finds(world: World) -> None:
    routes: list[EdgeRoute] = list(build_app(world.edge).routes)  # type: ignore[arg-type]
    routes = [one for one in routes if not one.alone]
    table = RouteTable(routes)
    paths = {
        "/" + "/".join(words)
        for count in range(5)
        for words in itertools.product(_WORDS, repeat=count)
        if count < 4 or words[0] == "v1"
    }
    paths |= {one.path.replace(":path", "") for one in routes} | {one.path + "/more" for one in routes}
    found_some = 0
    for path in sorted(paths):
        for method in ("GET", "POST", "DELETE", "BREW"):
            found = table.find(path, method)
            assert (found and (found[0].path, found[1])) == scanned(routes, path, method), (path, method)
            found_some += found is not None
    assert found_some > len(routes)


def test_a_route_that_begins_with_a_parameter_is_found_among_those_that_do_not() -> None:
    routes = [
        route("/{a}/x", GET=nothing),
        route("/v1/jobs", GET=nothing),
        route("/{a}/{b}", GET=nothing, POST=nothing),
    ]
    table = RouteTable(routes)
    for path, method in itertools.product(("/v1/jobs", "/v1/x", "/v1/y", "/q/x", "/q", "/q/x/z"), ("GET", "POST")):
        found = table.find(path, method)
        assert (found and (found[0].path, found[1])) == scanned(routes, path, method), (path, method)


def test_every_answer_has_an_id_and_a_trace_of_its_own(world: World) -> None:
    answers = [world.http.get(path) for path in ("/v1/jobs", "/v1/jobs", "/nope", "/v1/videos/none", "/health")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 5
    assert len({answer.headers["traceparent"].split("-")[1] for answer in answers}) == 5
    assert len({answer.headers["traceparent"].split("-")[2] for answer in answers}) == 5


def test_of_a_header_sent_twice_the_first_counts(world: World) -> None:
    answer = world.http.get("/livez", headers=[("x-request-id", "one"), ("x-request-id", "two")])
    assert answer.headers.get_list("x-request-id") == ["one"]


# ---------------------------------------------------------------- status reads


def native(world: World) -> tuple[str, str]:
    job_id = world.submit()["id"]
    return job_id, f"/v1/jobs/{job_id}"


def video(world: World) -> tuple[str, str]:
    job_id = world.http.post("/v1/videos", json={"prompt": "a"}).json()["id"]
    return job_id, f"/v1/videos/{job_id}"


def task(world: World) -> tuple[str, str]:
    answer = world.http.post("/v1/tasks", json={"task_id": "t", "prompt": "a"}).json()
    (job_id,) = (job.id for job in world.fake.jobs.values() if job.submission.alias == answer["task_id"])
    return job_id, "/v1/tasks/t/status"


@pytest.mark.parametrize("make", [native, video, task])
def test_reads_of_a_finished_job_are_answered_from_memory(
    world: World, make: Callable[[World], tuple[str, str]]
) -> None:
    job_id, path = make(world)
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)
    first = world.http.get(path)
    world.fake.calls.clear()
    world.fake.down = True
    again = [world.http.get(path) for _ in range(3)]
    assert {(answer.status_code, answer.content) for answer in again} == {(200, first.content)}
    assert world.fake.calls == []


@pytest.mark.parametrize("make", [native, video, task])
def test_a_read_shows_every_change_although_answers_are_kept(
    world: World, make: Callable[[World], tuple[str, str]]
) -> None:
    job_id, path = make(world)
    world.poll(job_id)
    changes: list[Callable[[], Any]] = [
        lambda: world.fake.run(job_id),
        lambda: world.fake.follow(job_id),  # as of a job that is polled
        *(lambda step=step: world.fake.step(job_id, step) for step in range(1, 4)),
        lambda: world.fake.lose(job_id),
        lambda: world.fake.run(job_id, "cpu-1"),
        lambda: world.fake.fail(job_id, "out of paint"),
    ]
    read = [world.http.get(path).json()]
    for change in changes:
        world.do(change)
        assert world.http.get(path).json() == world.http.get(path).json()
        read.append(world.http.get(path).json())
    progress = [answer["progress"] for answer in read]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 4
    assert read[-1]["status" if "status" in read[-1] else "state"] == "failed"
    assert "out of paint" in str(read[-1]["error"])


def test_a_job_of_another_tenant_is_not_shown_from_memory(open_edge: Callable[..., World], tmp_path: Any) -> None:

    keys = tmp_path / "keys.jsonl"
    write_keys(keys, [KeyRecord(name=name, hash=hash_of(name), tenant=name) for name in ("red", "blue")])
    world = open_edge(keys_file=str(keys))
    job = world.http.post("/v1/jobs", json={"prompt": "a"}, headers={"X-API-Key": "red"}).json()
    path = job["urls"]["self"]
    assert world.http.get(path, headers={"X-API-Key": "red"}).status_code == 200
    assert world.http.get(path, headers={"X-API-Key": "blue"}).status_code == 404
    assert world.http.get(path).status_code == 401


# ---------------------------------------------------------------- metrics


def test_requests_are_counted_by_how_long_they_took(world: World) -> None:
    for _ in range(3):
        world.http.get("/livez")
    world.edge.metrics.observe("/slow", "GET", 200, 3.0)
    world.edge.metrics.observe("/slow", "POST", 200, 0.002)
    world.edge.metrics.observe("/slow", "POST", 200, 100.0)
    text = world.http.get("/metrics").text
    assert 'zoetrope_edge_requests_total{method="GET",route="/livez",status="200"} 3.0' in text
    assert 'zoetrope_edge_request_seconds_count{route="/livez"} 3.0' in text
    buckets = re.findall(r'zoetrope_edge_request_seconds_bucket\{le="([^"]+)",route="/slow"\} (\S+)', text)
    assert [(le, count) for le, count in buckets if le in ("0.001", "0.0025", "2.5", "10.0", "60.0", "+Inf")] == [
        ("0.001", "0.0"),
        ("0.0025", "1.0"),
        ("2.5", "1.0"),
        ("10.0", "2.0"),
        ("60.0", "2.0"),
        ("+Inf", "3.0"),
    ]
    assert 'zoetrope_edge_request_seconds_sum{route="/slow"} 103.002' in text
    open_metrics = world.http.get("/metrics", headers={"accept": "application/openmetrics-text"}).text
    assert "zoetrope_edge_request_seconds_created" in open_metrics
    assert open_metrics.endswith("# EOF\n")


def test_a_fault_of_ours_is_counted_as_500_and_not_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(world.edge.calls.jobs, "get", broken)
    with pytest.raises(ZeroDivisionError):
        world.http.get("/v1/jobs/x")
    text = world.http.get("/metrics").text
    assert 'zoetrope_edge_requests_total{method="GET",route="/v1/jobs/{id}",status="500"} 1.0' in text


def test_an_error_after_the_answer_began_is_no_second_answer(world: World) -> None:
    sent: list[dict[str, Any]] = []

    @_ASK
    async def late(request: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise EdgeError("internal", "late")

        return answer

    edge = world.edge

    pages = WebPages(allowed_hosts=(), cors_origins=(), public_url="", own_names=(), keyed=False)
    front = Middleware(
        [route("/x", GET=late)],
        Access(None, metrics_open=True),
        pages,
        edge.metrics,
        ErrorResponses(FAMILIES),
        1000,
        other=nothing,
    )  # type: ignore[arg-type]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"host", b"localhost")], "state": {}}
    with pytest.raises(RuntimeError, match="begun"):
        world.do(front, scope, nothing, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert scope["state"].keys() == {"request_id"}


def test_a_request_that_is_cut_off_by_a_stop_is_told_to_try_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cancels what still runs when its grace is over; nothing of ours is at fault then."""
    asked = asyncio.Event()

    async def get(job_id: str, tenant: str = "") -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.fake, "get", get)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def stopped() -> None:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/jobs/some-job",
            "raw_path": b"/v1/jobs/some-job",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        running = asyncio.create_task(world.http.app(scope, receive, send))
        await asked.wait()
        running.cancel()
        await asyncio.wait([running])

    assert world.http.portal is not None
    world.http.portal.call(stopped)
    assert sent[0]["status"] == 503
    assert b"retry-after" in dict(sent[0]["headers"])
