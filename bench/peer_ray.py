"""Ray Serve: four replicas with max_ongoing_requests=1, called by handle. It has no queue on disk, so there is no durable mode."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from bench.errors import BenchError
from bench.peerkit import DONE_VARIABLE, PAYLOAD_BYTES, WORKERS, Done, Teller, Unavailable, worker_cores

MODES = {"default": "jobs in memory only: all are lost with the process", "durable": "there is no such mode"}
_WINDOW = 256


class Replica:
    """One worker."""

    def __init__(self, done: str, chosen: list[int]) -> None:
        if chosen:
            os.sched_setaffinity(0, chosen)
        os.environ[DONE_VARIABLE] = done
        self._teller = Teller()

    def __call__(self, number: int, payload: bytes) -> None:
        self._teller.done(number)


class RayClient:
    """Calls by handle, with up to `_WINDOW` answers awaited at once."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._payload = b"x" * PAYLOAD_BYTES

    def submit(self, number: int) -> None:
        self._handle.remote(number, self._payload)

    def submit_all(self, numbers: Sequence[int]) -> None:
        waiting: list[Any] = []
        for number in numbers:
            waiting.append(self._handle.remote(number, self._payload))
            if len(waiting) >= _WINDOW:
                waiting.pop(0).result()
        for response in waiting:
            response.result()


@contextlib.contextmanager
def opened(mode: str, home: Path, done: Done) -> Iterator[RayClient]:
    """Cluster, replicas and client. Raises `Unavailable`."""
    if mode == "durable":
        raise Unavailable("it keeps no queue on disk")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield RayClient(_deployed(done))
    except RayError as error:
        raise BenchError(f"Ray gave up: {str(error).splitlines()[0]}") from error
    finally:
        with contextlib.suppress(Exception):  # what the peer's own shutdown raises says nothing of what was measured
            serve.shutdown()
        ray.shutdown()


def _deployed(done: Done) -> Any:
    # Called by handle: its HTTP proxy would only be one more process on the driver's core.
    serve.start(proxy_location="Disabled")
    deployment: Any = serve.deployment(
        Replica, num_replicas=WORKERS, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.5}
    )
    return serve.run(deployment.bind(str(done.path), sorted(worker_cores())), route_prefix=None)
