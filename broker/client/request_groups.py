"""Requests to the broker about workers, webhook deliveries and jobs set aside. Errors as those of `BrokerClient`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import msgspec

from broker.client import errors
from broker.wire import codec
from broker.wire import messages as m

R = TypeVar("R", bound=m.Message)
Q = TypeVar("Q", m.ListJobs, m.GetUsage, m.GetPool)

#: Sends the message that is built with a new number, and returns the answer.
Request = Callable[[Callable[[int], m.Message]], Awaitable[m.Message]]

#: Workers in an answer: the broker takes some 4 us for each, in which it does nothing else.
_POOL_PAGE = 500


class WorkerRequests:
    """Requests about the workers, and the load of the pool."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def pool(self) -> m.PoolView:
        """Workers and totals; the totals are those of the moment at which the first workers were requested."""
        first = page = await self._pool_page("")
        workers = [*page.workers]
        while page.more and page.workers:
            page = await self._pool_page(page.workers[-1].name)
            workers += page.workers
        return msgspec.structs.replace(first, workers=tuple(workers), more=False)

    async def _pool_page(self, after: str) -> m.PoolView:
        query = m.GetPool(req=0, after=after, limit=_POOL_PAGE)
        reply = expect(m.Pool, await self._request(partial(numbered, query)))
        view: m.PoolView = codec.pool_view(reply.body)
        return view

    async def load_history(self) -> Sequence[m.LoadSample]:
        """Samples of the pool's load over the last hour, the oldest first; the last is of now."""
        reply = expect(m.LoadSamples, await self._request(lambda req: m.GetLoadHistory(req=req)))
        samples: Sequence[m.LoadSample] = codec.load_samples(reply.body)
        return samples

    async def drain(self, name: str, *, hand_back: bool = False) -> m.WorkerView | None:
        """Let a worker finish what it holds, or hand it back, and leave: the worker as it is now, None when there is none of that name."""
        return _worker(await self._request(lambda req: m.DrainWorker(req=req, name=name, hand_back=hand_back)))

    async def undrain(self, name: str) -> m.WorkerView | None:
        """Give a drained worker work again: the worker as it is now, None when there is none of that name, or no more."""
        return _worker(await self._request(lambda req: m.UndrainWorker(req=req, name=name)))


class DeliveryRequests:
    """Requests of the edges that make webhook deliveries."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def claim(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        """(webhook deliveries to make, seconds until another is due or -1). Those of a lost answer come again after their lease."""
        reply = expect(m.Deliveries, await self._request(lambda req: m.ClaimDeliveries(req=req, limit=limit)))
        return codec.hook_claims(reply.body), reply.wait_s

    async def report(self, done: m.DeliveryDone) -> None:
        """Report a delivery (`req` is filled in); on disk when this returns."""
        expect(m.DeliveryNoted, await self._request(lambda req: msgspec.structs.replace(done, req=req)))


class SetAsideRequests:
    """Requests of the operator about jobs that the broker set aside."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def list(self) -> Sequence[m.JobView]:
        """The jobs that the broker set aside, the oldest first, without their specs."""
        reply = expect(m.Jobs, await self._request(lambda req: m.ListSetAside(req=req)))
        views: Sequence[m.JobView] = codec.job_views(reply.body)
        return views

    async def settle(self, job_id: str, action: Literal["release", "fail", "delete"]) -> str:
        """Decide on a job that was set aside: "done", "not_set_aside" or "unreadable". A repeated "done" answers "not_set_aside"."""
        reply = await self._request(lambda req: m.SettleSetAside(req=req, job_id=job_id, action=action))
        return expect(m.SetAsideSettled, reply).outcome


def numbered(query: Q, req: int) -> Q:
    """Build the request of this number."""
    return msgspec.structs.replace(query, req=req)


def expect(kind: type[R], reply: m.Message) -> R:
    """The answer, as it is of this type. Raises `BrokerError` where it is of another."""
    if not isinstance(reply, kind):
        raise errors.BrokerError(f"the broker answered with {type(reply).__name__}, expected {kind.__name__}")
    return reply


def _worker(reply: m.Message) -> m.WorkerView | None:
    answer = expect(m.WorkerReply, reply)
    return codec.worker_view(answer.body) if answer.found else None
