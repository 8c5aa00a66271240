"""Health, workers, models, metrics, the index, and what every response carries."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from broker.client import errors
from broker.wire import messages as m
from broker.wire.loras import LoraMemory
from broker.wire.messages import DepotWait, DeviceHealth, Held, Loading
from tests.edge.conftest import World
from tests.support.waiting import wait_until
from tests.testing.fake_broker import VIDEO, worker

READINESS = ["/health", "/readyz", "/healthz", "/health_generate"]


@pytest.mark.parametrize("path", READINESS)
def test_ready_is_200(world: World, path: str) -> None:
    response = world.http.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "healthy", "workers_ready": 2, "workers": 2})


@pytest.mark.parametrize("path", READINESS)
def test_no_ready_worker_is_503_with_the_reason(world: World, path: str) -> None:
    world.fake.workers = {"gpu-0": worker("gpu-0", VIDEO, state="starting"), "gpu-1": worker("gpu-1", state="lost")}
    response = world.http.get(path)
    assert response.status_code == 503
    assert response.json() == {
        "status": "unhealthy",
        "reasons": ["no worker is ready: gpu-0 is starting, gpu-1 is lost"],
    }
    assert response.headers["retry-after"] == "2"


def test_a_group_that_waits_for_machines_says_so_and_why_a_model_cannot_be_loaded_is_no_probes_affair(
    world: World,
) -> None:
    waits = msgspec.structs.replace(
        worker("gpu-0", VIDEO, state="starting"), loading=Loading(phase="", error="waiting for 1 of 2 machines")
    )
    fails = msgspec.structs.replace(
        worker("gpu-1", VIDEO, state="starting"), loading=Loading(error="there is no /models/wan")
    )
    world.fake.workers = {"gpu-0": waits, "gpu-1": fails}
    reason = "no worker is ready: gpu-0 is starting, waiting for 1 of 2 machines, gpu-1 is starting"
    assert world.http.get("/health").json()["reasons"] == [reason]
    shown = [one["loading"]["error"] for one in world.http.get("/v1/workers").json()["data"]]
    assert shown == ["waiting for 1 of 2 machines", "there is no /models/wan"]
    world.fake.workers["gpu-2"] = worker("gpu-2", VIDEO)
    warnings = wait_until(lambda: world.http.get("/health").json().get("warnings"))
    assert warnings == ["gpu-0 is starting, waiting for 1 of 2 machines"]


def test_an_edge_of_one_worker_is_ready_when_that_one_is(open_edge: Callable[..., World]) -> None:
    world = open_edge(worker="cpu-0")
    world.fake.workers["cpu-1"] = worker("cpu-1", VIDEO, state="starting")
    ready = world.http.get("/health")
    assert (ready.status_code, ready.json()) == (200, {"status": "healthy", "workers_ready": 1, "workers": 2})
    other = open_edge(worker="cpu-1").http.get("/health")
    assert (other.status_code, other.json()["reasons"]) == (503, ["no worker is ready: cpu-1 is starting"])
    lone = open_edge(worker="cpu-7").http.get("/health")
    assert (lone.status_code, lone.json()["reasons"]) == (503, ["no worker is ready: cpu-7 has not registered"])


def test_refused_jobs_are_503_with_the_reason_though_workers_are_ready(world: World) -> None:
    world.fake.refusing = "12 inodes are free on the disk of /srv, fewer than 1000"
    response = world.http.get("/health")
    assert response.status_code == 503
    assert response.json()["reasons"] == ["no job is taken: 12 inodes are free on the disk of /srv, fewer than 1000"]


def test_no_broker_is_503_but_alive(world: World) -> None:
    world.fake.down = True
    response = world.http.get("/health")
    assert (response.status_code, response.json()["reasons"]) == (503, ["the broker did not answer within 10 s"])
    for path in ("/livez", "/liveness"):
        assert world.http.get(path).json() == {"status": "alive"}


def test_a_worker_can_be_drained(world: World) -> None:
    response = world.http.post("/v1/workers/cpu-1/drain")

    assert (response.status_code, response.json()["name"], response.json()["state"]) == (202, "cpu-1", "draining")
    shown = {worker["name"]: worker["state"] for worker in world.http.get("/v1/workers").json()["data"]}
    assert shown == {"cpu-0": "idle", "cpu-1": "draining"}


def test_a_drain_is_taken_back_while_the_worker_is_there(world: World) -> None:
    world.http.post("/v1/workers/cpu-1/drain")
    response = world.http.post("/v1/workers/cpu-1/undrain")

    assert (response.status_code, response.json()["name"], response.json()["state"]) == (202, "cpu-1", "idle")
    gone = world.http.post("/v1/workers/gpu-9/undrain")
    assert gone.status_code == 404
    assert 'worker: "gpu-9" is not there, or has left' in gone.json()["error"]["message"]


def test_the_time_that_a_worker_sits_out_is_shown_under_its_old_name_too(world: World) -> None:
    world.fake.workers["cpu-0"] = msgspec.structs.replace(world.fake.workers["cpu-0"], state="tripped", tripped_s=12.5)
    shown = world.http.get("/v1/workers").json()["data"][0]
    assert (shown["state"], shown["tripped_s"], shown["benched_s"]) == ("tripped", 12.5, 12.5)
    text = world.http.get("/metrics").text
    assert 'zoetrope_workers{state="tripped"} 1.0' in text
    assert 'zoetrope_workers{state="benched"} 1.0' in text


def test_the_last_worker_is_not_drained_as_the_service_would_end_with_it(world: World) -> None:
    assert world.http.post("/v1/workers/cpu-1/drain").status_code == 202
    assert world.http.post("/v1/workers/cpu-1/drain").status_code == 202
    refused = world.http.post("/v1/workers/cpu-0/drain")
    assert refused.status_code == 403
    assert 'worker: "cpu-0" is the last one' in refused.json()["detail"]
    assert world.fake.workers["cpu-0"].state == "idle"
    # A worker of another machine does not keep `make run` alive on the broker's; the other way round it does.
    world.fake.workers["lab.gpu-0"] = worker("lab.gpu-0", VIDEO)
    assert world.http.post("/v1/workers/cpu-0/drain").status_code == 403
    assert world.http.post("/v1/workers/lab.gpu-0/drain").status_code == 202
    # One whose launcher brings another when something waits.
    assert world.http.post("/v1/workers/cpu-0/drain?even_last=true").status_code == 202


@pytest.mark.parametrize("name", ["nobody", "x" * 129])
def test_draining_a_worker_that_is_not_there_is_404_with_its_name(world: World, name: str) -> None:
    response = world.http.post(f"/v1/workers/{name}/drain")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert "worker" in response.json()["error"]["message"]


def test_a_model_for_which_nothing_waits_has_a_backlog_of_nought(world: World) -> None:
    """What scales the workers of one model asks for its number, and fails where there is none."""
    backlog = world.http.get("/v1/workers").json()["queue"]["backlog_by_model"]
    assert {card.name for one in world.fake.workers.values() for card in one.models} <= backlog.keys()
    assert 0.0 in backlog.values()


def test_what_waits_is_told_by_class_of_workers(world: World) -> None:
    world.fake.backlog_by_class = (
        m.ClassBacklog(model="demo", device="NVIDIA H100", size=4, jobs=2, backlog_s=9.5, workers=3, busy=1),
        m.ClassBacklog(model="demo", device="", size=8, jobs=1, backlog_s=7.0),
    )
    world.edge.calls.catalogue._pool_at = float("-inf")
    reported = world.http.get("/v1/workers").json()["queue"]["backlog_by_class"]
    assert reported == {
        "demo": {
            "4x-nvidia-h100": {
                "device": "NVIDIA H100",
                "gpus": 4,
                "waiting": 2,
                "backlog_s": 9.5,
                "workers": 3,
                "busy": 1,
            },
            "8x-unknown": {"device": None, "gpus": 8, "waiting": 1, "backlog_s": 7.0, "workers": 0, "busy": 0},
        }
    }
    metrics = world.http.get("/metrics").text
    assert 'zoetrope_backlog_seconds{class="4x-nvidia-h100",model="demo"} 9.5' in metrics
    assert 'zoetrope_waiting_jobs{class="8x-unknown",model="demo"} 1.0' in metrics


def test_jobs_of_models_on_demand_are_taken_without_any_worker(world: World) -> None:
    cards = {card.name: card for one in world.fake.workers.values() for card in one.models}
    world.fake.workers.clear()
    world.edge.calls.catalogue._last_cards = {}
    world.edge.calls.catalogue._pool_at = float("-inf")
    assert world.http.post("/v1/jobs", json={"prompt": "a cat", "model": "demo"}).status_code == 503
    world.fake.on_demand = (m.OnDemandModel(card=cards["demo"], device="H100"),)
    world.edge.calls.catalogue._pool_at = float("-inf")
    assert world.http.post("/v1/jobs", json={"prompt": "a cat", "model": "demo"}).status_code == 200
    refused = world.http.post("/v1/jobs", json={"prompt": "a cat", "model": "animate"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "model_not_found")
    assert [model["id"] for model in world.http.get("/v1/models").json()["data"]] == ["demo"]
    # It could take a job: nobody is to send them elsewhere.
    health = world.http.get("/health")
    assert (health.status_code, health.json()["workers_ready"]) == (200, 0)
    assert "jobs wait until one is started" in health.json()["warnings"][0]
    assert world.http.get("/v1/workers").json()["queue"]["by_model"]["demo"] == 1


def test_workers_are_shown(world: World) -> None:
    world.fake.workers["cpu-1"] = msgspec.structs.replace(
        world.fake.workers["cpu-1"],
        state="busy",
        jobs=(Held(job_id="j", fence=1, phase="denoise", step=3, total=8),),
        heartbeat_age_s=0.25,
        memory_used_mb=512.0,
        temperature_c=60.0,
        succeeded=4,
    )
    body = world.http.get("/v1/workers").json()
    assert (body["object"], body["epoch"], body["queue"]["backlog_s"]) == ("list", 3, 1.5)
    idle, busy = body["data"]
    assert (idle["name"], idle["state"], idle["job"], idle["jobs"], idle["temperature_c"]) == (
        "cpu-0",
        "idle",
        None,
        [],
        None,
    )
    assert (busy["job"], busy["jobs"]) == ("j", [{"id": "j", "phase": "denoise", "step": 3, "total": 8}])
    assert (busy["heartbeat_age_s"], busy["memory_used_mb"], busy["temperature_c"]) == (0.25, 512.0, 60.0)
    assert (idle["power_w"], idle["throttled"], idle["ecc_uncorrected"], idle["xids"], idle["fault"]) == (
        None,
        [],
        None,
        {},
        None,
    )
    assert (busy["succeeded"], busy["models"]) == (4, ["demo", "animate", "org/picture"])


def test_the_loras_in_a_workers_memory_are_shown(world: World) -> None:
    changed = {"loaded_loras": ("film", "pan"), "lora_memory": LoraMemory(host_mb=100, device_mb=50)}
    world.fake.workers["cpu-1"] = msgspec.structs.replace(world.fake.workers["cpu-1"], **changed)
    shown = world.http.get("/v1/workers").json()["data"]
    assert [worker["loaded_loras"] for worker in shown] == [[], ["film", "pan"]]
    assert shown[1]["lora_memory"] == {"host_mb": 100, "device_mb": 50}


def test_why_a_worker_takes_no_job_yet_is_shown(world: World) -> None:
    loading = Loading(phase="warm_up", step=1, total=3, age_s=12.3456)
    world.fake.workers["cpu-1"] = msgspec.structs.replace(
        world.fake.workers["cpu-1"], state="starting", engine="loading", loading=loading, versions={"torch": "2.13.0"}
    )
    idle, starting = world.http.get("/v1/workers").json()["data"]
    assert (idle["loading"], idle["versions"]) == (None, {})
    assert starting["loading"] == {"phase": "warm_up", "step": 1, "total": 3, "seconds": 12.346, "error": None}
    assert starting["versions"] == {"torch": "2.13.0"}


def test_why_a_model_could_not_be_loaded_is_shown(world: World) -> None:
    failed = Loading(error="[models.demo] path: '/m' cannot be loaded: no weights; get its files anew")
    world.fake.workers["cpu-1"] = msgspec.structs.replace(
        world.fake.workers["cpu-1"], state="starting", engine="restarting", loading=failed
    )
    assert world.http.get("/v1/workers").json()["data"][1]["loading"]["error"] == failed.error


FULL = DepotWait(results=16, size_mb=2.5, age_s=61.25, fault="the edge cannot be reached", full=True)


def test_what_waits_for_the_depot_is_shown_counted_and_warned_of(world: World) -> None:
    world.fake.workers["cpu-1"] = msgspec.structs.replace(world.fake.workers["cpu-1"], depot=FULL)
    idle, full = world.http.get("/v1/workers").json()["data"]
    assert idle["depot"] is None
    assert full["depot"] == {
        "results": 16,
        "size_mb": 2.5,
        "inputs": 0,
        "seconds": 61.25,
        "fault": "the edge cannot be reached",
        "full": True,
    }
    text = world.http.get("/metrics").text
    assert 'zoetrope_worker_depot_results{worker="cpu-1"} 16.0' in text
    assert 'zoetrope_worker_depot_full{worker="cpu-1"} 1.0' in text
    assert 'zoetrope_worker_depot_full{worker="cpu-0"} 0.0' in text
    [warning] = world.http.get("/health").json()["warnings"]
    assert "no new job is taken by cpu-1" in warning
    assert FULL.fault not in warning, "whoever asks needs no key"


HEALTH = DeviceHealth(
    power_w=412.5, clock_mhz=1755.0, throttled=("power_cap",), ecc_uncorrected=2, xids={48: 2}, fault="Xid 48: memory"
)


def test_the_health_of_a_gpu_is_shown(world: World) -> None:
    world.fake.workers["cpu-1"] = msgspec.structs.replace(world.fake.workers["cpu-1"], state="faulty", health=HEALTH)
    shown = world.http.get("/v1/workers").json()["data"][1]
    assert (shown["state"], shown["fault"], shown["xids"]) == ("faulty", "Xid 48: memory", {"48": 2})
    assert (shown["power_w"], shown["power_limit_w"], shown["clock_mhz"]) == (412.5, None, 1755.0)
    assert (shown["throttled"], shown["ecc_uncorrected"]) == (["power_cap"], 2)
    text = world.http.get("/metrics").text
    assert 'zoetrope_workers{state="faulty"} 1.0' in text
    assert 'zoetrope_worker_power_watts{worker="cpu-1"} 412.5' in text
    assert 'zoetrope_worker_power_watts{worker="cpu-0"}' not in text, "a CPU's is not known"
    assert 'zoetrope_worker_clock_hertz{worker="cpu-1"} 1.755e+09' in text
    assert 'zoetrope_worker_throttled{reason="power_cap",worker="cpu-1"} 1.0' in text
    assert 'zoetrope_worker_ecc_uncorrected{worker="cpu-1"} 2.0' in text
    assert 'zoetrope_worker_xids_total{worker="cpu-1",xid="48"} 2.0' in text


def test_metrics_show_each_worker_and_how_long_jobs_took(world: World) -> None:
    world.fake.workers["cpu-1"] = msgspec.structs.replace(
        world.fake.workers["cpu-1"], memory_used_mb=2.0, utilisation=50.0, succeeded=4, failed=1
    )
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"])
    never_began = world.submit()
    world.http.delete(f"/v1/jobs/{never_began['id']}")

    text = world.http.get("/metrics").text

    assert 'zoetrope_worker_memory_used_bytes{worker="cpu-1"} 2.097152e+06' in text
    assert 'zoetrope_worker_gpus{worker="cpu-1"} 1.0' in text
    assert 'zoetrope_worker_utilisation_ratio{worker="cpu-1"} 0.5' in text
    assert 'zoetrope_worker_utilisation_ratio{worker="cpu-0"}' not in text, "a CPU's is not known"
    assert 'zoetrope_worker_attempts_total{outcome="failed",worker="cpu-1"} 1.0' in text
    assert 'zoetrope_job_run_seconds_count{model="demo",state="succeeded"} 1.0' in text
    assert 'zoetrope_job_wait_seconds_count{model="demo",state="succeeded"} 1.0' in text
    assert 'state="cancelled"} ' not in text.split("zoetrope_job_run_seconds", 1)[1].split("# HELP")[0]


def test_metrics_count_requests_by_route_template(world: World) -> None:
    job = world.submit()
    world.http.get(job["urls"]["self"])
    world.http.get("/v1/jobs/other")
    world.http.get("/nowhere")
    page = world.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = page.text
    assert 'zoetrope_edge_requests_total{method="GET",route="/v1/jobs/{id}",status="200"} 1.0' in text
    assert 'zoetrope_edge_requests_total{method="GET",route="/v1/jobs/{id}",status="404"} 1.0' in text
    assert 'zoetrope_edge_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'zoetrope_workers{state="idle"} 2.0' in text
    assert 'zoetrope_jobs{state="queued"} 1.0' in text
    assert 'zoetrope_prediction_error_ratio{model="demo"} 0.25' in text
    assert "zoetrope_broker_up 1.0" in text
    assert job["id"] not in text


def test_metrics_without_a_broker_and_as_openmetrics(world: World) -> None:
    world.fake.down = True
    page = world.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert "zoetrope_broker_up 0.0" in page.text
    assert page.text.endswith("# EOF\n")


def test_the_index_names_what_is_here(world: World) -> None:
    body = world.http.get("/").json()
    assert body["name"] == "zoetrope"
    for path in body["links"].values():
        # The LightX2V entry is a route for POST.
        assert world.http.get(path).status_code in (200, 405)


def test_every_response_has_a_request_id(world: World) -> None:
    assert world.http.get("/livez", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    drawn = world.http.get("/livez", headers={"x-request-id": "a b\x7f"}).headers["x-request-id"]
    assert len(drawn) == 32
    assert world.http.get("/nowhere").headers["x-request-id"]
    assert world.http.post("/v1/jobs", content=b"{").headers["x-request-id"]


def test_a_trailing_slash_never_redirects(world: World) -> None:
    job = world.http.post("/v1/jobs/", json={"prompt": "x"}, follow_redirects=False).json()
    for path in (f"/v1/jobs/{job['id']}/", "/v1/jobs/", "/v1/workers/", "/health/", "//"):
        assert world.http.get(f"http://localhost{path}", follow_redirects=False).status_code == 200


#: (what the broker says, status, Retry-After, code)
REFUSALS = [
    (errors.QueueFull("queue_full", "100 jobs are waiting", 7.2), 429, "8", "queue_full"),
    (errors.QueueFull("queue_full", "full", 900.0), 429, "120", "queue_full"),
    (errors.ServiceBusy("busy", "no worker is free", 0.0), 503, "1", "busy"),
    (errors.ShuttingDown("shutting_down", "stopping"), 503, "5", "shutting_down"),
    (errors.SubmitRejected("deadline", "the deadline has passed"), 422, None, "invalid_value"),
    (errors.BrokerUnavailable(), 503, "2", "unavailable"),
]


@pytest.mark.parametrize(("refusal", "status", "retry_after", "code"), REFUSALS, ids=range(len(REFUSALS)))
def test_refusals_of_the_broker(
    world: World, refusal: errors.BrokerError, status: int, retry_after: str | None, code: str
) -> None:
    world.fake.refuse_with = refusal
    response = world.http.post("/v1/jobs", json={"prompt": "x"})
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry_after)
    assert response.json()["error"]["code"] == code
    assert response.json()["detail"] == refusal.message


def test_without_any_worker_ever_there_is_no_catalogue(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    world.fake.workers = {}
    response = world.http.post("/v1/jobs", json={"prompt": "x"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "no_workers"


def test_a_pool_that_restarts_still_has_its_models(world: World) -> None:
    world.submit()
    world.fake.workers = {}
    assert world.submit()["state"] == "queued"


def test_a_new_model_is_found_though_the_catalogue_is_cached(world: World) -> None:
    world.submit()
    world.fake.workers["gpu-9"] = worker("gpu-9", msgspec.structs.replace(VIDEO, name="new"))
    assert world.submit(model="new")["model"] == "new"


def test_a_default_model_is_a_setting(open_edge: Callable[..., World]) -> None:
    world = open_edge(default_model="org/picture")
    assert world.submit()["output"] == "image"
    assert world.submit(output="video")["output"] == "video"
    assert world.submit(model="demo")["output"] == "video"


def test_any_number_of_edges_answer_alike(open_edge: Callable[..., World]) -> None:
    one, two = open_edge(), open_edge()
    job = one.submit(save_to="out.mp4")
    assert two.http.get(job["urls"]["self"]).json()["state"] == "queued"
    two.do(two.fake.run, job["id"])
    two.do(two.fake.succeed, job["id"])
    for world in (two, one):
        world.do(world.edge.hub.on_gap)
        seen = world.http.get(job["urls"]["self"]).json()
        assert (seen["state"], seen["save_error"]) == ("succeeded", None)
        assert world.http.get(job["urls"]["result"]).status_code == 200
    assert (one.start / "out.mp4").exists()


def test_the_lifespan_starts_watches_and_closes_the_broker(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    world.http.get("/livez")
    assert (world.fake.started, world.fake.watched, world.fake.closed) == (True, True, False)
    world.http.__exit__(None, None, None)
    world.http.__enter__()
    assert world.fake.closed


def test_a_fault_of_ours_is_a_500_without_a_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("http_edge.api.native.service_api.worker_json", broken)
    world.http._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    response = world.http.get("/v1/workers")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in response.text
