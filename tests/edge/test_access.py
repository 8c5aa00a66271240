"""API keys: who may ask, what each family answers otherwise, and that tenants do not see each other."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.jobspec import decode_spec
from broker.wire.messages import Held
from http_edge.auth.keys import KeyRecord, hash_of, write_keys
from http_edge.base.idempotency import job_key
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.support.waiting import wait_until

RED, BLUE, OLD, CHIEF = "zk_red", "zk_blue", "zk_old", "zk_chief"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.jsonl"
    write_keys(
        path,
        [
            KeyRecord(name="red", hash=hash_of(RED), tenant="red", max_queued=3, max_running=1, max_priority=4),
            KeyRecord(name="blue", hash=hash_of(BLUE), tenant="blue"),
            KeyRecord(name="chief", hash=hash_of(CHIEF), tenant="chief", operator=True),
            KeyRecord(name="old", hash=hash_of(OLD), tenant="red", expires_at=1_000.0),
        ],
    )
    return path


@pytest.fixture
def guarded(open_edge: Callable[..., World], keys_file: Path) -> World:
    return open_edge(keys_file=str(keys_file))


def create(world: World, key: str, **fields: Any) -> dict[str, Any]:
    response = world.http.post("/v1/jobs", json={"prompt": "a red circle", **fields}, headers=bearer(key))
    assert response.status_code == 200, response.text
    return response.json()


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    ("method", "path", "member"),
    [
        ("GET", "/v1/jobs", "error"),
        ("POST", "/v1/jobs", "error"),
        ("GET", "/v1/workers", "error"),
        ("POST", "/v1/videos", "error"),
        ("GET", "/v1/models", "error"),
        ("POST", "/v1/images/generations", "error"),
        ("POST", "/v1/files", "error"),
        ("POST", "/v1/tasks/video", "detail"),
        ("GET", "/v1/tasks/queue/status", "detail"),
        ("POST", "/v1/local/video/generate", "detail"),
        ("GET", "/api/v1/task/list", "detail"),
        ("GET", "/nowhere", "error"),
    ],
)
@pytest.mark.parametrize(
    "headers", [{}, bearer("zk_wrong"), bearer(OLD), {"X-API-Key": "zk_wrong"}, {"Authorization": f"Basic {RED}"}]
)
def test_without_a_key_every_family_says_401_in_its_own_shape(
    guarded: World, method: str, path: str, member: str, headers: dict[str, str]
) -> None:
    response = guarded.http.request(method, path, headers=headers, content=b"")
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["x-request-id"]
    assert member in response.json()
    assert "zk_" not in response.text
    assert guarded.fake.calls in ([], ["watch"], ["watch", "list"])


@pytest.mark.parametrize(
    "headers",
    [bearer(RED), {"X-API-Key": RED}, {"authorization": f"bearer  {RED} "}, {**bearer("dummy"), "X-API-Key": RED}],
)
def test_a_key_is_taken_from_either_header(guarded: World, headers: dict[str, str]) -> None:
    assert guarded.http.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/livez", "/liveness", "/metrics", "/"])
def test_probes_need_no_key(guarded: World, path: str) -> None:
    assert guarded.http.get(path).status_code == 200


def test_metrics_can_be_closed(open_edge: Callable[..., World], keys_file: Path) -> None:
    world = open_edge(keys_file=str(keys_file), metrics_open=False)
    assert world.http.get("/metrics").status_code == 401
    assert world.http.get("/metrics", headers=bearer(RED)).status_code == 200


def test_without_a_keys_file_any_key_will_do(world: World) -> None:
    assert world.http.get("/v1/jobs", headers=bearer("whatever")).status_code == 200
    assert world.http.get("/v1/jobs").status_code == 200


def test_a_key_that_is_removed_counts_no_more_without_a_restart(guarded: World, keys_file: Path) -> None:
    assert guarded.http.get("/v1/jobs", headers=bearer(RED)).status_code == 200
    write_keys(keys_file, [KeyRecord(name="blue", hash=hash_of(BLUE), tenant="blue")])
    assert guarded.http.get("/v1/jobs", headers=bearer(RED)).status_code == 401
    assert guarded.http.get("/v1/jobs", headers=bearer(BLUE)).status_code == 200


# ---------------------------------------------------------------- what a key may do


def test_a_priority_above_the_keys_is_403_and_one_not_asked_for_is_lowered(guarded: World) -> None:
    refused = guarded.http.post("/v1/jobs", json={"prompt": "a", "priority": 9}, headers=bearer(RED))
    assert refused.status_code == 403
    assert refused.json()["error"]["param"] == "priority"
    assert create(guarded, RED)["priority"] == 4
    assert create(guarded, RED, priority=2)["priority"] == 2
    assert create(guarded, BLUE, priority=9)["priority"] == 9


def test_a_key_that_is_no_operators_may_not_drain_workers(guarded: World) -> None:
    back = guarded.http.post("/v1/workers/cpu-0/undrain", headers=bearer(RED))
    assert (back.status_code, "undrain_worker" in guarded.fake.calls) == (403, False)
    refused = guarded.http.post("/v1/workers/cpu-0/drain", headers=bearer(RED))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert guarded.fake.workers["cpu-0"].state == "idle"


def test_an_operators_key_drains_workers_and_sees_no_other_tenants_jobs(guarded: World) -> None:
    job = create(guarded, RED)
    assert guarded.http.post("/v1/workers/cpu-0/drain", headers=bearer(CHIEF)).status_code == 202
    assert guarded.fake.workers["cpu-0"].state == "draining"
    assert guarded.http.post("/v1/workers/cpu-0/undrain", headers=bearer(CHIEF)).status_code == 202
    assert guarded.http.get(f"/v1/jobs/{job['id']}", headers=bearer(CHIEF)).status_code == 404
    assert guarded.http.post(f"/v1/jobs/{job['id']}/pause", headers=bearer(CHIEF)).status_code == 404


def test_limits_go_with_the_job_and_a_full_queue_is_429(guarded: World) -> None:
    job = create(guarded, RED)
    submit = guarded.fake.submits[job["id"]]
    assert (submit.submission.tenant, submit.max_queued, submit.submission.max_running) == ("red", 3, 1)
    create(guarded, RED)
    create(guarded, RED)
    refused = guarded.http.post("/v1/videos", json={"prompt": "a"}, headers=bearer(RED))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "7"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    create(guarded, BLUE)


# ---------------------------------------------------------------- whose jobs


def test_a_job_exists_for_its_tenant_alone(guarded: World) -> None:
    job = create(guarded, RED)
    guarded.do(guarded.fake.run, job["id"])
    guarded.do(guarded.fake.succeed, job["id"])
    base = f"/v1/jobs/{job['id']}"
    paths = [
        ("GET", base),
        ("GET", f"{base}/events"),
        ("GET", f"{base}/result"),
        ("POST", f"{base}/cancel"),
        *(("POST", f"{base}/{action}") for action in ("pause", "resume", "commit")),
        ("DELETE", base),
        ("PUT", f"{base}/pin"),
    ]
    for _ in range(2):  # also when the edge remembers the job
        for method, path in paths:
            response = guarded.http.request(method, path, headers=bearer(BLUE))
            assert response.status_code == 404, (method, path)
        assert guarded.http.get(base, headers=bearer(RED)).json()["state"] == "succeeded"
        assert guarded.http.get(f"{base}/result", headers=bearer(RED)).status_code == 200


def test_no_route_with_an_id_reaches_another_tenants_job_or_file(guarded: World) -> None:
    """Every route of the document, so that one to come is held to it, too."""
    upload = {"file": ("cat.png", b"\x89PNG", "image/png")}
    names = {
        "/v1/files": guarded.http.post("/v1/files", files=upload, headers=bearer(RED)).json()["id"],
        "/v1/videos": guarded.http.post("/v1/videos", json={"prompt": "a"}, headers=bearer(RED)).json()["id"],
        "/v1/jobs": create(guarded, RED)["id"],
        "/v1/tasks": "red-task",
    }
    guarded.http.post("/v1/tasks/video", json={"prompt": "a", "task_id": "red-task"}, headers=bearer(RED))
    for name in (names["/v1/jobs"], names["/v1/videos"]):
        guarded.do(guarded.fake.run, name)
        guarded.do(guarded.fake.succeed, name)
    names["/v1/images"] = names["/v1/jobs"]
    before = {job_id: job.revision for job_id, job in guarded.fake.jobs.items()}
    reached = set()
    for path, item in guarded.http.get("/openapi.json").json()["paths"].items():
        owner = "/".join(path.split("/")[:3])
        if "{id}" not in path or owner not in names or path.startswith("/v1/videos/characters"):
            continue
        for method in item:
            reached.add(owner)
            response = guarded.http.request(
                method.upper(), path.replace("{id}", names[owner]), json={"prompt": "b"}, headers=bearer(BLUE)
            )
            if (method, path) == ("delete", "/v1/tasks/{id}"):
                assert response.json()["stop_status"] == "do_nothing"
            else:
                assert response.status_code == 404, (method, path)
    assert reached == set(names)
    assert {job_id: job.revision for job_id, job in guarded.fake.jobs.items()} == before
    assert guarded.http.get(f"/v1/files/{names['/v1/files']}", headers=bearer(RED)).status_code == 200


def test_lists_hold_a_tenants_own_jobs(guarded: World) -> None:
    red, blue = create(guarded, RED), create(guarded, BLUE)
    for key, own in ((RED, red), (BLUE, blue)):
        listed = guarded.http.get("/v1/jobs", headers=bearer(key)).json()["data"]
        assert [job["id"] for job in listed] == [own["id"]]


def test_videos_are_their_tenants_own(guarded: World) -> None:
    video = guarded.http.post("/v1/videos", json={"prompt": "a"}, headers=bearer(RED)).json()["id"]
    guarded.do(guarded.fake.run, video)
    guarded.do(guarded.fake.succeed, video)
    for method, path, body in (
        ("GET", f"/v1/videos/{video}", None),
        ("GET", f"/v1/videos/{video}/content", None),
        ("DELETE", f"/v1/videos/{video}", None),
        ("POST", f"/v1/videos/{video}/remix", {"prompt": "b"}),
        ("GET", f"/v1/jobs/{video}", None),
    ):
        response = guarded.http.request(method, path, headers=bearer(BLUE), json=body)
        assert response.status_code == 404, (method, path, response.text)
    assert guarded.http.get("/v1/videos", headers=bearer(BLUE)).json()["data"] == []
    assert [one["id"] for one in guarded.http.get("/v1/videos", headers=bearer(RED)).json()["data"]] == [video]


def test_each_tenant_has_its_own_task_ids(guarded: World) -> None:
    for key in (RED, BLUE):
        taken = guarded.http.post("/v1/tasks/video", json={"prompt": "a", "task_id": "mine"}, headers=bearer(key))
        assert taken.status_code == 200, taken.text
    again = guarded.http.post("/v1/tasks/video", json={"prompt": "a", "task_id": "mine"}, headers=bearer(RED))
    assert again.status_code == 503
    guarded.http.post("/v1/tasks/video", json={"prompt": "b", "task_id": "red's"}, headers=bearer(RED))
    for _ in range(2):
        assert guarded.http.get("/v1/tasks/red's/status", headers=bearer(RED)).status_code == 200
        assert guarded.http.get("/v1/tasks/red's/status", headers=bearer(BLUE)).status_code == 404
    assert sorted(guarded.http.get("/v1/tasks", headers=bearer(BLUE)).json()) == ["mine"]
    assert guarded.http.delete("/v1/tasks/all/running", headers=bearer(BLUE)).json()["stop_status"] == "success"
    states = {view.submission.tenant: view.state for view in guarded.fake.jobs.values()}
    assert states == {"red": "queued", "blue": "cancelled"}


def test_tenants_may_choose_the_same_id_and_learn_nothing_of_each_other(guarded: World) -> None:
    jobs = {key: create(guarded, key, id="mine", prompt=f"for {key}") for key in (RED, BLUE)}
    for key, job in jobs.items():
        assert (job["id"], job["urls"]["self"]) == ("mine", "/v1/jobs/mine")
        assert create(guarded, key, id="mine", prompt=f"for {key}")["submitted_at"] == job["submitted_at"]
        assert guarded.http.get("/v1/jobs/mine", headers=bearer(key)).json()["spec"]["prompt"] == f"for {key}"
        (listed,) = guarded.http.get("/v1/jobs", headers=bearer(key)).json()["data"]
        assert listed["id"] == "mine"
        other = guarded.http.post("/v1/jobs", json={"prompt": "another", "id": "mine"}, headers=bearer(key))
        assert (other.status_code, other.json()["detail"]) == (409, "another job bears the id 'mine'")
    # What happens to one's happens to one's alone.
    (blue,) = [view.id for view in guarded.fake.jobs.values() if view.submission.tenant == "blue"]
    guarded.do(guarded.fake.run, blue)
    guarded.do(guarded.fake.succeed, blue)
    result = guarded.http.get("/v1/jobs/mine/result", headers=bearer(BLUE))
    assert (result.status_code, "mine.mp4" in result.headers["content-disposition"]) == (200, True)
    assert guarded.http.get("/v1/jobs/mine/result", headers=bearer(RED)).status_code == 404
    assert '"succeeded"' in guarded.http.get("/v1/jobs/mine/events", headers=bearer(BLUE)).text
    assert guarded.http.put("/v1/jobs/mine/pin", headers=bearer(BLUE)).json()["pinned"]
    assert not guarded.http.get("/v1/jobs/mine/pin", headers=bearer(RED)).json()["pinned"]
    cancelled = guarded.http.post("/v1/jobs/mine/cancel", headers=bearer(RED)).json()
    assert (cancelled["id"], cancelled["job"]["state"]) == ("mine", "cancelled")
    assert guarded.http.delete("/v1/jobs/mine?purge=true", headers=bearer(BLUE)).json()["deleted"]
    assert guarded.http.get("/v1/jobs/mine", headers=bearer(BLUE)).status_code == 404
    assert guarded.http.get("/v1/jobs/mine", headers=bearer(RED)).json()["state"] == "cancelled"
    # Neither may be named by how the journal has it, but by its own tenant.
    assert guarded.http.get(f"/v1/jobs/{next(iter(guarded.fake.jobs))}", headers=bearer(BLUE)).status_code == 404


def test_pages_go_on_behind_an_id_that_its_client_chose(guarded: World) -> None:
    for name in ("a", "b", "c"):
        create(guarded, BLUE, id=name)
        create(guarded, RED, id=name)
    page = guarded.http.get("/v1/jobs?limit=2", headers=bearer(RED)).json()
    assert ([job["id"] for job in page["data"]], page["last_id"]) == (["c", "b"], "b")
    rest = guarded.http.get(f"/v1/jobs?limit=2&after={page['last_id']}", headers=bearer(RED)).json()
    assert [job["id"] for job in rest["data"]] == ["a"]


def test_nobody_can_take_the_id_that_an_idempotency_key_makes(guarded: World) -> None:
    def keyed(key: str) -> Any:
        return guarded.http.post(
            "/v1/jobs", json={"prompt": "a"}, headers={**bearer(key), "Idempotency-Key": "order 17"}
        )

    made = f"job-{job_key('red', '/v1/jobs', 'order 17')}"
    for name in (made, f"job-{'0' * 31}"):
        taken = guarded.http.post("/v1/jobs", json={"prompt": "b", "id": name}, headers=bearer(BLUE))
        assert (taken.status_code, taken.json()["error"]["param"]) == (422, "id")
    assert keyed(RED).json()["id"] == made
    assert keyed(BLUE).json()["id"] != made


def test_jobs_of_before_there_were_keys_are_found_by_their_ids(
    open_edge: Callable[..., World], keys_file: Path
) -> None:
    record = KeyRecord(name="old", hash=hash_of("zk_default"), tenant="default")
    write_keys(keys_file, [record])
    open_edge().submit(id="mine")
    later = open_edge(keys_file=str(keys_file))
    assert later.http.get("/v1/jobs/mine", headers=bearer("zk_default")).json()["id"] == "mine"


def test_uploaded_files_are_their_tenants_own(guarded: World) -> None:
    upload = {"file": ("notes.txt", b"text")}
    file_id = guarded.http.post("/v1/files", files=upload, data={"purpose": "vision"}, headers=bearer(RED)).json()["id"]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        response = guarded.http.request(method, f"/v1/files/{file_id}{path}", headers=bearer(BLUE))
        assert response.status_code == 404
    assert guarded.http.get("/v1/files", headers=bearer(BLUE)).json()["data"] == []
    assert [one["id"] for one in guarded.http.get("/v1/files", headers=bearer(RED)).json()["data"]] == [file_id]
    used = guarded.http.post(
        "/v1/jobs", json={"prompt": "a", "model": "animate", "image": file_id}, headers=bearer(BLUE)
    )
    assert used.status_code == 422
    assert "does not exist" in used.text


def test_a_file_that_was_saved_for_one_tenant_is_not_replaced_for_another(guarded: World) -> None:
    job = create(guarded, BLUE, save_to="clip.mp4")
    late = create(guarded, RED, save_to="clip.mp4")
    for one in (job, late):
        guarded.do(guarded.fake.run, one["id"])
        guarded.do(guarded.fake.succeed, one["id"], video_mp4=one["id"].encode())
        guarded.http.get(f"/v1/jobs/{one['id']}", headers=bearer(BLUE if one is job else RED))
    assert (guarded.start / "clip.mp4").read_bytes() == job["id"].encode()
    reported = guarded.http.get(f"/v1/jobs/{late['id']}", headers=bearer(RED)).json()
    assert "exists already" in reported["save_error"]
    refused = guarded.http.post("/v1/jobs", json={"prompt": "a", "save_to": "clip.mp4"}, headers=bearer(RED))
    assert refused.status_code == 422
    create(guarded, BLUE, save_to="clip.mp4")


def test_no_path_leads_to_what_another_tenant_has(guarded: World) -> None:
    job = create(guarded, RED, model="org/picture", save_to="theirs/red.png")
    guarded.do(guarded.fake.run, job["id"])
    guarded.do(guarded.fake.succeed, job["id"], image_png=picture())
    assert guarded.http.get(f"/v1/jobs/{job['id']}", headers=bearer(RED)).json()["save_error"] is None
    upload = {"file": ("red.png", picture((1, 2, 3)))}
    file_id = guarded.http.post("/v1/files", files=upload, data={"purpose": "vision"}, headers=bearer(RED)).json()["id"]
    sent = create(guarded, RED, model="animate", image="data:image/png;base64," + b64encode(picture()).decode())
    home = guarded.start / ".zoetrope"
    (artefact,) = (home / "artefacts" / job["id"]).rglob("image.png")
    kept = decode_spec(guarded.fake.jobs[sent["id"]].body).image
    (guarded.start / "link").symlink_to(home)
    (guarded.start / "link.png").symlink_to(artefact)
    (guarded.start / "saved.png").symlink_to(guarded.start / "theirs" / "red.png")
    (guarded.start / "own.png").write_bytes(picture())
    paths = {
        str(artefact),
        str(artefact.relative_to(guarded.start)),
        f"x/../{artefact.relative_to(guarded.start)}",
        f"link/artefacts/{artefact.relative_to(home / 'artefacts')}",
        "link.png",
        kept,
        str(home / "uploads" / "files" / f"{file_id}.data"),
        "theirs/red.png",
        str(guarded.start / "theirs" / "red.png"),
        "theirs/../theirs/./red.png",
        "saved.png",
        f"file://{artefact}",
        "/proc/self/cwd/theirs/red.png",
    }
    for path in sorted(paths):
        for route, fields in {
            "/v1/jobs": {"model": "animate", "image": path},
            "/v1/videos": {"model": "animate", "input_reference": path},
            "/v1/images/edits": {"model": "animate", "image": path},
            "/v1/tasks/video": {"image_path": path},
            "/v1/local/video/generate": {"task_id": "t", "image_path": path, "save_video_path": "b.mp4"},
            "/api/v1/task/submit": {"task": "i2v", "input_image": {"type": "path", "data": path}},
        }.items():
            before = len(guarded.fake.submits)
            answer = guarded.http.post(route, json={"prompt": "a", **fields}, headers=bearer(BLUE))
            taken = len(guarded.fake.submits) - before
            image = decode_spec(list(guarded.fake.jobs.values())[-1].body).image if taken else ""
            assert (taken, image) in ((0, ""), (1, "")), (route, path, answer.text)
        for route in ("/v1/files/download/", "/v1/file/download/"):
            answer = guarded.http.get(f"{route}{path}", headers=bearer(BLUE))
            assert answer.status_code != 200 or answer.json()["status"] != "success", (route, path)
    create(guarded, BLUE, model="animate", image="own.png")
    create(guarded, RED, model="animate", image="theirs/red.png")


def test_workers_show_a_tenants_own_jobs(guarded: World) -> None:
    ids = {key: create(guarded, key)["id"] for key in (RED, BLUE)}
    for worker, job_id in zip(("cpu-0", "cpu-1"), ids.values(), strict=True):
        guarded.do(guarded.fake.run, job_id, worker)
        view = guarded.fake.workers[worker]
        guarded.fake.workers[worker] = msgspec.structs.replace(view, jobs=(Held(job_id=job_id, fence=1),))

    def shown(key: str) -> list[str]:
        workers = guarded.http.get("/v1/workers", headers=bearer(key)).json()["data"]
        return [worker["job"] for worker in workers if worker["job"] and worker["state"] == "busy"]

    wait_until(lambda: shown(RED), what="a look at the workers that is not the one before")
    assert (shown(RED), shown(BLUE)) == ([ids[RED]], [ids[BLUE]])


def test_jobs_of_the_open_mode_are_the_default_tenants(world: World) -> None:
    assert world.fake.submits[world.submit()["id"]].submission.tenant == "default"


# ---------------------------------------------------------------- browsers


def test_pages_of_other_origins_are_told_nothing_by_default(world: World) -> None:
    response = world.http.get("/v1/jobs", headers={"Origin": "https://studio.example"})
    assert "access-control-allow-origin" not in response.headers


def test_named_origins_may_ask_before_they_have_a_key(open_edge: Callable[..., World], keys_file: Path) -> None:
    world = open_edge(keys_file=str(keys_file), cors_origins=("https://studio.example",))
    asks = {
        "Origin": "https://studio.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    allowed = world.http.options("/v1/jobs", headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://studio.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert world.http.options("/v1/jobs", headers={**asks, "Origin": "https://elsewhere.example"}).status_code == 400
    refused = world.http.get("/v1/jobs", headers={"Origin": "https://studio.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://studio.example"
    assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()


# ---------------------------------------------------------------- headers


def test_too_many_or_too_large_headers_are_431(world: World) -> None:
    many = world.http.get("/v1/jobs", headers={f"x-{n}": "1" for n in range(200)})
    assert many.status_code == 431
    large = world.http.get("/v1/jobs", headers={"x-large": "a" * 70_000})
    assert large.status_code == 431
    assert "at most" in large.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "cc-" + "a" * 32 + "-" + "b" * 16 + "-01-more"]
)
def test_a_valid_trace_goes_on_in_the_job_and_in_the_answer(world: World, sent: str) -> None:
    headers = {"traceparent": sent, "tracestate": "vendor=1"}
    response = world.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    reported = response.headers["traceparent"]
    assert reported.startswith("00-" + "a" * 32)
    assert "b" * 16 not in reported, "this request is a span of its own"
    assert response.headers["tracestate"] == "vendor=1"
    assert spec_of(world, response.json()["id"]).traceparent == reported


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
    ],
)
def test_a_request_without_a_valid_trace_begins_one(world: World, sent: str) -> None:
    traces = {
        world.http.get("/v1/jobs", headers={"traceparent": sent, "tracestate": "a=1"}).headers["traceparent"]
        for _ in range(2)
    }
    assert len(traces) == 2
    assert not any(trace.startswith("00-" + "a" * 32) for trace in traces)
    assert "tracestate" not in world.http.get("/v1/jobs", headers={"traceparent": sent, "tracestate": "a=1"}).headers


def spec_of(world: World, job_id: str) -> Any:
    return decode_spec(world.fake.jobs[job_id].body)
