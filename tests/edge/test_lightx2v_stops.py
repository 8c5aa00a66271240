"""LightX2V gen-2 and gen-3: stopping tasks, the queue and the service in numbers, one worker's view."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.edge.conftest import World
from tests.edge.test_lightx2v_tasks import STOPPED, local, newest, post, run, status
from tests.testing.fake_broker import VIDEO, worker


def test_stopping_a_running_task_waits_until_it_has_stopped(world: World) -> None:
    post(world, task_id="t")
    run(world)
    assert world.http.delete("/v1/tasks/t").json() == STOPPED
    stopped = status(world, "t")
    assert (stopped["status"], stopped["error"], stopped["success"]) == ("cancelled", "Task cancelled by user", False)


def test_stopping_a_waiting_task(world: World) -> None:
    post(world, task_id="t")
    assert world.http.delete("/v1/tasks/t/", follow_redirects=False).json() == STOPPED


def test_there_is_nothing_to_stop_in_a_task_that_is_over_or_unknown(world: World) -> None:
    post(world, task_id="t")
    run(world, succeed=True)
    for name in ("t", "nobody"):
        answer = world.http.delete(f"/v1/tasks/{name}")
        assert (answer.status_code, answer.json()) == (
            200,
            {"stop_status": "do_nothing", "reason": "Task not found or already completed."},
        )


def test_a_task_that_does_not_stop_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.api.lightx2v.views.STOP_WAIT_S", 0.01)
    world.fake.obeys_cancel = False
    post(world, task_id="t")
    run(world)
    assert world.http.delete("/v1/tasks/t").json()["stop_status"] == "warning"
    assert status(world, "t")["status"] == "processing"


def test_stopping_all_stops_hundreds_that_wait_and_those_that_run(world: World) -> None:
    other = world.submit()
    for number in range(250):
        post(world, task_id=f"t{number}")
        if number < 2:
            world.do(world.fake.run, newest(world), f"cpu-{number}")
    stopped = {"stop_status": "success", "reason": "All tasks stopped successfully."}
    assert world.http.delete("/v1/tasks/all/running").json() == stopped
    states = {job.submission.alias: job.state for job in world.fake.jobs.values()}
    assert states.pop("") == "queued"
    assert set(states.values()) == {"cancelled"}
    assert world.http.get(other["urls"]["self"]).json()["state"] == "queued"
    # Nothing to stop is fine too.
    assert world.http.delete("/v1/tasks/all/running").json() == stopped


def test_stopping_what_runs_leaves_what_waits(world: World) -> None:
    nothing = {"stop_status": "do_nothing", "reason": "No running task found."}
    assert world.http.delete("/v1/tasks/running").json() == nothing
    post(world, task_id="runs")
    run(world)
    post(world, task_id="waits")
    assert world.http.delete("/v1/tasks/running").json() == STOPPED
    assert (status(world, "runs")["status"], status(world, "waits")["status"]) == ("cancelled", "pending")


@pytest.mark.parametrize("path", ["/v1/tasks/t", "/v1/tasks/all/running", "/v1/tasks/running"])
def test_stopping_without_a_broker_is_an_error_in_its_shape(world: World, path: str) -> None:
    post(world, task_id="t")
    world.fake.down = True
    answer = world.http.delete(path)
    assert (answer.status_code, answer.json()) == (
        200,
        {"stop_status": "error", "reason": "the broker did not answer within 10 s"},
    )


# ---------------------------------------------------------------- the service


def test_the_queue_in_numbers(world: World) -> None:
    assert world.http.get("/v1/tasks/queue/status").json() == {
        "is_processing": False,
        "current_task": None,
        "pending_count": 0,
        "active_count": 0,
        "queue_size": 100,
        "queue_available": 100,
    }
    for name in ("first", "second", "third"):
        post(world, task_id=name)
        if name == "first":
            run(world)
    assert world.http.get("/v1/tasks/queue/status/").json() == {
        "is_processing": True,
        "current_task": "first",
        "pending_count": 2,
        "active_count": 3,
        "queue_size": 100,
        "queue_available": 98,
    }


def test_the_service_is_busy_while_no_worker_is_free(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    idle = world.http.get("/v1/service/status").json()
    assert idle == {
        "service_status": "idle",
        "task_id": None,
        "start_time": None,
        "current_task": None,
        "active_tasks": [],
        "pending_tasks": 0,
        "queue_size": 100,
        "total_tasks": 0,
        "completed_tasks": 0,
        "failed_tasks": 0,
    }
    post(world, task_id="done")
    run(world, succeed=True)
    post(world, task_id="t0")
    run(world)
    one = world.http.get("/v1/service/status").json()
    assert (one["service_status"], one["current_task"]) == ("idle", "t0")
    post(world, task_id="t1")
    world.do(world.fake.run, newest(world), "cpu-1")
    post(world, task_id="t2")
    busy = world.http.get("/v1/service/status").json()
    assert busy == {
        "service_status": "busy",
        "task_id": "t0",
        "start_time": local(world.fake.jobs[list(world.fake.jobs)[1]].started_at),
        "current_task": "t0",
        "active_tasks": ["t0", "t1"],
        "pending_tasks": 1,
        "queue_size": 100,
        "total_tasks": 4,
        "completed_tasks": 1,
        "failed_tasks": 0,
    }


def test_metadata_names_the_model(world: World) -> None:
    assert world.http.get("/v1/service/metadata").json() == {
        "nproc_per_node": 2,
        "model_cls": "demo",
        "model_path": "demo",
        "models": ["demo", "animate", "org/picture"],
    }


def test_metadata_keeps_the_models_directory_to_itself(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    card = msgspec.structs.replace(VIDEO, source="/srv/models/private")
    for name in world.fake.workers:
        world.fake.workers[name] = worker(name, card)
    answer = world.http.get("/v1/service/metadata")
    assert answer.json()["model_path"] == VIDEO.name
    assert "/srv/models" not in answer.text


def test_a_workers_edge_takes_lists_and_stops_its_own(open_edge: Callable[..., World]) -> None:
    zero, one = open_edge(worker="cpu-0"), open_edge(worker="cpu-1")
    post(zero, task_id="mine")
    assert zero.fake.jobs[newest(zero)].submission.pinned == "cpu-0"
    zero.do(zero.fake.run, newest(zero))
    assert zero.http.get("/v1/service/status").json()["service_status"] == "busy"
    assert one.http.get("/v1/service/status").json()["service_status"] == "idle"
    assert one.http.get("/v1/tasks").json() == {}
    assert one.http.delete("/v1/tasks/all/running").json()["stop_status"] == "success"
    assert status(zero, "mine")["status"] == "processing"
    post(one, task_id="mine")
    assert one.http.get("/v1/service/metadata").json()["nproc_per_node"] == 1


def test_a_second_edge_knows_the_tasks_of_the_first(open_edge: Callable[..., World]) -> None:
    first, second = open_edge(), open_edge()
    post(first, task_id="t")
    assert status(second, "t")["status"] == "pending"
    assert status(second, "t")["status"] == "pending"
    assert second.http.delete("/v1/tasks/t").json() == STOPPED


def test_a_broker_that_is_down_is_503_with_a_detail(world: World) -> None:
    world.fake.down = True
    for answer in (
        world.http.post("/v1/tasks/video", json={"prompt": "a"}),
        world.http.get("/v1/tasks"),
        world.http.get("/v1/tasks/t/status"),
        world.http.get("/v1/service/status"),
    ):
        assert (answer.status_code, set(answer.json())) == (503, {"detail", "error"})
        assert answer.headers["retry-after"] == "2"


def test_no_workers_yet_is_503(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    world.fake.workers = {"cpu-0": worker("cpu-0", state="starting")}
    answer = world.http.post("/v1/tasks/image", json={"prompt": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


# ---------------------------------------------------------------- across generations

GEN1 = "/v1/local/video/generate"


def test_the_guides_stop_also_stops_what_later_generations_run(world: World) -> None:
    post(world, task_id="newer")
    run(world)
    post(world, task_id="waits")
    assert world.http.get(f"{GEN1}/stop_running_task").json() == STOPPED
    assert (status(world, "newer")["status"], status(world, "waits")["status"]) == ("cancelled", "pending")


def test_the_guides_stop_finds_a_later_generations_task_by_its_id(world: World) -> None:
    post(world, task_id="newer")
    run(world)
    assert world.http.get(f"{GEN1}/stop_running_task", params={"task_id": "newer"}).json() == STOPPED


@pytest.mark.parametrize("path", ["/v1/tasks/running", "/v1/tasks/all/running"])
def test_later_generations_stop_what_the_first_runs(world: World, path: str) -> None:
    world.http.post(GEN1, json={"task_id": "t", "prompt": "a", "save_video_path": "a.mp4"})
    run(world)
    assert world.http.delete(path).json()["stop_status"] == "success"
    assert world.fake.jobs[newest(world)].state == "cancelled"


def test_where_another_api_runs_something_the_answer_says_what_stops_it(world: World) -> None:
    world.submit()
    run(world)
    for answer in (world.http.get(f"{GEN1}/stop_running_task"), world.http.delete("/v1/tasks/running")):
        assert answer.json()["stop_status"] == "do_nothing"
        assert answer.json()["reason"].startswith("No running task found.")
        assert "DELETE /v1/jobs/{id}" in answer.json()["reason"]
    assert world.fake.jobs[newest(world)].state == "running"
