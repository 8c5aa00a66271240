"""The actor that keeps a pool."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path

import msgspec
import ray

from broker.runtime import log_context
from broker.runtime.log_actions import Action
from workers.launchers.edge_service import EdgeService
from workers.launchers.keeper import Keeper
from workers.launchers.order import Order
from workers.launchers.ray.cluster import RayCluster
from workers.launchers.ray.owners import ANSWER_S, NAMESPACE
from workers.launchers.run_log import RunLog

logger = logging.getLogger(__name__)

#: Seconds between two steps of a pool, and of one that stops.
_STEP_S, _STOP_STEP_S = 2.0, 0.5


def keeper_name(order: Order) -> str:
    """The name of the actor that keeps a pool."""
    return f"{order.pool}.launcher"


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
        await asyncio.to_thread(self._looked.wait, ANSWER_S / 2)
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
                # A step that fails leaves the pool as it is; the next one reads it afresh.
                logger.exception("a step of the pool failed", extra={"action": Action.POOL})
            self._looked.set()
            if self._stopping.is_set():
                time.sleep(_STOP_STEP_S)
            else:
                self._stopping.wait(_STEP_S)
        ray.kill(ray.get_actor(keeper_name(self._order), NAMESPACE), no_restart=True)
