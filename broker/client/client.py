"""The asyncio client of the broker, for edges, bench and tests: one method a request of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from broker.client import errors
from broker.client.event_stream import EventStream
from broker.client.exchange import Exchange
from broker.runtime.curve_keys import PeerKey
from broker.runtime.dealer import open_dealer
from broker.wire import codec
from broker.wire import messages as m

R = TypeVar("R", bound=m.Message)
Q = TypeVar("Q", m.ListJobs, m.GetUsage, m.GetPool)

#: Workers in an answer: the broker takes some 4 us for each, in which it does nothing else.
_POOL_PAGE = 500


class JobSearch(NamedTuple):
    """A page of jobs, and whether more may follow. All were looked at as far as `behind`, which was accepted at `behind_at`; 0: the search
    is over."""

    jobs: list[m.JobView]
    more: bool
    behind: int = 0
    behind_at: float = 0.0


class BrokerClient:
    """One connection to the broker; any number of requests at once, from one event loop.

    Every request raises `BrokerUnavailable` when it has not been answered within `timeout_s`, and `ValueError` naming the field when
    it does not fit the protocol. It need not be connected to be used: requests wait for the broker to appear.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        key: PeerKey | None = None,
        timeout_s: float = 10.0,
        on_event: Callable[[m.JobView], None] | None = None,
        on_gap: Callable[[], None] | None = None,
        on_gone: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """A tcp endpoint needs a key.

        While watching, `on_event` gets every event and `on_gone` the ids of deleted jobs; `on_gap` is called when some were lost.
        """
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._events = EventStream(on_event, on_gap, on_gone)
        opener = partial(open_dealer, endpoint=endpoint, max_frame=codec.MAX_REPLY_FRAME, key=key)
        self._exchange = Exchange(opener, self._events)

    @property
    def invalid_messages(self) -> int:
        """Number of answers that were no message of the protocol."""
        return self._exchange.invalid_messages

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect in the background."""
        self._exchange.start()

    async def close(self) -> None:
        """Disconnect; requests still waiting raise `BrokerUnavailable`. May be called twice."""
        self._exchange.close()

    async def __aenter__(self) -> BrokerClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------ requests

    async def submit(self, submit: m.Submit) -> tuple[m.JobView, bool]:
        """Hand in a job (`req` is filled in): (the job as it is on disk, whether it was there before).

        After a broker restart in between, "before" can be this very call. Raises the `SubmitRejected` family.
        """
        reply = await self._request(lambda req: msgspec.structs.replace(submit, req=req))
        if isinstance(reply, m.Rejected):
            raise errors.rejection(reply.code, reply.message, reply.retry_after_s, reply.earliest_s)
        accepted = _expect(m.Accepted, reply)
        return accepted_view(submit, accepted), accepted.duplicate

    async def cancel(self, job_id: str, tenant: str = "") -> tuple[m.CancelOutcome, m.JobView | None]:
        """Ask for the end of a job of this tenant ("": of any): (the outcome, the job unless it was not found)."""
        request = await self._request(lambda req: m.CancelJob(req=req, job_id=job_id, tenant=tenant))
        reply = _expect(m.CancelReply, request)
        return reply.outcome, None if reply.outcome == "not_found" else codec.job_view(reply.body)

    async def control(
        self, job_id: str, action: m.JobAction, tenant: str = ""
    ) -> tuple[m.ControlOutcome, str, m.JobView | None]:
        """Pause, resume or commit a job of this tenant ("": of any): (outcome, why it was refused, the job unless it was not found)."""
        request = await self._request(lambda req: m.ControlJob(req=req, job_id=job_id, action=action, tenant=tenant))
        reply = _expect(m.ControlReply, request)
        return reply.outcome, reply.reason, None if reply.outcome == "not_found" else codec.job_view(reply.body)

    async def get(self, job_id: str, tenant: str = "") -> m.JobView | None:
        """The job, if it is of this tenant ("": of any), with its spec and history."""
        return _found(await self._request(lambda req: m.GetJob(req=req, job_id=job_id, tenant=tenant)))

    async def get_alias(self, origin: str, alias: str, tenant: str = "") -> m.JobView | None:
        """The newest job of this name and tenant ("": of any), with its spec and history."""
        reply = await self._request(lambda req: m.GetJob(req=req, origin=origin, alias=alias, tenant=tenant))
        return _found(reply)

    async def list(self, **fields: Any) -> tuple[list[m.JobView], bool]:
        """A page of jobs and whether more follow; `fields` are those of `ListJobs`, less `req`.

        Where few of many match, the broker is asked again and again, and serves others in between.
        """
        found = await self.search(None, **fields)
        return found.jobs, found.more

    async def search(self, answers: int | None, **fields: Any) -> JobSearch:
        """As `list`, of so many answers of the broker at most (None: as many as it takes), each of some thousand jobs looked at."""
        query = m.ListJobs(req=0, **fields)
        found: list[m.JobView] = []
        asked = 0
        while True:
            answer = _expect(m.Jobs, await self._request(partial(_numbered, query)))
            views = codec.job_views(answer.body)
            found += views
            if not answer.behind:
                return JobSearch(found, answer.more)
            query = msgspec.structs.replace(query, limit=query.limit - len(views), behind=answer.behind)
            asked += 1
            if asked == answers:
                return JobSearch(found, True, answer.behind, answer.behind_at)

    async def forget(self, job_ids: Sequence[str], *, finished_s: float = 0.0) -> tuple[str, ...]:
        """Delete the records of these jobs (at most 50), as far as they finished so long ago; the ids of those deleted.

        When the answer to a first try was lost, jobs that it deleted are missing in the answer to the second.
        """
        ids = tuple(job_ids)
        reply = await self._request(lambda req: m.ForgetJobs(req=req, job_ids=ids, finished_s=finished_s))
        return _expect(m.Forgotten, reply).job_ids

    async def claim_deliveries(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        """(webhook deliveries to make, seconds until another is due or -1). Those of a lost answer come again after their lease."""
        reply = _expect(m.Deliveries, await self._request(lambda req: m.ClaimDeliveries(req=req, limit=limit)))
        return codec.hook_claims(reply.body), reply.wait_s

    async def delivery_done(self, done: m.DeliveryDone) -> None:
        """Report a delivery (`req` is filled in); on disk when this returns."""
        _expect(m.DeliveryNoted, await self._request(lambda req: msgspec.structs.replace(done, req=req)))

    async def pool(self) -> m.PoolView:
        """Workers and totals; the totals are those of the moment at which the first workers were asked for."""
        first = page = await self._pool_page("")
        workers = [*page.workers]
        while page.more and page.workers:
            page = await self._pool_page(page.workers[-1].name)
            workers += page.workers
        return msgspec.structs.replace(first, workers=tuple(workers), more=False)

    async def _pool_page(self, after: str) -> m.PoolView:
        query = m.GetPool(req=0, after=after, limit=_POOL_PAGE)
        reply = _expect(m.Pool, await self._request(partial(_numbered, query)))
        view: m.PoolView = codec.pool_view(reply.body)
        return view

    async def load_history(self) -> Sequence[m.LoadSample]:
        """Samples of the pool's load over the last hour, the oldest first; the last is of now."""
        reply = _expect(m.LoadSamples, await self._request(lambda req: m.GetLoadHistory(req=req)))
        samples: Sequence[m.LoadSample] = codec.load_samples(reply.body)
        return samples

    async def usage(self, **fields: Any) -> tuple[Sequence[m.UsageRow], bool]:
        """Sums of what was used, and whether there are more than the limit; `fields` are those of `GetUsage`, less `req`."""
        query = m.GetUsage(req=0, **fields)
        answer = _expect(m.Usage, await self._request(partial(_numbered, query)))
        return codec.usage_rows(answer.body), answer.more

    async def estimate(self, estimate: m.Estimate) -> m.Forecast:
        """Forecast of such a job if it came now (`req` is filled in), and the earliest end that could be promised."""
        reply = await self._request(lambda req: msgspec.structs.replace(estimate, req=req))
        found: m.Forecast = codec.forecast(_expect(m.Estimated, reply).body)
        return found

    async def drain_worker(self, name: str, *, hand_back: bool = False) -> m.WorkerView | None:
        """Let a worker finish what it holds, or hand it back, and leave: the worker as it is now, None when there is none of that name."""
        return _worker(await self._request(lambda req: m.DrainWorker(req=req, name=name, hand_back=hand_back)))

    async def undrain_worker(self, name: str) -> m.WorkerView | None:
        """Give a drained worker work again: the worker as it is now, None when there is none of that name, or no more."""
        return _worker(await self._request(lambda req: m.UndrainWorker(req=req, name=name)))

    async def set_aside(self) -> Sequence[m.JobView]:
        """The jobs that the broker set aside, the oldest first, without their specs."""
        reply = _expect(m.Jobs, await self._request(lambda req: m.ListSetAside(req=req)))
        views: Sequence[m.JobView] = codec.job_views(reply.body)
        return views

    async def settle_set_aside(self, job_id: str, action: Literal["release", "fail", "delete"]) -> str:
        """Decide on a job that was set aside: "done", "not_set_aside" or "unreadable". A repeated "done" answers "not_set_aside"."""
        reply = await self._request(lambda req: m.SettleSetAside(req=req, job_id=job_id, action=action))
        return _expect(m.SetAsideSettled, reply).outcome

    async def watch(self, *, steps: bool = True) -> None:
        """Subscribe to all events, for as long as this client lives, over restarts of the broker. Returns when the stream has begun.

        `steps`: what moves within running jobs is sent of all of them, or else of those that are followed. After any interruption
        `on_gap` is called: events were lost, or may have been. If this raises, the stream is still wanted, and `on_gap` is called when it
        has begun.
        """
        self._events.subscribed, self._events.steps = True, steps
        try:
            reply = await self._request(lambda req: m.Watch(req=req, steps=steps))
        except BaseException:
            self._events.expect_gap()
            raise
        _expect(m.Watching, reply)

    def follow(self, job_id: str) -> None:
        """Subscribe to the steps of this job: an event with where it is comes first, if it lives. For a watcher without
        `steps`; it holds over restarts of the broker, until `unfollow`. Sends on the loop's next turn."""
        self._events.followed.follow(job_id)
        self._exchange.follow_soon()

    def unfollow(self, job_id: str) -> None:
        """End the subscription to the steps of this job."""
        self._events.followed.unfollow(job_id)
        self._exchange.follow_soon()

    async def _request(self, build: Callable[[int], m.Message]) -> m.Message:
        return await self._exchange.request(build, self.timeout_s)


def accepted_view(submit: m.Submit, accepted: m.Accepted) -> m.JobView:
    """The job that was accepted: as it was there before, or new, which is what was handed in with what the broker adds to it."""
    if accepted.admission is not None:
        return accepted.admission.view(accepted.job_id, submit.submission, submit.body)
    there: m.JobView = codec.job_view(accepted.body)
    return there


def _found(reply: m.Message) -> m.JobView | None:
    answer = _expect(m.JobReply, reply)
    return codec.job_view(answer.body) if answer.found else None


def _worker(reply: m.Message) -> m.WorkerView | None:
    answer = _expect(m.WorkerReply, reply)
    return codec.worker_view(answer.body) if answer.found else None


def _numbered(query: Q, req: int) -> Q:
    return msgspec.structs.replace(query, req=req)


def _expect(kind: type[R], reply: m.Message) -> R:
    if not isinstance(reply, kind):
        raise errors.BrokerError(f"the broker answered with {type(reply).__name__}, expected {kind.__name__}")
    return reply
