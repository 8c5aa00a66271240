"""Ray Serve: replicas with max_ongoing_requests=1, called by handle. It has no queue on disk, so there is no durable mode.

`python -m bench.peers.peer_ray ADDRESS` is a caller of its own, to be killed with the calls that wait in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from bench.peers.peerkit import BARE, PAYLOAD_BYTES, WORKERS, Done, DoneNotifier, PeerAdapter, worker_cores
from bench.report.errors import BenchError

#: Calls under way at once. More of them make it slower: each polls the replicas for their queue lengths.
_WINDOW = 2 * WORKERS
_STORE_BYTES = 100 * 2**20
_CALL_S = 60.0
_NAMESPACE = "bench"
#: Calls of a caller's own that keep the replicas busy while it hands in the others, and their seconds.
_BLOCKERS, _BLOCK_S = 2 * WORKERS, 4.0
_HANDED_IN = "handed in"


class Replica:
    """Worker of Ray Serve."""

    def __init__(self, done: str, chosen: list[int]) -> None:
        if chosen:
            os.sched_setaffinity(0, chosen)
        self._notifier = DoneNotifier(done)

    def __call__(self, number: int, seconds: float, payload: bytes) -> None:
        self._notifier.run(number, seconds)


class RayAdapter(PeerAdapter):
    """A cluster of this machine; its queue is in the process that calls."""

    survival_note = (
        "calls wait in the process that made them, unacknowledged: that one was killed, busy replicas were not"
    )

    def __init__(self, mode: str, room: Path, done: Done) -> None:
        super().__init__(mode, room, done)
        self._payload = b"x" * PAYLOAD_BYTES
        self._handle: Any = None
        self._calls: dict[int, Any] = {}
        self._caller: subprocess.Popen[bytes] | None = None

    @property
    def versions(self) -> str:
        return f"ray {ray.__version__}"

    def start_server(self) -> None:
        if ray.is_initialized():
            return
        # Nothing is to be sent anywhere.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(
            num_cpus=2 * WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=_STORE_BYTES,
            namespace=_NAMESPACE,
            _temp_dir=str(self.room / "r"),
        )
        # Called by handle: its HTTP proxy would only be one more process on the driver's core.
        serve.start(proxy_location="Disabled")

    def start_workers(self, count: int) -> None:
        if self._handle is not None:
            return
        deployment: Any = serve.deployment(
            Replica, num_replicas=count, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.1}
        )
        bound = deployment.bind(str(self.done.path), sorted(worker_cores()))
        self._handle = serve.run(bound, name=_NAMESPACE, route_prefix=None)

    def submit(self, number: int, seconds: float) -> None:
        self._calls[number] = self._handle.remote(number, seconds, self._payload)

    def submit_all(self, numbers: Iterable[int], seconds: float) -> None:
        waiting: list[Any] = []
        try:
            for number in numbers:
                waiting.append(self._handle.remote(number, seconds, self._payload))
                if len(waiting) >= _WINDOW:
                    waiting.pop(0).result(timeout_s=_CALL_S)
            for response in waiting:
                response.result(timeout_s=_CALL_S)
        except (RayError, TimeoutError) as error:
            raise BenchError(f"a call failed: {type(error).__name__}") from error

    def fill(self, numbers: range) -> None:
        """Send calls to busy replicas, from a process of its own. Raises `BenchError`."""
        self.start_workers(WORKERS)
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "bench.peers.peer_ray", address, str(numbers.start), str(numbers.stop)]
        self._caller = self.spawn(command, set())
        give_up = time.monotonic() + _CALL_S
        while _HANDED_IN not in (self.room / "peer.log").read_text(errors="replace"):
            if self._caller.poll() is not None or time.monotonic() > give_up:
                raise BenchError("the caller did not hand in its calls")
            time.sleep(0.05)

    def kill_server(self) -> None:
        assert self._caller is not None
        self._caller.send_signal(signal.SIGKILL)
        self._caller.wait()

    def given_up(self, number: int) -> str:
        call = self._calls.get(number)
        try:
            if call is not None:
                call.result(timeout_s=0.05)
        except TimeoutError:
            return ""
        except RayError as error:
            return f"the call fails ({type(error).__name__}), and nothing runs it again"
        return ""

    # `close` is the base's: the cluster's own shutdown takes ten seconds, and the parent of this process kills all below it.


def call(address: str, begin: int, stop: int) -> None:
    """Hand in calls, report it, wait to be killed."""
    ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level="error")
    handle: Any = serve.get_app_handle(_NAMESPACE)
    payload = b"x" * PAYLOAD_BYTES
    kept = [handle.remote(-1 - number, _BLOCK_S, payload) for number in range(_BLOCKERS)]
    time.sleep(1.0)
    kept += [handle.remote(number, BARE, payload) for number in range(begin, stop)]
    print(_HANDED_IN, flush=True)
    while kept:
        time.sleep(1.0)


if __name__ == "__main__":
    call(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
