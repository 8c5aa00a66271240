"""The asyncio client of the broker, for edges, bench and tests: requests about jobs, and events; others are in `request_groups`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from broker.client import errors
from broker.client.event_stream import EventStream
from broker.client.exchange import Exchange
from broker.client.request_groups import DeliveryRequests, SetAsideRequests, WorkerRequests, expect, numbered
from broker.runtime.curve_keys import PeerKey
from broker.runtime.dealer import open_dealer
from broker.wire import codec
from broker.wire import messages as m


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
    Requests about workers, webhook deliveries and jobs set aside are methods of
    `worker_requests`, `delivery_requests` and `set_aside_requests`.
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
        self.worker_requests = WorkerRequests(self._request)
        self.delivery_requests = DeliveryRequests(self._request)
        self.set_aside_requests = SetAsideRequests(self._request)

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
        accepted = expect(m.Accepted, reply)
        return accepted_view(submit, accepted), accepted.duplicate

    async def cancel(self, job_id: str, tenant: str = "") -> tuple[m.CancelOutcome, m.JobView | None]:
        """Request the end of a job of this tenant ("": of any): (the outcome, the job unless it was not found)."""
        request = await self._request(lambda req: m.CancelJob(req=req, job_id=job_id, tenant=tenant))
        reply = expect(m.CancelReply, request)
        return reply.outcome, None if reply.outcome == "not_found" else codec.job_view(reply.body)

    async def control(
        self, job_id: str, action: m.JobAction, tenant: str = ""
    ) -> tuple[m.ControlOutcome, str, m.JobView | None]:
        """Pause, resume or commit a job of this tenant ("": of any): (outcome, why it was refused, the job unless it was not found)."""
        request = await self._request(lambda req: m.ControlJob(req=req, job_id=job_id, action=action, tenant=tenant))
        reply = expect(m.ControlReply, request)
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

        Where few of many match, the request is repeated, and the broker serves others in between.
        """
        found = await self.search(None, **fields)
        return found.jobs, found.more

    async def search(self, answers: int | None, **fields: Any) -> JobSearch:
        """As `list`, of so many answers of the broker at most (None: as many as it takes), each of some thousand jobs looked at."""
        query = m.ListJobs(req=0, **fields)
        found: list[m.JobView] = []
        replies = 0
        while True:
            answer = expect(m.Jobs, await self._request(partial(numbered, query)))
            views = codec.job_views(answer.body)
            found += views
            if not answer.behind:
                return JobSearch(found, answer.more)
            query = msgspec.structs.replace(query, limit=query.limit - len(views), behind=answer.behind)
            replies += 1
            if replies == answers:
                return JobSearch(found, True, answer.behind, answer.behind_at)

    async def forget(self, job_ids: Sequence[str], *, finished_s: float = 0.0) -> tuple[str, ...]:
        """Delete the records of these jobs (at most 50), as far as they finished so long ago; the ids of those deleted.

        When the answer to a first try was lost, jobs that it deleted are missing in the answer to the second.
        """
        ids = tuple(job_ids)
        reply = await self._request(lambda req: m.ForgetJobs(req=req, job_ids=ids, finished_s=finished_s))
        return expect(m.Forgotten, reply).job_ids

    async def usage(self, **fields: Any) -> tuple[Sequence[m.UsageRow], bool]:
        """Sums of what was used, and whether there are more than the limit; `fields` are those of `GetUsage`, less `req`."""
        query = m.GetUsage(req=0, **fields)
        answer = expect(m.Usage, await self._request(partial(numbered, query)))
        return codec.usage_rows(answer.body), answer.more

    async def estimate(self, estimate: m.Estimate) -> m.Forecast:
        """Forecast of such a job if it came now (`req` is filled in), and the earliest end that could be promised."""
        reply = await self._request(lambda req: msgspec.structs.replace(estimate, req=req))
        found: m.Forecast = codec.forecast(expect(m.Estimated, reply).body)
        return found

    async def watch(self, *, steps: bool = True) -> None:
        """Subscribe to all events, for as long as this client lives, over restarts of the broker. Returns when the stream has begun.

        `steps`: what moves within running jobs is sent of all of them, or else of those that are followed. After any interruption
        `on_gap` is called: events were lost, or may have been. If this raises, the stream stays open, and `on_gap` is called when it
        has begun.
        """
        self._events.subscribed, self._events.steps = True, steps
        try:
            reply = await self._request(lambda req: m.Watch(req=req, steps=steps))
        except BaseException:
            self._events.expect_gap()
            raise
        expect(m.Watching, reply)

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
    answer = expect(m.JobReply, reply)
    return codec.job_view(answer.body) if answer.found else None
