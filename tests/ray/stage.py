"""A Ray cluster of several nodes on this machine, and a service whose workers it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import ray
import ray.exceptions
import ray.util
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

from bench.harness.process import ROOT, Process, clean_environ, end_all, free_port
from tests.support.waiting import wait_until
from workers.launchers.child import Report

_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
_STORE_BYTES = 80 * 2**20

#: Seconds of silence after which the broker gives a worker up.
LOST_AFTER_S = 4.0

_FINAL = ("succeeded", "failed", "cancelled")

#: Seconds for what takes a few on a machine that has nothing else to do.
LIMIT_S = 300.0

_PYTHON = ROOT / ".venv" / "bin" / "python"


#: Why a node is drained: `ray.core.generated.autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION`.
_PREEMPTION = 2


def _pid(actor: object) -> int:
    return os.getpid()


class Stage:
    """Head without GPUs, nodes with logical ones; broker and edge on this machine, reached by tcp."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.back = free_port(), f"tcp://127.0.0.1:{free_port()}"
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self._make_keys()
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "num_gpus": 0,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                "_system_config": _HEALTH,
            },
        )
        self.address = self.cluster.address
        self._service = [
            self._process(
                "broker", "--back-tcp", self.back, "--lost-after-s", str(LOST_AFTER_S), "--suspect-after-s", "2"
            ),
            self._process("http_edge", "--port", str(self.port), "--host", "127.0.0.1"),
        ]
        self.nodes: list[Any] = []

    def _make_keys(self) -> None:
        base = [sys.executable, "-m", "broker", "keys"]
        for arguments in (["init"], ["add", "ray", "--role", "worker"]):
            subprocess.run(
                [*base, *arguments, "--home", str(self.home / "z")], check=True, capture_output=True, cwd=ROOT
            )
        curve = self.home / "workers-curve"
        curve.mkdir(mode=0o700)
        (self.home / "z" / "curve" / "issued" / "ray.key").rename(curve / "worker.key")

    def _process(self, module: str, *flags: str) -> Process:
        return Process(
            *(module, *flags, "--home", str(self.home / "z")),
            log=self.home / f"{module}.log",
            environ=clean_environ(),
        )

    # the cluster

    def add_node(self, gpus: int = 2, **labels: str) -> Any:
        """Add a machine."""
        node = self.cluster.add_node(
            num_cpus=2, num_gpus=gpus, object_store_memory=_STORE_BYTES, labels=labels or None, wait=True
        )
        self.nodes.append(node)
        return node

    def remove_node(self, node: Any) -> None:
        """Kill all of a machine's processes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def kill_raylet(self, node: Any) -> None:
        """Kill the process by which Ray knows of a machine, and no other."""
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def give_notice(self, node: Any, within_s: float) -> None:
        """Tell Ray that a machine goes away, as a cloud's notice is."""
        client = GcsClient(address=self.address)
        told, why = client.drain_node(
            node.node_id, _PREEMPTION, "a spot machine is taken", int((time.time() + within_s) * 1000)
        )
        assert told, why

    def kill_head(self) -> None:
        """Kill the cluster's GCS."""
        ray.shutdown()
        self.cluster.head_node.kill_gcs_server()

    # the pool's actors

    def _connect(self) -> None:
        if not ray.is_initialized():
            ray.init(address=self.address, namespace="zoetrope", log_to_driver=False, logging_level="error")

    def report(self, actor: str) -> Report | None:
        """What the owner of a worker says, or None while it does not."""
        self._connect()
        try:
            return msgspec.json.decode(ray.get(ray.get_actor(actor).report.remote(), timeout=5), type=Report)
        except (ValueError, ray.exceptions.RayError):
            return None

    def boot(self, actor: str) -> str:
        """Which start of the owner it is; "": it does not answer."""
        report = self.report(actor)
        return report.boot if report else ""

    def names_on(self, node: Any) -> list[str]:
        """The workers on a machine."""
        self._connect()
        names = [name for name in ray.util.list_named_actors() if not name.endswith(".launcher")]
        return [name for name in names if (report := self.report(name)) and report.node == node.node_id]

    def kill_actor(self, actor: str) -> None:
        """SIGKILL to an actor's process."""
        self._connect()
        pid = ray.get(ray.get_actor(actor).__ray_call__.remote(_pid))
        os.kill(pid, signal.SIGKILL)

    # the launcher

    def launch(self, *flags: str, pool: str = "pool") -> subprocess.CompletedProcess[str]:
        """Run `python -m workers --launcher ray`."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "workers",
                "--launcher",
                "ray",
                "--ray-address",
                self.address,
                "--pool",
                pool,
            ]
            + ["--home", str(self.home / "w"), "--back", self.back, "--curve-dir", str(self.home / "workers-curve")]
            + ["--depot", f"http://127.0.0.1:{self.port}", "--gpus", "cpu", "--model", "fake"]
            + (["--worker-python", str(_PYTHON)] if _PYTHON.exists() else [])
            + list(flags),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=False,
        )

    def log(self, pool: str = "pool") -> list[dict[str, Any]]:
        """The run's log."""
        path = self.home / "w" / "launcher" / f"{pool}.jsonl"
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def events(self, event: str, pool: str = "pool") -> list[dict[str, Any]]:
        """Those entries of the log that tell of this."""
        return [line for line in self.log(pool) if line.get("event") == event]

    # the service

    def workers(self, *states: str) -> list[dict[str, Any]]:
        """The service's workers in these states, or all."""
        data = self.http.get("/v1/workers").json()["data"]
        return [worker for worker in data if not states or worker["state"] in states]

    def until_workers(self, count: int, *states: str) -> None:
        """Wait for exactly so many workers in these states, and no other."""

        def there() -> bool:
            workers = [worker for worker in self.workers() if worker["state"] != "lost"]
            return len(workers) == count and all(worker["state"] in states for worker in workers)

        wait_until(there, LIMIT_S, f"{count} workers {states}; {self.tail()}")

    def post(self, seconds: float) -> str:
        """Submit a job that takes so long; its id."""
        reply = self.http.post(
            "/v1/jobs",
            json={
                "prompt": "a bar",
                "num_inference_steps": 20,
                "extra": {"fake": "slow", "fake_step_s": seconds / 20},
            },
        )
        assert reply.status_code in (200, 201, 202), reply.text
        return reply.json()["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def without_waiting(self, ids: list[str]) -> list[str]:
        """Cancel those of the jobs that wait; the others."""
        return [one for one in ids if self.job(one)["state"] != "queued" or not self._cancelled(one)]

    def _cancelled(self, job_id: str) -> bool:
        self.http.post(f"/v1/jobs/{job_id}/cancel")
        return (
            wait_until(lambda: self.job(job_id)["state"] in _FINAL and self.job(job_id)["state"], LIMIT_S)
            == "cancelled"
        )

    def succeeded(self, *ids: str) -> list[dict[str, Any]]:
        """The jobs, once all have ended; all must have succeeded."""

        def ended() -> list[dict[str, Any]] | None:
            jobs = [self.job(one) for one in ids]
            return jobs if all(job["state"] in _FINAL for job in jobs) else None

        jobs = wait_until(ended, LIMIT_S, f"the end of {len(ids)} jobs; {self.tail()}")
        assert {job["state"] for job in jobs} == {"succeeded"}
        return jobs

    def tail(self) -> str:
        logs = sorted([*self.home.glob("*.log"), *(self.home / "w" / "launcher").glob("*")])
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in logs)

    # the end

    def worker_processes(self) -> list[psutil.Process]:
        """Every process that a worker of this test is, its agent and engine among them."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.home / "w") in line and "--launcher" not in line:
                found.append(process)
                found += process.children(recursive=True)
        return found

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()
        self.http.close()
        alive = end_all(self._service, 60)
        assert not alive
        wait_until(
            lambda: not self.worker_processes(), 60, f"the end of all worker processes: {self.worker_processes()}"
        )
