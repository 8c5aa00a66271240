"""Commands to a pool: start, show and stop it."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.launchers.keeper import PoolStatus
from workers.launchers.order import Order
from workers.launchers.ray.owners import ANSWER_S, LOOK_S, NAMESPACE
from workers.launchers.ray.pool import PoolKeeper, keeper_name
from workers.launchers.registry import LauncherError

#: Seconds for the actor of a pool to begin.
_BEGIN_S = 120.0


def start(order: Order) -> PoolStatus:
    """Start the pool's keeper on the head, in place of one that runs."""
    with _connected(order):
        name = keeper_name(order)
        if (old := _found(order)) is not None:
            ray.kill(old, no_restart=True)
            _gone_within(name, math.inf)
        head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
        keeper = (
            ray.remote(PoolKeeper)
            .options(
                name=name,
                namespace=NAMESPACE,
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
        return _status(_needed(order), ANSWER_S)


def stop(order: Order, *, hand_back: bool) -> None:
    """Stop the pool, and wait until no worker of it is left."""
    with _connected(order):
        keeper = _needed(order)
        try:
            ray.get(keeper.stop.remote(hand_back), timeout=ANSWER_S)
        except ray.exceptions.ActorDiedError:
            # One of a pool without workers may end before its answer is sent; one that died of something else is started again.
            if not _gone_within(keeper_name(order), ANSWER_S):
                raise
        _gone_within(keeper_name(order), math.inf)


def _status(keeper: Any, within_s: float) -> PoolStatus:
    return msgspec.json.decode(ray.get(keeper.status.remote(), timeout=within_s), type=PoolStatus)


def _found(order: Order) -> Any:
    try:
        return ray.get_actor(keeper_name(order), NAMESPACE)
    except ValueError:
        return None


def _needed(order: Order) -> Any:
    if (keeper := _found(order)) is None:
        raise LauncherError(
            f"pool: no launcher of a pool {order.pool!r} runs in the Ray cluster at {order.ray_address}"
        )
    return keeper


def _gone_within(name: str, seconds: float) -> bool:
    """Wait until no actor has this name. False: there is one still."""
    until = time.monotonic() + seconds
    while name in ray.util.list_named_actors():
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_S)
    return True


@contextlib.contextmanager
def _connected(order: Order) -> Iterator[None]:
    """Be a driver of the cluster in this block. Raises `LauncherError`."""
    address = order.ray_address
    _probe(address)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
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
