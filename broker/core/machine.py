"""The core: no clock, no disk. Messages, what the disk has of what they are about, and the time go in; effects come out.

`receive` and `tick` return effects in the order in which they must be carried out; the shell writes the journal rows of all
`Transition` before it sends anything. Neither raises for anything a peer can send, but for `DecodeError` on a malformed body,
raised before anything has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import inf
from typing import get_args

import msgspec

from broker.core import lookups, parking, preempting, reports, requests, set_aside, timers, views, webhook_requests
from broker.core.calendar import Calendar
from broker.core.effects import Effect, PeerGone
from broker.core.grants import grant_all
from broker.core.jobs import Job
from broker.core.lookups import Found, Lookup, RecordCounts
from broker.core.policy import Policy
from broker.core.state import State
from broker.core.usage import gpus_of_last
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.load import LOAD_PERIOD_S
from broker.wire.terms import DELAYED, PARKED, QUEUED, RUNNING

__all__ = ["Core", "Policy"]

#: Jobs in one event, at most: their results may be as large as a worker's message.
EVENT_JOBS = 64

_FROM_AGENT = frozenset(get_args(m.FromAgent))


class UnsoundJob(ValueError):
    """The row of a live job has values that no core can have written."""


class Core:
    """The broker's decisions, without sockets, clock and disk."""

    def __init__(
        self, epoch: int, policy: Policy, now: float, depot_key_of: Callable[[str], str] = lambda worker: ""
    ) -> None:
        """`epoch` must be greater than that of any earlier run on this journal, and on disk. `depot_key_of` a worker's name: its key."""
        self.state = State(epoch, policy, depot_key_of)
        self.now = now

    # ------------------------------------------------------------ doors

    def needs(self, peer: bytes, message: m.Message) -> Lookup | None:
        """The lookup that the shell must answer right before it gives this message to `receive`; None: none."""
        kind = type(message)
        return lookups.NEEDS[kind](self.state, peer, message) if kind in lookups.NEEDS else None

    def receive(self, peer: bytes, message: m.Message | PeerGone, now: float, found: Found) -> list[Effect]:
        """Handle one message from one address, with the answer to the lookup that it `needs`."""
        if now > self.now:
            self.now = now
        if type(message) in _FROM_AGENT:
            self._from_agent(peer, message, found)
        elif type(message) is PeerGone:
            self.state.lose_peer(peer)
        else:
            self._from_edge(peer, message, found)
        return self.finish_pass()

    def tick(self, now: float) -> list[Effect]:
        """Run the timers that are due."""
        self.now = max(self.now, now)
        timers.run_due(self.state, self.now)
        return self.finish_pass()

    def next_deadline(self) -> float | None:
        """Time of the next timer; None: there is none."""
        return self.state.deadlines.next()

    def snapshot(self, counts: RecordCounts = RecordCounts()) -> m.PoolView:  # noqa: B008 - frozen
        """Workers, counts and backlog; `counts` of the records on disk."""
        return views.pool_view(self.state, counts, self.now)

    # ------------------------------------------------------------ for the shell

    def job(self, job_id: str) -> Job | None:
        """The job in memory: every live one is, and every one that moved since the last `committed`."""
        return self.state.jobs.get(job_id)

    def reset(self, epoch: int, now: float) -> None:
        """Drop everything but the watchers: workers send `Hello` again, jobs are `restore`d. `epoch` as at the beginning.

        The streams of events go on with a gap in their numbers, so that watchers read anew, and follow again what they followed.
        """
        old = self.state
        self.state = State(epoch, old.policy, old.depot_key_of)
        self.state.calendar, self.state.refusing, self.state.stopping = old.calendar, old.refusing, old.stopping
        self.state.load_history, self.state.on_demand = old.load_history, old.on_demand
        self.state.watchers = {peer: self.state.next_revision() for peer in old.watchers}
        self.state.steps.of_all = old.steps.of_all
        self.now = now

    def restore(
        self, jobs: Iterable[Job], rates: Iterable[tuple[str, float, float, int]], now: float, *, empty: bool = False
    ) -> None:
        """Take back what the journal holds: jobs that are not final, and (model, units, run_s, GPUs) of finished ones, oldest first.
        `empty`: it holds no job at all.

        Raises `UnsoundJob` for a row that no core can have written.
        """
        self.now = now
        state = self.state
        for model, units, run_s, gpus in rates:
            state.costs.learn(model, units, run_s, gpus)
        for job in jobs:
            _require_sound(job, state.epoch)
            state.adopt_record(job)
            job.begun = job.fence if _had_begun(job) else 0
            state.set_deadline(job)
            if job.state is QUEUED:
                state.enqueue(job, front=job.attempts > 0)
            elif job.state is DELAYED:
                state.deadlines.set(("due", job.id), job.not_before)
            elif job.state is PARKED:
                parking.watch_draft(state, job)
            else:
                job.goes_on_from = job.kept
                job.held_gpus = gpus_of_last(job)
                job.change_holder("restored")
                state.orphans.add(job.id, job.worker)
        state.rejoin_until = now + state.policy.rejoin_s
        state.deadlines.set(timers.LOAD, now + LOAD_PERIOD_S)
        if state.orphans:
            state.deadlines.set(timers.REJOIN, state.rejoin_until)
        if not empty:
            state.skips_lookup_of_fresh = False
            state.deadlines.set(timers.FRESH, now + timers.FRESH_S)

    def notify_watchers(self) -> list[Effect]:
        """Send watchers what has changed since the last call, each job once, as it is now; of jobs that made but a step, those who are sent
        their steps. To be called once a pass, before its commit."""
        state = self.state
        watchers = state.watchers
        # Deletions first: a deleted job is not among the changed ones, but another of its id may be.
        if state.gone:
            gone, state.gone = tuple(state.gone), []
            for peer in watchers:
                state.send(peer, m.JobsDeleted(seq=state.next_seq(peer), job_ids=gone))
        stepped = state.steps.take(sent=state.changed) if state.steps.stepped else None
        changed, state.changed = state.changed.values(), {}
        for jobs in _portions(changed) if len(changed) > EVENT_JOBS else (changed,) if changed else ():
            body = codec.encode_body([views.job_update(state, job, self.now) for job in jobs])
            for peer in watchers:
                state.send_event(peer, body)
        if stepped:
            _send_steps(state, stepped, self.now)
        effects, state.effects = state.effects, []
        return effects

    def committed(self) -> None:
        """Note that all effects so far are on disk; drop old final jobs from memory."""
        self.state.committed()

    def sent(self) -> None:
        """Note that all messages so far were sent, or given up."""
        if self.state.ordered_peers:
            self.state.ordered_peers = set()

    def stalled(self, seconds: float, now: float) -> None:
        """Extend leases by `seconds` for which the shell did not run: silence in that time is not the workers'."""
        for worker in self.state.pool:
            worker.last_message_at = min(now, worker.last_message_at + seconds)
        if now - seconds < self.state.rejoin_until:
            self.state.rejoin_until = now + self.state.policy.rejoin_s
        if self.state.orphans:
            self.state.deadlines.set(timers.REJOIN, now + self.state.policy.rejoin_s)

    def set_calendar(self, calendar: Calendar) -> None:
        """Replace the calendar: the wall clock was set, or counts again."""
        self.state.calendar = calendar

    def set_refusing(self, reason: str) -> None:
        """Refuse new jobs from now on as the disk admits none, for this reason; "": it does."""
        self.state.refusing = reason

    @property
    def stopping(self) -> bool:
        """Whether `begin_stop` was called."""
        return self.state.stopping

    def begin_stop(self) -> None:
        """Refuse new jobs from now on: the broker is about to end."""
        self.state.stopping = True

    # ------------------------------------------------------------ inside

    def finish_pass(self) -> list[Effect]:
        """Grant waiting jobs, hand out the effects."""
        state = self.state
        if state.pool.free.by_name and state.counts[QUEUED]:
            grant_all(state, self.now)
        if state.policy.preempt:
            preempting.consider(state, self.now)
        effects, state.effects = state.effects, []
        return effects

    def _from_edge(self, peer: bytes, message: m.Message | PeerGone, found: Found) -> None:
        state, now = self.state, self.now
        match message:
            case m.Submit():
                requests.submit(state, peer, message, found, now)
            case m.ControlJob():
                requests.control_job(state, peer, message, found, now)
            case m.CancelJob():
                requests.cancel_job(state, peer, message, found, now)
            case m.GetJob():
                requests.get_job(state, peer, message, found, now)
            case m.ListJobs():
                requests.list_jobs(state, peer, message, found, now)
            case m.Watch():
                requests.watch(state, peer, message, now)
            case m.Follow():
                requests.follow(state, peer, message, now)
            case m.GetPool():
                requests.get_pool(state, peer, message, found, now)
            case m.GetLoadHistory():
                requests.get_load_history(state, peer, message, now)
            case m.GetUsage():
                requests.get_usage(state, peer, message, found)
            case m.Estimate():
                requests.estimate(state, peer, message, now)
            case m.DrainWorker():
                requests.drain_worker(state, peer, message, now)
            case m.UndrainWorker():
                requests.undrain_worker(state, peer, message, now)
            case m.ListSetAside():
                set_aside.list_all(state, peer, message, found, now)
            case m.SettleSetAside():
                set_aside.resolve(state, peer, message, found, now)
            case m.ForgetJobs():
                requests.forget_jobs(state, peer, message, found, now)
            case m.ClaimDeliveries():
                webhook_requests.claim_deliveries(state, peer, message, found, now)
            case m.DeliveryDone():
                webhook_requests.delivery_done(state, peer, message, found, now)

    def _from_agent(self, peer: bytes, message: m.Message | PeerGone, found: Found) -> None:
        state, now = self.state, self.now
        if type(message) is m.Hello:
            reports.hello(state, peer, message, now)
            return
        pool = state.pool
        worker = pool.by_peer.get(peer)
        if worker is None or worker.lost:
            # A lost worker has nothing left to renew: it must report what it holds first.
            if not isinstance(message, m.Goodbye):
                state.send(peer, m.Identify())
            return
        pool.renew_lease(worker, now)
        match message:  # the most frequent first: each case costs
            case m.Finished():
                reports.finished(state, worker, message, found, now)
            case m.Heartbeat():
                reports.heartbeat(state, worker, message, now)
            case m.Refused():
                reports.refused(state, worker, message, now)
            case m.Failed():
                reports.failed(state, worker, message, found, now)
            case m.Cancelled():
                reports.cancelled(state, worker, message, found, now)
            case m.Goodbye():
                reports.goodbye(state, worker, message, now)


def _send_steps(state: State, stepped: dict[bytes, list[Job]], now: float) -> None:
    """Send each of these peers the updates of its jobs, each made once for all of them."""
    updates: dict[str, msgspec.Raw] = {}
    for peer, jobs in stepped.items():
        for portion in _portions(jobs):
            for job in portion:
                if job.id not in updates:
                    updates[job.id] = msgspec.Raw(codec.encode_body(views.job_update(state, job, now)))
            state.send_event(peer, codec.encode_body([updates[job.id] for job in portion]))


def _portions(changed: Iterable[Job]) -> Iterator[list[Job]]:
    """`EVENT_JOBS` of them after another."""
    rest = iter(changed)
    while portion := [*islice(rest, EVENT_JOBS)]:
        yield portion


def _had_begun(job: Job) -> bool:
    """Whether the attempt of a restored job's fence was in an engine: it runs, or ran until its worker was lost."""
    return job.state is RUNNING or (job.waiting and bool(job.history) and job.history[-1].source == "running")


def _require_sound(job: Job, epoch: int) -> None:
    """Raise `UnsoundJob` when a live job cannot be like this: a damaged row must not reach the timers, the queue or a worker."""
    names = (
        job.id,
        job.submission.model,
        job.submission.origin,
        job.submission.alias,
        job.submission.pinned,
        job.worker,
    )
    for name in names:
        if type(name) is not str:
            raise UnsoundJob(f"names that are no text: {names}")
    try:
        sound = 0 <= job.submission.units < inf and 0 <= job.submitted_at < inf
        sound = sound and 0 <= job.deadline_at < inf and 0 <= job.not_before < inf and 0 <= job.parked_at < inf
    except TypeError:
        sound = False
    if not sound:
        numbers = (job.submission.units, job.submitted_at, job.deadline_at, job.not_before)
        raise UnsoundJob(f"units, or a time, that can not be: {numbers}")
    if not isinstance(job.fence, int) or not 0 <= job.fence >> 32 <= epoch:
        raise UnsoundJob(f"fence {job.fence!r} in epoch {epoch}")
    if job.waiting and job.stop:
        raise UnsoundJob(f"it is {job.state} although it was asked to stop ({job.stop})")
    if job.result is not None or job.finished_at:
        raise UnsoundJob(f"it is {job.state} and has ended at {job.finished_at:g}")
