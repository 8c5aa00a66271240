"""Control of workers by an operator, and how busy they were."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.client.client import BrokerClient
from broker.wire import messages as m
from http_edge.base.broker_errors import translated
from http_edge.base.context import current
from http_edge.base.errors import EdgeError, not_found, shown

#: Longest name that the wire carries.
_MAX_WORKER_NAME = 128


class WorkerControl:
    """Drain and undrain of workers."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._draining = asyncio.Lock()

    async def pool(self) -> m.PoolView:
        """The workers and the queue's totals, as they are now. Raises `EdgeError`."""
        with translated():
            return await self._broker.worker_requests.pool()

    async def load_history(self) -> Sequence[m.LoadSample]:
        """Load of the pool over the last hour. Raises `EdgeError`."""
        with translated():
            return await self._broker.worker_requests.load_history()

    async def drain(self, name: str, *, hand_back: bool = False, even_last: bool = False) -> m.WorkerView:
        """Let a worker finish what it holds, or hand it back, and leave; the last one if `even_last`. Raises `EdgeError`."""
        _require_operator()
        # One after the other: of two requests for the last two workers the second must take the first into account.
        async with self._draining:
            if not even_last and _is_last(name, (await self.pool()).workers):
                message = (
                    f"worker: {shown(name)} is the last one, and the service would end with it: stop its process instead"
                    " (SIGTERM; it finishes its jobs within stop_grace_s), or say even_last where another will come"
                )
                raise EdgeError("forbidden", message, param="worker", value=name, place="path")
            with translated():
                worker = (
                    await self._broker.worker_requests.drain(name, hand_back=hand_back)
                    if _is_worker_name(name)
                    else None
                )
        if worker is None:
            raise not_found("worker", name)
        return worker

    async def undrain(self, name: str) -> m.WorkerView:
        """Give a worker that drains, and has not left, work again. Raises `EdgeError`."""
        _require_operator()
        with translated():
            worker = await self._broker.worker_requests.undrain(name) if _is_worker_name(name) else None
        if worker is None:
            message = (
                f"worker: {shown(name)} is not there, or has left; SIGUSR1 to its supervisor (python -m workers) starts"
                " those again that were drained"
            )
            raise EdgeError("not_found", message, param="worker", value=name, place="path")
        return worker


def _require_operator() -> None:
    caller = current().caller
    if caller.key_name and not caller.operator:
        message = f"the key {caller.key_name} may not drain workers: an operator's may (python -m http_edge keys add NAME --operator)"
        raise EdgeError("forbidden", message)


def _is_worker_name(name: str) -> bool:
    return 0 < len(name) <= _MAX_WORKER_NAME


def _is_last(name: str, workers: Sequence[m.WorkerView]) -> bool:
    """Whether the service would end with this worker: no other goes on, or none on the broker's machine, where `make run` ends with them.

    Names of other machines' workers begin with the name of their key and a dot.
    """
    here = "." not in name
    staying = [one.name for one in workers if one.state not in ("draining", "lost")]
    return name in staying and all(one == name or (here and "." in one) for one in staying)
