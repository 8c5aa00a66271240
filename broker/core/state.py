"""The core's memory, and the moves that every handler is made of.

Handlers (`requests`, `reports`, `timers`, `grants`) decide; this file keeps the parts consistent: every move of a job goes
through `State.move`, so that queue, deadlines, counts, watchers and effects cannot disagree with the job's state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

from broker.core.calendar import Calendar
from broker.core.deadlines import Deadlines
from broker.core.deliveries import Delivery
from broker.core.effects import DeliveryChanged, Effect, RecordDeleted, Send, SendRun, Transition
from broker.core.jobs import DISPATCHED, FINISHED, LAZY, STARTED, SUBMITTED, Cause, Job
from broker.core.load_history import LoadHistory
from broker.core.on_demand import OnDemand
from broker.core.orphans import Orphans
from broker.core.policy import Policy
from broker.core.pool import Pool, Worker
from broker.core.scheduling import preemption
from broker.core.scheduling.costs import Costs, Reloads
from broker.core.scheduling.promises import Promises, demand_of
from broker.core.scheduling.queue import Queue, settle
from broker.core.scheduling.run_times import RunTimes
from broker.core.scheduling.tenants import Tenants
from broker.core.scheduling.urgency import Urgency
from broker.core.spec_cache import SpecCache
from broker.core.step_streams import StepStreams
from broker.wire import messages as m
from broker.wire.terms import DELAYED, FINAL, HELD, PARKED, QUEUED, SUCCEEDED, WAITING, JobState

#: Messages to a worker that a `Run` must not overtake; acknowledgements it may.
_IN_ORDER = frozenset((m.Welcome, m.Identify, m.WorkerRejected, m.Cancel, m.Park, m.Drain, m.Undrain))


_FINAL_EVENTS: dict[JobState, m.WebhookEvent] = {
    SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


def _event_of(job: Job, cause: Cause) -> m.WebhookEvent | None:
    """The event of a job's latest move, if its webhook subscribes to it. Only a first attempt is a start."""
    if job.final:
        event = _FINAL_EVENTS[job.state]
    elif cause is Cause.PROMISE_BROKEN:
        event = "promise_broken"
    elif cause in (STARTED, Cause.ADOPTED) and job.attempts <= 1:
        event = "started"
    elif cause is Cause.DRAFTED:
        event = "draft_ready"
    elif cause is Cause.PAUSED:
        event = "parked"
    elif cause is Cause.RESUMED and job.state is QUEUED:  # else it was only about to be parked
        event = "resumed"
    else:
        return None
    return event if not job.submission.webhook_events or event in job.submission.webhook_events else None


class State:
    """The core's memory."""

    def __init__(self, epoch: int, policy: Policy, depot_key_of: Callable[[str], str] = lambda worker: "") -> None:
        self.epoch = epoch
        self.policy = policy
        self.calendar = Calendar()
        #: Why the disk admits no new job; "": it does.
        self.refusing = ""
        #: Name of a worker -> the key with which it signs its requests to the depot.
        self.depot_key_of = depot_key_of
        #: The broker is about to end, and takes no new job.
        self.stopping = False
        #: Live jobs, and final ones until `committed` drops them.
        self.jobs: dict[str, Job] = {}
        self.queue = Queue()
        self.tenants = Tenants()
        self.spec_cache = SpecCache()
        self.pool = Pool()
        self.deadlines = Deadlines()
        self.costs = Costs()
        self.run_times = RunTimes(self.costs, self.pool.sizes)
        self.reloads = Reloads()
        self.promises = Promises()
        #: Where running jobs make room: the jobs that wait and have not made room themselves.
        self.urgency = Urgency()
        #: Those that made room and wait, by what is left of them.
        self.preempted = Urgency()
        #: Jobs that were held when the broker stopped and whose worker has not come back yet.
        self.orphans = Orphans()
        #: Whether an id that its edge has just drawn is taken for new without a look at the disk: see `timers.FRESH`.
        self.skips_lookup_of_fresh = True
        #: Until when workers may bring back attempts whose rows were lost with the broker that granted them.
        self.rejoin_until = 0.0
        #: Peer -> number of the last event sent to it.
        self.watchers: dict[bytes, int] = {}
        #: Changed jobs that watchers have not been sent yet.
        self.changed: dict[str, Job] = {}
        #: The watchers that are sent steps, and of which jobs.
        self.steps = StepStreams()
        #: Jobs whose records were deleted, which watchers have not been sent yet.
        self.gone: list[str] = []
        self.counts: dict[JobState, int] = dict.fromkeys(JobState, 0)
        self.load_history = LoadHistory()
        self.on_demand = OnDemand(policy.on_demand_models)
        #: (when, predicted seconds left in held jobs, workers in service): a memo of `views`.
        self.load: tuple[float, float, int] = (-1.0, 0.0, 1)
        #: When it is looked next whether a job should make room, and when it was last.
        self.preempt_at = 0.0
        self.looked_at = -inf
        self.effects: list[Effect] = []
        #: Jobs accepted or released since the last commit, the oldest first.
        self.fresh: dict[str, Job] = {}
        #: Jobs that are parked or set aside on disk and go on since the last commit.
        self.reopened: set[str] = set()
        #: Workers with a message on its way since `sent` was called last that no `Run` may overtake.
        self.ordered_peers: set[bytes] = set()
        #: The highest fence that can have been given: those of earlier epochs are all below.
        self.last_fence = epoch << 32
        #: The last one given: `epoch << 32 | counter`, like a fence.
        self._revisions = epoch << 32
        self._finals: OrderedDict[str, int] = OrderedDict()
        self._final_bytes = 0

    # ------------------------------------------------------------ sending

    def send(self, peer: bytes, message: m.Message) -> None:
        if type(message) in _IN_ORDER:
            self.ordered_peers.add(peer)
        self.effects.append(Send(peer, message))

    def send_run(self, peer: bytes, run: m.Run, *, evicted: bool = False) -> None:
        """Send a grant, early unless something that must come first is on its way to the worker, or the disk has the job as one that is
        kept out of engines.

        `evicted`: the shell is to put the spec in.

        A `Run` announces no row: its fence is new whatever becomes of the rows of this pass, as the epoch is on disk. So the worker need
        not wait for the commit, nor for that of the job itself: should it fail, there is no job, its worker is sent a cancel, and what
        the attempt has made counts for no job that is accepted later, whose fence is higher from its first moment.
        """
        early = peer not in self.ordered_peers and run.job_id not in self.reopened
        if not early:
            self.ordered_peers.add(peer)
        self.effects.append(SendRun(peer, run, early) if evicted else Send(peer, run, early))

    # ------------------------------------------------------------ jobs

    def next_fence(self) -> int:
        """A fence never given before: see `jobs`."""
        self.last_fence += 1
        return self.last_fence

    def next_revision(self) -> int:
        self._revisions += 1
        return self._revisions

    def adopt_record(self, job: Job) -> None:
        """Take a job into memory: a new one, or one read back at start."""
        self.jobs[job.id] = job
        if not job.evicted:
            self.spec_cache.accepted(job)
        self.counts[job.state] += 1
        self.tenants.adopt(job)

    def move(self, job: Job, cause: Cause, now: float, note: str = "") -> None:
        """Move a job by the table, and everything that depends on its state with it."""
        source = job.move(cause, now, note)
        target = job.state
        if source is not target and source is not None:
            counts = self.counts
            counts[source] -= 1
            counts[target] += 1
            if cause is not STARTED:  # it was held before
                self.tenants.moved(job, source)
            if source in WAITING and cause is not DISPATCHED:  # which has taken it out of the queue
                self._end_wait(job, source)
            if target in FINAL:
                self._finish(job)
            if job.promise is not None and target is not QUEUED:
                self.promises.discard(job.id)
        if job.parked_at and target in HELD:
            if source is QUEUED:
                job.preempted_s += max(0.0, now - job.parked_at)
            job.parked_at = 0.0
        if target in WAITING:
            if target is DELAYED:
                self.deadlines.set(("due", job.id), job.not_before)
            if job.park == "preempt":
                job.wish_park("")
        delivery = self._delivery_of(job, cause, now) if job.submission.webhook else None
        durable = delivery is not None or cause not in LAZY
        self.effects.append(Transition(job, job.attempts, source, target, cause, durable, job.worker, note))
        if delivery is not None:
            self.put_delivery(delivery)
        # As `note_change`, inlined: every job moves four times.
        self._revisions = job.revision = self._revisions + 1
        if self.watchers:
            self.changed[job.id] = job

    def grant_new(self, job: Job, now: float) -> None:
        """Take a new job into memory that its worker has been granted to: as `adopt_record` and two moves, in one."""
        source, between = job.move_through(SUBMITTED, now, DISPATCHED, now)
        self.adopt_record(job)
        via = between, SUBMITTED
        self.effects.append(Transition(job, job.attempts, source, job.state, DISPATCHED, True, job.worker, via=via))
        # The first of them is the one that its edge is answered.
        self._revisions = job.revision = self._revisions + 2
        if self.watchers:
            self.changed[job.id] = job

    def start_and_finish(self, job: Job, begun_at: float, now: float) -> None:
        """End a job, which has a result, whose start is reported with it: as two moves, in one. It has no promise and no webhook."""
        job.begin_attempt(begun_at)
        last_at = job.history[-1].at
        source, between = job.move_through(STARTED, begun_at if begun_at > last_at else last_at, FINISHED, now)
        if source is not None:
            self.counts[source] -= 1
            self.tenants.moved(job, source)
        self.counts[job.state] += 1
        self._finish(job)
        via = between, STARTED
        self.effects.append(Transition(job, job.attempts, source, job.state, FINISHED, True, job.worker, via=via))
        self._revisions = job.revision = self._revisions + 1
        if self.watchers:
            self.changed[job.id] = job

    def _end_wait(self, job: Job, source: JobState) -> None:
        """Take a job out of the queue or its back-off, out of turn."""
        if source is DELAYED:
            self.deadlines.clear(("due", job.id))
        elif source is PARKED:
            self.deadlines.clear(("draft", job.id))
        elif job.id in self.queue:
            self.queue.remove(job.id)

    def _delivery_of(self, job: Job, cause: Cause, now: float) -> Delivery | None:
        """The delivery that the job's latest move causes. A start that is reported twice causes one."""
        event = _event_of(job, cause)
        known = job.deliveries.values()
        if event is None or any(delivery.event == event for delivery in known):
            return None
        unwanted = any(delivery.state == "disabled" for delivery in known)
        return Delivery(
            number=self.next_revision(),
            job_id=job.id,
            event=event,
            created_at=now,
            due_at=now,
            state="disabled" if unwanted else "pending",
        )

    def put_delivery(self, delivery: Delivery) -> None:
        """Write a webhook delivery, new or changed."""
        job = self.jobs.get(delivery.job_id)
        if job is not None:
            job.deliveries[delivery.number] = delivery
        self.effects.append(DeliveryChanged(delivery))

    def set_deadline(self, job: Job) -> None:
        """Wake at the job's deadline, and at the time to check its promise, if it has one."""
        if job.deadline_at:
            self.deadlines.set(("deadline", job.id), job.deadline_at)
        if job.promise is not None and not self.deadlines.has(("promise", job.id)):
            self.deadlines.set(("promise", job.id), job.promise.ready_by)

    def enqueue(self, job: Job, *, front: bool = False, yields_until: float | None = None) -> None:
        """Put a job that is `queued` into the queue, as `Queue.add`."""
        units = job.submission.units
        job.cost = self.run_times.predict(job.submission, job.left(units, job.kept) if job.kept else units)
        self.line_up(job, front=front, yields_until=yields_until)
        if job.promise is not None:
            self.expect(job)

    def line_up(self, job: Job, *, front: bool = False, yields_until: float | None = None) -> None:
        """Put a job whose cost is known into the queue, and among those for which others may make room, if it made none itself."""
        charge = job.cost if self.pool.sizes.one == 1 else self.run_times.gpu_seconds(job.submission, job.cost)
        self.queue.add(job, charge, front=front, yields_until=yields_until)
        if self.policy.preempt and yields_until is not None:
            self.preempted.add(job.id, job.cost)
        elif self.policy.preempt:
            self.urgency.add(job.id, preemption.start_by(job.submitted_at, job.cost, self.policy.preempt_bounds))

    def expect(self, job: Job) -> None:
        """Plan for a promised job that waits, and wake when it would have to start."""
        submission, promise = job.submission, job.promise
        if promise is not None:
            load_s = 0.0
            if any(worker.model != submission.model for worker in self.pool if submission.model in worker.models):
                load_s = self.reloads.predict(submission.model, otherwise=self.policy.reload_s)
            self.promises.add(
                demand_of(job.id, submission, job.left(submission.units, job.kept), promise, self.run_times, load_s)
            )
            self.deadlines.set(("promise", job.id), promise.ready_by - job.cost)

    def give_back(self, job: Job, cause: Cause, now: float, note: str = "") -> None:
        """Put a held job that has no result at the front of the queue; end it if it is being stopped, park it if it is paused."""
        self.unhold(job, now)
        if job.stop:
            self.end_stopped(job, now, note)
            return
        job.phase, job.step, job.total = "", 0, 0
        self.move(job, cause, now, note)
        if job.park:
            self.pause(job, now)
        else:
            self.enqueue(job, front=True)

    def pause(self, job: Job, now: float) -> None:
        """Take a waiting job out of the queue until its client resumes it."""
        job.parked_at = now
        self.move(job, Cause.PAUSED, now)

    def end_stopped(self, job: Job, now: float, note: str = "") -> None:
        """End a job that is being stopped by its client or its deadline."""
        if job.stop == "expired":
            job.failure = m.Failure(m.FailureKind.EXPIRED, "the deadline passed before the job was done")
            self.move(job, Cause.EXPIRED, now, note)
        else:
            self.move(job, Cause.CANCELLED, now, note)

    def fail(self, job: Job, failure: m.Failure, now: float) -> None:
        job.failure = failure
        self.move(job, Cause(failure.kind.rules.cause), now, failure.message)

    def close_attempt(self, job: Job) -> None:
        """Take a new fence: reports of the current attempt count no more."""
        job.renew_fence("closed", self.next_fence())

    # ------------------------------------------------------------ holding

    def hold(self, job: Job, worker: Worker) -> None:
        """Note that `worker` has this job's current attempt: it reported so, or is about to be sent it."""
        job.change_holder("adopted")
        job.worker, job.held_gpus = worker.name, worker.info.gpus
        self.orphans.discard(job.id)
        self.pool.adopt(worker, job.id, job.fence)

    def unhold(self, job: Job, now: float) -> None:
        """Note that no worker has this job any more."""
        job.change_holder("released")
        if self.orphans:
            self.orphans.discard(job.id)
        worker = self.pool.workers.get(job.worker)
        if worker is not None:
            self.pool.release(worker, job.id, job.fence, now)
        if job.id in self.queue.charged:
            # The time of a model's loading, known once there is a result, is not held against the tenant.
            took_s = now - job.started_at if job.begun == job.fence else 0.0
            if job.result is not None:
                took_s -= job.result.ready_s
            settle(self.queue, job.id, job.held_gpus * max(0.0, took_s))

    def holder(self, job: Job) -> Worker | None:
        """The worker that holds the job's current attempt, as far as is known."""
        worker = self.pool.workers.get(job.worker)
        return worker if worker is not None and worker.held.get(job.id) == job.fence else None

    def send_cancel(self, job: Job) -> None:
        """Send the holder a cancel; repeated with every heartbeat until the result is in."""
        worker = self.holder(job)
        if worker is not None and not worker.lost:
            self.send(worker.peer, m.Cancel(job_id=job.id, fence=job.fence))

    def send_park(self, job: Job) -> None:
        """Send the holder a request to hand the job back, as `send_cancel`. One whose model does not resume would only lose what it has
        done.
        """
        worker = self.holder(job)
        if worker is not None and not worker.lost and job.submission.model in worker.resumable:
            self.send(worker.peer, m.Park(job_id=job.id, fence=job.fence))

    def lose_peer(self, peer: bytes) -> None:
        """Send no more events to an address that cannot be reached, and grant nothing to its worker."""
        self.end_watch(peer)
        worker = self.pool.by_peer.get(peer)
        if worker is not None:
            self.pool.mark_unreachable(worker)

    # ------------------------------------------------------------ watching

    def note_change(self, job: Job) -> None:
        """Give a job that has changed a new revision; watchers are sent it at the end of the pass."""
        self._revisions += 1
        job.revision = self._revisions
        if self.watchers:
            self.changed[job.id] = job

    def note_step(self, job: Job) -> None:
        """As `note_change`, for what moves within a running job: sent to the watchers of its steps alone."""
        self._revisions += 1
        job.revision = self._revisions
        self.steps.note(job)

    def next_seq(self, peer: bytes) -> int:
        """Number of the next message of a watcher's stream."""
        seq = self.watchers[peer] = self.watchers[peer] + 1
        # The next stream begins behind all numbers of this one. An event need not show a change: the answer to `Follow` shows none.
        self._revisions = max(self._revisions, seq)
        return seq

    def send_event(self, peer: bytes, body: bytes) -> None:
        """Send a watcher the encoded updates of some jobs, under its next number."""
        self.send(peer, m.Event(seq=self.next_seq(peer), body=body))

    def end_watch(self, peer: bytes) -> None:
        """Send no more events to this peer."""
        if self.watchers.pop(peer, None) is not None:
            self.steps.drop_peer(peer)

    # ------------------------------------------------------------ memory

    def _finish(self, job: Job) -> None:
        self.unhold(job, job.finished_at)
        size = len(job.body)
        if not job.evicted:
            self.spec_cache.drop(size)
        job.phase, job.step, job.total = "", 0, 0
        if job.deadline_at:
            self.deadlines.clear(("deadline", job.id))
        if job.promise is not None:
            self.deadlines.clear(("promise", job.id))
        if self.steps.followers or self.steps.stepped:
            self.steps.drop_job(job.id)
        self._finals[job.id] = size
        self._final_bytes += size

    def forget(self, job: Job) -> None:
        """Delete the record of a final job for good."""
        self._final_bytes -= self._finals.pop(job.id, 0)
        self.jobs.pop(job.id, None)
        self.effects.append(RecordDeleted(job.id))
        if self.watchers:
            self.changed.pop(job.id, None)
            self.gone.append(job.id)

    def committed(self) -> None:
        """Drop the specs that are too many, and the oldest final jobs: everything is on disk now."""
        if self.fresh:
            self.spec_cache.evict(self.fresh, self.policy)
            self.fresh = {}
        if self.reopened:
            self.reopened.clear()
        limit, limit_bytes = self.policy.recent_finals, self.policy.recent_final_bytes
        while self._finals and (len(self._finals) > limit or self._final_bytes > limit_bytes):
            job_id, size = self._finals.popitem(last=False)
            self._final_bytes -= size
            self.jobs.pop(job_id, None)
