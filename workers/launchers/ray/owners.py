"""Actors that own a process each: a worker, or the part of one that is on a further machine."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import msgspec
import ray
import ray.exceptions
import ray.util
from msgspec.structs import replace

from workers.launchers.child import FINAL_CODES, Report, WorkerProcess, command, rank_command
from workers.launchers.order import Order
from workers.launchers.reserved_port import ReservedPort
from workers.supervisor.exit_codes import EXIT_LEFT

NAMESPACE = "zoetrope"

#: Seconds between two polls of a process.
LOOK_S = 0.25

#: Seconds for an answer of an actor.
ANSWER_S = 10.0

#: A process that lived for less is started again only after this pause, both in seconds.
_SHORT_LIFE_S, _PAUSE_S = 60.0, 10.0

#: Seconds without a request, after which an owner checks whether it still has its name.
_MAX_SILENCE_S = 6.0

#: Seconds in which the rest of a worker leaves as a part of it has, unless that was ended by itself.
_DISMISSED_S = 30.0

_EXIT_AGAIN = 1


class _Owner:
    """Owns one process, from its start to its end."""

    #: Whether it is a part of a worker that another owner has.
    _is_part = False

    def __init__(self, order: Order, name: str, words: list[str]) -> None:
        """Start it. The thread that does lives as long as the actor: with it the process is ended."""
        self._actor = f"{order.pool}.{name}"
        self._process = WorkerProcess(order, name, words)
        self._report = Report(
            boot=self._process.boot,
            name=name,
            nodes=(ray.get_runtime_context().get_node_id(),),
            host=socket.gethostname(),
            pid=self._process.pid,
            log=str(self._process.log),
        )
        self._last_request_at = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    async def report(self) -> bytes:
        """A `Report` as JSON."""
        self._last_request_at = time.monotonic()
        return msgspec.json.encode(self._report)

    async def boot(self) -> str:
        """Which of the actors of its name it is."""
        return self._report.boot

    async def terminate(self, boot: str) -> None:
        """Send the process SIGTERM, if it is the one that was meant."""
        if boot == self._report.boot:
            self._process.terminate()

    async def leave(self, boot: str) -> None:
        """End for good, if it is the one that was meant and its process has ended."""
        if boot == self._report.boot and self._report.code is not None:
            ray.actor.exit_actor()

    def _watch(self) -> None:
        while (code := self._process.poll()) is None:
            time.sleep(LOOK_S)
            if time.monotonic() - self._last_request_at > _MAX_SILENCE_S:
                self._last_request_at = time.monotonic()
                if _has_other_boot(self._actor, self._report.boot):
                    self._process.terminate()
                    while self._process.poll() is None:
                        time.sleep(LOOK_S)
                    os._exit(_EXIT_AGAIN)
        if code in FINAL_CODES:
            # Its owner is let go by the pool, which needs the exit code.
            self._report = replace(self._report, code=code, why=self._process.why())
            if not (self._is_part and code == EXIT_LEFT):
                return
            # The worker leaves, and its owners are let go; or else it lacks a part.
            time.sleep(_DISMISSED_S)
            os._exit(_EXIT_AGAIN)
        if time.monotonic() - self._process.started_at < _SHORT_LIFE_S:
            time.sleep(_PAUSE_S)
        os._exit(_EXIT_AGAIN)


class WorkerOwner(_Owner):
    """Actor that owns a worker, or the first of its processes."""

    def __init__(self, order: bytes, name: str) -> None:
        """Start the worker."""
        decoded = msgspec.json.decode(order, type=Order)
        self._port = ReservedPort(ray.util.get_node_ip_address()) if decoded.machines_per_worker > 1 else None
        self._endpoint = self._port.endpoint if self._port is not None else ""
        super().__init__(decoded, name, command(decoded, name, self._endpoint))

    async def endpoint(self) -> str:
        """Return where the worker waits for its processes on further machines; "": it has none."""
        return self._endpoint


class RankOwner(_Owner):
    """Actor that owns the process of a worker on a further machine."""

    _is_part = True

    def __init__(self, order: bytes, name: str, leader: Any) -> None:
        """Start it once the worker's first owner has sent its address."""
        decoded = msgspec.json.decode(order, type=Order)
        endpoint = ray.get(leader.endpoint.remote())
        super().__init__(decoded, name, rank_command(decoded, endpoint))


def _has_other_boot(actor: str, boot: str) -> bool:
    """Whether Ray has another actor of this name now, or none. False while it does not answer."""
    try:
        return bool(ray.get(ray.get_actor(actor, NAMESPACE).boot.remote(), timeout=ANSWER_S) != boot)
    except ValueError:
        return True
    except (ray.exceptions.RayError, TimeoutError, OSError):
        return False
