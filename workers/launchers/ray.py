"""Pools on a Ray cluster: one actor keeps the pool, and one owns each worker process.

Ray places actors, starts them again and moves them; it never has a job, nor a reason to end one. Each rule here has its reason:

- An actor whose worker has ended for good is asked to leave, and leaves by `exit_actor`: Ray starts it again after any other end. It is
  never killed by its handle, which names whatever bears its id; only an actor that no machine has is.
- An actor that nobody has asked for a while looks whether it is still the one of its name: Ray gives a machine up from which it receives
  nothing, and starts its actors elsewhere, while the old ones go on.
- Actors get no keys: their arguments can be read by whoever may look at the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import ray
import ray.exceptions
import ray.util
from msgspec.structs import replace
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from broker.runtime import log_context
from broker.runtime.log_actions import Action
from workers.launchers.child import FINAL_CODES, LastReports, Report, WorkerProcess
from workers.launchers.edge_service import EdgeService
from workers.launchers.keeper import Keeper, PoolStatus
from workers.launchers.registry import LauncherError
from workers.launchers.room import Machine, lacking
from workers.launchers.run_log import RunLog
from workers.launchers.settings import Order

logger = logging.getLogger(__name__)

_NAMESPACE = "zoetrope"

#: Seconds between two steps of a pool, of one that stops, and between two looks at a worker process.
_STEP_S, _STOP_STEP_S, _LOOK_S = 2.0, 0.5, 0.25

#: A worker that lived for less is started again only after this pause, both in seconds.
_SHORT_LIFE_S, _PAUSE_S = 60.0, 10.0

#: Seconds without a question, after which a worker's owner looks whether it still has its name.
_UNHEARD_S = 6.0

#: Seconds for an answer of an actor, and for one to begin.
_ANSWER_S, _BEGIN_S = 10.0, 120.0

_EXIT_AGAIN = 1


class WorkerOwner:
    """Actor that owns one worker process, from its start to its end."""

    def __init__(self, order: bytes, name: str) -> None:
        """Start the worker. The thread that does lives as long as the actor: with it the worker is ended."""
        self._order = msgspec.json.decode(order, type=Order)
        self._process = WorkerProcess(self._order, name)
        self._report = Report(
            boot=self._process.boot,
            name=name,
            node=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            pid=self._process.pid,
            log=str(self._process.log),
        )
        self._asked_at = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    async def report(self) -> bytes:
        """A `Report` as JSON."""
        self._asked_at = time.monotonic()
        return msgspec.json.encode(self._report)

    async def boot(self) -> str:
        """Which of the actors of its name it is."""
        return self._report.boot

    async def terminate(self, boot: str) -> None:
        """Send the worker SIGTERM, if it is the one that was meant."""
        if boot == self._report.boot:
            self._process.terminate()

    async def leave(self, boot: str) -> None:
        """End for good, if it is the one that was meant and its worker has ended."""
        if boot == self._report.boot and self._report.code is not None:
            ray.actor.exit_actor()

    def _watch(self) -> None:
        while (code := self._process.poll()) is None:
            time.sleep(_LOOK_S)
            if time.monotonic() - self._asked_at > _UNHEARD_S:
                self._asked_at = time.monotonic()
                if _has_other_boot(f"{self._order.pool}.{self._report.name}", self._report.boot):
                    self._process.terminate()
                    while self._process.poll() is None:
                        time.sleep(_LOOK_S)
                    os._exit(_EXIT_AGAIN)
        if code in FINAL_CODES:
            # Its owner is let go by the pool, which must know the code.
            self._report = replace(self._report, code=code, why=self._process.why())
            return
        if time.monotonic() - self._process.started_at < _SHORT_LIFE_S:
            time.sleep(_PAUSE_S)
        os._exit(_EXIT_AGAIN)


def _has_other_boot(actor: str, boot: str) -> bool:
    """Whether Ray has another actor of this name now, or none. False while it cannot be asked."""
    try:
        return bool(ray.get(ray.get_actor(actor, _NAMESPACE).boot.remote(), timeout=_ANSWER_S) != boot)
    except ValueError:
        return True
    except (ray.exceptions.RayError, TimeoutError, OSError):
        return False


class PoolKeeper:
    """Actor that keeps a pool."""

    def __init__(self, order: bytes) -> None:
        self._order = msgspec.json.decode(order, type=Order)
        log_context.setup("launcher", "info", "text")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        log = RunLog(Path(self._order.home) / "launcher" / f"{self._order.pool}.jsonl")
        cluster = RayCluster(self._order)
        self._keeper = Keeper(self._order, cluster, EdgeService(self._order), log, time.monotonic())
        self._looked, self._stopping = threading.Event(), threading.Event()
        threading.Thread(target=self._keep, daemon=True).start()

    async def status(self) -> bytes:
        """A `PoolStatus` as JSON, once there is one."""
        await asyncio.to_thread(self._looked.wait, _ANSWER_S / 2)
        return msgspec.json.encode(self._keeper.status)

    async def stop(self, hand_back: bool) -> None:
        """Let all workers leave."""
        self._keeper.stop(hand_back=hand_back)
        self._stopping.set()

    def _keep(self) -> None:
        while not self._keeper.finished:
            try:
                self._keeper.step(time.monotonic(), time.time())
            except Exception:
                # A step that fails leaves the pool as it is; the next one sees it afresh.
                logger.exception("a step of the pool failed", extra={"action": Action.POOL})
            self._looked.set()
            if self._stopping.is_set():
                time.sleep(_STOP_STEP_S)
            else:
                self._stopping.wait(_STEP_S)
        ray.kill(ray.get_actor(_keeper_name(self._order), _NAMESPACE), no_restart=True)


class RayCluster:
    """The actors of a pool."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._order_bytes = msgspec.json.encode(order)
        self._name = re.compile(rf"{re.escape(order.pool)}\.(w\d+)")
        self._handles: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self._last = LastReports()

    def members(self) -> dict[str, Report | None]:
        """Every actor's last word; None of one that does not run."""
        names = {match[1] for full in ray.util.list_named_actors() if (match := self._name.fullmatch(full))}
        for gone in self._handles.keys() - names:
            del self._handles[gone]
            self._pending.pop(gone, None)
            self._last.forget(gone)
        for name in names:
            with contextlib.suppress(ValueError):  # it has ended since
                handle = self._handles.setdefault(name, ray.get_actor(self._full(name), _NAMESPACE))
                self._pending.setdefault(name, handle.report.remote())
        asked = dict(self._pending)
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=0.5) if asked else ([], [])
        now = time.monotonic()
        for name, ref in asked.items():
            if ref in ready:
                self._answered(name, ref, now)
        return {name: self._last.of(name, now) for name in asked}

    def _answered(self, name: str, ref: Any, now: float) -> None:
        del self._pending[name]
        try:
            self._last.put(msgspec.json.decode(ray.get(ref), type=Report), now)
        except ray.exceptions.RayError:
            self._last.forget(name)

    def start(self, name: str) -> None:
        """Make an actor, which Ray places as soon as a machine has what it asks for."""
        self._handles[name] = (
            ray.remote(WorkerOwner)
            .options(
                name=self._full(name),
                namespace=_NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                num_cpus=0,
                num_gpus=self._order.gpus_per_worker,
                label_selector=self._order.labels or None,
            )
            .remote(self._order_bytes, name)
        )

    def withdraw(self, name: str) -> None:
        """Give up an actor that no machine has: there is nothing yet that could be asked to leave."""
        if (handle := self._handles.get(name)) is not None:
            ray.kill(handle, no_restart=True)

    def release(self, name: str, boot: str) -> None:
        """Let an actor end whose worker has."""
        if (handle := self._handles.get(name)) is not None:
            handle.leave.remote(boot)

    def terminate(self, name: str, boot: str) -> None:
        """Send its worker SIGTERM."""
        if (handle := self._handles.get(name)) is not None:
            handle.terminate.remote(boot)

    def notices(self) -> dict[str, float]:
        """Nodes that Ray drains, and the Unix time at which they are gone; 0: no time was given."""
        return {node: deadline_ms / 1000 for node, deadline_ms in draining_nodes().items()}

    def lacking(self) -> str:
        """Return what the cluster lacks for one more worker; "": nothing."""
        return lacking(machines(), self._order.gpus_per_worker, self._order.labels)

    def _full(self, name: str) -> str:
        return f"{self._order.pool}.{name}"


def machines() -> list[Machine]:
    """The machines of the cluster. What is free on each, Ray's libraries ask for in this way; in public it tells the sum alone."""
    free = ray._private.state.available_resources_per_node()
    going = draining_nodes()
    return [
        Machine(
            total=node["Resources"].get("GPU", 0.0),
            free=free.get(node["NodeID"], {}).get("GPU", 0.0),
            labels=node["Labels"],
            going=node["NodeID"] in going,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def draining_nodes() -> dict[str, int]:
    """Node id -> deadline in ms, of nodes that are being drained. Ray has no public way to ask; its own libraries use this one."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found


def start(order: Order) -> PoolStatus:
    """Start the pool's keeper on the head, in place of one that runs."""
    with _connected(order):
        name = _keeper_name(order)
        if (old := _found(order)) is not None:
            ray.kill(old, no_restart=True)
            _until_gone(name)
        head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
        keeper = (
            ray.remote(PoolKeeper)
            .options(
                name=name,
                namespace=_NAMESPACE,
                lifetime="detached",
                max_restarts=-1,
                num_cpus=0,
                num_gpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=True),
            )
            .remote(msgspec.json.encode(order))
        )
        return _status(keeper, _BEGIN_S)


def status(order: Order) -> PoolStatus:
    """Status of the pool, by its keeper."""
    with _connected(order):
        return _status(_needed(order), _ANSWER_S)


def stop(order: Order, *, hand_back: bool) -> None:
    """Stop the pool, and wait until no worker of it is left."""
    with _connected(order):
        keeper = _needed(order)
        ray.get(keeper.stop.remote(hand_back), timeout=_ANSWER_S)
        _until_gone(_keeper_name(order))


def _status(keeper: Any, within_s: float) -> PoolStatus:
    return msgspec.json.decode(ray.get(keeper.status.remote(), timeout=within_s), type=PoolStatus)


def _keeper_name(order: Order) -> str:
    return f"{order.pool}.launcher"


def _found(order: Order) -> Any:
    try:
        return ray.get_actor(_keeper_name(order), _NAMESPACE)
    except ValueError:
        return None


def _needed(order: Order) -> Any:
    if (keeper := _found(order)) is None:
        raise LauncherError(
            f"pool: no launcher of a pool {order.pool!r} runs in the Ray cluster at {order.ray_address}"
        )
    return keeper


def _until_gone(name: str) -> None:
    while name in ray.util.list_named_actors():
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def _connected(order: Order) -> Iterator[None]:
    """Be a driver of the cluster in this block. Raises `LauncherError`."""
    address = order.ray_address
    _probe(address)
    try:
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address == "auto":
            why = f"there is no Ray cluster of which this machine is part: {_first_line(error)}"
        else:
            why = (
                f"{address} answers, but not as a Ray cluster of this Ray ({ray.__version__}) and token (RAY_AUTH_TOKEN, or"
                f" ~/.ray/auth_token): {_first_line(error)}"
            )
        raise LauncherError(f"ray_address: {why}") from None
    try:
        yield
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise LauncherError(f"the Ray cluster at {address} does not do as asked: {_first_line(error)}") from None
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Refuse an address at which nothing listens: Ray's library would wait for a minute, and then end this process."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
    except OSError as error:
        raise LauncherError(
            f"ray_address: no Ray cluster answers at {address}: {error.strerror or error}; "
            "without its head (GCS) a cluster's workers end within about a minute, and their jobs go back to the queue"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
