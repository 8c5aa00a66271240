"""A pool without a worker takes jobs for the models that it had, and its launcher brings a worker for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.harness.process import Process, clean_environ
from tests.support.waiting import wait_until
from tests.testing.service import Service
from workers.launchers.child import Report, command
from workers.launchers.edge_service import EdgeService
from workers.launchers.keeper import Keeper
from workers.launchers.order import Order
from workers.launchers.run_log import RunLog
from workers.launchers.settings import read


class OneMachine:
    """Starts workers as processes of this machine."""

    def __init__(self, order: Order, logs: Path) -> None:
        self.order = order
        self.logs = logs
        self.processes: dict[str, Process] = {}
        self.started = 0

    def members(self) -> dict[str, Report | None]:
        return {
            name: Report(
                boot=str(process.pid),
                name=name,
                nodes=("n",),
                host="h",
                pid=process.pid,
                code=process.poll(),
                log="log",
            )
            for name, process in self.processes.items()
        }

    def start(self, name: str) -> None:
        self.started += 1
        arguments = command(self.order, name)[2:]
        self.processes[name] = Process(*arguments, log=self.logs / f"{name}.log", environ=clean_environ())

    def withdraw(self, name: str) -> None:
        raise AssertionError(f"{name} has a machine")

    def release(self, name: str, boot: str) -> None:
        assert boot == str(self.processes.pop(name).pid)

    def terminate(self, name: str, boot: str) -> None:
        self.processes[name].terminate()

    def notices(self) -> dict[str, float]:
        return {}


@pytest.fixture
def service(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("ZOETROPE_ON_DEMAND_MODELS", "fake")
    service = Service(short_dir)
    try:
        service.start("broker", "edge")
        service.ready(0)
        yield service
    finally:
        service.close()


def test_a_job_brings_a_worker_to_a_pool_that_had_none_over_a_restart_of_broker_and_edge(
    service: Service, short_dir: Path, request: pytest.FixtureRequest
) -> None:
    pool = "--launcher ray --min-workers 0 --max-workers 1 --idle-s 0 --gpus-per-worker 0"
    words = f"{pool} --gpus cpu --model fake --home {short_dir / 'z'}"
    order = read([*words.split(), "--url", str(service.http.base_url)], {}).order
    machine = OneMachine(order, short_dir)
    clock = iter(range(10_000))
    edge = EdgeService(order)
    request.addfinalizer(edge.close)
    keeper = Keeper(order, machine, edge, RunLog(short_dir / "pool.jsonl"), next(clock))

    def kept_until(condition, what):
        def look():
            now = float(next(clock))
            keeper.step(now, now)
            return condition()

        wait_until(look, 120, f"{what}; logs:\n{service.tail()}")

    # Nobody has ever had a model.
    assert service.http.post("/v1/jobs", json={"prompt": "a cat"}).status_code == 503
    machine.start("w0")
    service.ready(1)
    kept_until(lambda: not machine.processes, "the idle worker to leave")
    service.kill("edge")
    service.kill("broker")
    service.start("broker", "edge")
    service.ready(0)

    job = service.http.post("/v1/jobs", json={"prompt": "a cat", "model": "fake"})
    assert job.status_code == 200, job.text
    kept_until(lambda: service.job(job.json()["id"])["state"] == "succeeded", "the job to be drawn")
    assert machine.started == 2
    kept_until(lambda: not machine.processes, "the worker to leave again")
