"""A Ray cluster of several nodes on this machine, and a service whose workers it runs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from workers.launchers import cli
from workers.launchers.child import Report
from workers.launchers.keeper import PoolStatus

T = TypeVar("T")

_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
_STORE_BYTES = 80 * 2**20

#: Seconds of silence after which the broker gives a worker up.
LOST_AFTER_S = 4.0

#: Seconds that a job of a load takes.
JOB_S = 2.0

_FINAL = ("succeeded", "failed", "cancelled")

#: Seconds between two looks.
_PAUSE_S = 0.2

#: Seconds for what takes a few on a machine that has nothing else to do.
LIMIT_S = 300.0

_PYTHON = ROOT / ".venv" / "bin" / "python"


#: Why a node is drained: `ray.core.generated.autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION`.
_PREEMPTION = 2


def until(condition: Callable[[], T | None], what: str = "") -> T:
    """As `wait_until`, and looks less often: what looks and what is waited for share the processors, and a look asks many processes."""
    return wait_until(condition, LIMIT_S, what, pause_s=_PAUSE_S)


def _pid(actor: object) -> int:
    return os.getpid()


def _born_at(process: psutil.Process) -> float:
    return float(process.info["create_time"])


def _helpers(node: Any) -> list[psutil.Process]:
    """The processes that Ray keeps beside a raylet. They notice its death after minutes, and a machine that is gone has none."""
    children = psutil.Process(node.all_processes["raylet"][0].process.pid).children()
    return [
        child for child in children if "Agent" in " ".join(child.cmdline()) or "agent.py" in " ".join(child.cmdline())
    ]


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Stage:
    """Head without GPUs, two nodes with logical ones, and more; broker and edge on this machine, reached by tcp."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.back = free_port(), f"tcp://127.0.0.1:{free_port()}"
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self._make_keys()
        self._service = [
            self._process(
                "broker", "--back-tcp", self.back, "--lost-after-s", str(LOST_AFTER_S), "--suspect-after-s", "2"
            ),
            self._process("http_edge", "--port", str(self.port), "--host", "127.0.0.1"),
        ]
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "num_gpus": 0,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                "include_log_monitor": False,
                "no_monitor": True,
                "_system_config": _HEALTH,
            },
        )
        self.address = self.cluster.address
        self._helpers = {"head": _helpers(self.cluster.head_node)}
        self.nodes: list[Any] = []
        for _ in range(2):
            self.add_node(room="one")
        #: Jobs of a load that goes on over several tests.
        self.load: list[str] = []

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
        self._helpers[node.node_id] = _helpers(node)
        return node

    def remove_node(self, node: Any) -> None:
        """Kill all of a machine's processes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        _kill(self._helpers.pop(node.node_id))

    def kill_raylet(self, node: Any) -> None:
        """Kill the process by which Ray knows of a machine, and no other."""
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def give_notice(self, node: Any, within_s: float) -> None:
        """Tell Ray that a machine goes away, as a cloud's notice is."""
        client = GcsClient(address=self.address)
        reported, why = client.drain_node(
            node.node_id, _PREEMPTION, "a spot machine is taken", int((time.time() + within_s) * 1000)
        )
        assert reported, why

    def kill_head(self) -> None:
        """Kill the cluster's GCS."""
        ray.shutdown()
        self.cluster.head_node.kill_gcs_server()

    # the pool's actors

    def _connect(self) -> None:
        if not ray.is_initialized():
            ray.init(address=self.address, namespace="zoetrope", log_to_driver=False, logging_level="error")

    def actors(self) -> list[str]:
        """Names of the actors that own a worker, or shall."""
        self._connect()
        return [name for name in ray.util.list_named_actors() if not name.endswith(".launcher")]

    def placement_groups(self) -> list[str]:
        """Names of those that there are."""
        self._connect()
        groups = ray.util.placement_group_table().values()
        return [group["name"] for group in groups if group["state"] != "REMOVED"]

    def report(self, actor: str) -> Report | None:
        """What the owner of a worker says, or None while it does not."""
        return self._reports([actor]).get(actor)

    def _reports(self, actors: list[str]) -> dict[str, Report]:
        self._connect()
        asked = {}
        for name in actors:
            with contextlib.suppress(ValueError):
                asked[ray.get_actor(name).report.remote()] = name
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1) if asked else ([], [])
        found = {}
        for ref in ready:
            with contextlib.suppress(ray.exceptions.RayError):
                found[asked[ref]] = msgspec.json.decode(ray.get(ref), type=Report)
        return found

    def status(self, pool: str = "pool") -> PoolStatus | None:
        """What the launcher of a pool says, or None while it does not."""
        self._connect()
        try:
            return msgspec.json.decode(
                ray.get(ray.get_actor(f"{pool}.launcher").status.remote(), timeout=5), type=PoolStatus
            )
        except (ValueError, ray.exceptions.RayError):
            return None

    def lacking(self, pool: str = "pool") -> list[str]:
        """What the launcher says that the cluster lacks, for each worker that has no machine."""
        status = self.status(pool)
        return [member.lacking for member in status.members if member.phase == "placing"] if status else []

    def boot(self, actor: str) -> str:
        """Which start of the owner it is; "": it does not answer."""
        report = self.report(actor)
        return report.boot if report else ""

    def names_on(self, node: Any) -> list[str]:
        """The workers on a machine."""
        return [name for name, report in self._reports(self.actors()).items() if node.node_id in report.nodes]

    def kill_actor(self, actor: str) -> None:
        """SIGKILL to an actor's process."""
        self._connect()
        pid = ray.get(ray.get_actor(actor).__ray_call__.remote(_pid))
        os.kill(pid, signal.SIGKILL)

    # the launcher

    def launch(self, *flags: str, pool: str = "pool", token: str = "") -> subprocess.CompletedProcess[str]:
        """Run `python -m workers --launcher ray`, with another token than the cluster's if there is one."""
        command = [sys.executable, "-m", "workers", *self._options(flags, pool)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            # Ray tries a token that is wrong for twenty seconds.
            env=os.environ | ({"RAY_AUTH_TOKEN": token, "RAY_NUM_REDIS_GET_RETRIES": "1"} if token else {}),
            timeout=120,
            check=False,
        )

    def ask(self, *flags: str, pool: str = "pool") -> tuple[int, str, str]:
        """Do what that command does, in this process, which has imported Ray; the exit code, and what it would print."""
        ray.shutdown()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(self._options(flags, pool))
        return code, out.getvalue(), err.getvalue()

    def _options(self, flags: Sequence[str], pool: str) -> list[str]:
        return [
            *("--launcher", "ray", "--ray-address", self.address, "--pool", pool, "--home", str(self.home / "w")),
            *("--back", self.back, "--curve-dir", str(self.home / "workers-curve")),
            *("--depot", f"http://127.0.0.1:{self.port}", "--gpus", "cpu", "--model", "fake"),
            *(("--worker-python", str(_PYTHON)) if _PYTHON.exists() else ()),
            *flags,
        ]

    def log(self, pool: str = "pool") -> list[dict[str, Any]]:
        """The run's log."""
        path = self.home / "w" / "launcher" / f"{pool}.jsonl"
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def phases(self, pool: str = "pool") -> dict[str, int]:
        """Workers by what they do, as the log's last sample has it."""
        return next((line["phases"] for line in reversed(self.log(pool)) if "phases" in line), {})

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

        until(there, f"{count} workers {states}; {self.tail()}")

    def under_load(self, condition: Callable[[], T | None], what: str) -> T:
        """Wait, and have two jobs wait meanwhile for each worker that the pool may have."""

        def look() -> T | None:
            if self.queued() < 16:
                self.load += [self.post(JOB_S) for _ in range(8)]
            return condition()

        return until(look, f"{what}; {self.tail()}")

    def queued(self) -> int:
        """How many jobs wait."""
        counts: dict[str, int] = self.http.get("/v1/workers").json()["queue"]["counts"]
        return counts.get("queued", 0)

    def post(self, seconds: float, **fields: object) -> str:
        """Submit a job that takes so long; its id."""
        slow = {"fake": "slow", "fake_step_s": seconds / 20}
        return self.submit(prompt="a bar", num_inference_steps=20, extra=slow, **fields)

    def submit(self, **fields: object) -> str:
        """Submit a job; its id."""
        reply = self.http.post("/v1/jobs", json=fields)
        assert reply.status_code in (200, 201, 202), reply.text
        return reply.json()["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def succeeded(self, *ids: str) -> list[dict[str, Any]]:
        """The jobs, once all have ended; all must have succeeded."""

        def ended() -> list[dict[str, Any]] | None:
            jobs = [self.job(one) for one in ids]
            return jobs if all(job["state"] in _FINAL for job in jobs) else None

        jobs = until(ended, f"the end of {len(ids)} jobs; {self.tail()}")
        assert {job["state"] for job in jobs} == {"succeeded"}
        return jobs

    def tail(self) -> str:
        logs = sorted([*self.home.glob("*.log"), *(self.home / "w" / "launcher").glob("*")])
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in logs)

    # the end

    def worker_processes(self) -> list[psutil.Process]:
        """Every process that a worker of this test is, its agent and engine among them."""
        found: dict[int, psutil.Process] = {}
        # In the order of their start: parents come before their children.
        for process in sorted(psutil.process_iter(["cmdline", "ppid", "create_time"]), key=_born_at):
            line = " ".join(process.info["cmdline"] or [])
            if process.info["ppid"] in found or (str(self.home / "w") in line and "--launcher" not in line):
                found[process.pid] = process
        return list(found.values())

    def until_gone(self, processes: list[psutil.Process]) -> None:
        """Wait for the end of these processes of workers, and see that there are no others."""
        _, alive = psutil.wait_procs(processes, LIMIT_S)
        assert not alive
        assert self.worker_processes() == []

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()
        for helpers in self._helpers.values():
            _kill(helpers)
        self.http.close()
        alive = end_all(self._service, 60)
        assert not alive
        self.until_gone(self.worker_processes())
