"""What jobs that make room lose, and what promises are worth: only for others, seldom, within bounds, and never in silence."""

from __future__ import annotations

from math import inf

from broker.core.jobs import Cause, Job
from broker.core.scheduling import dispatch, preemption
from broker.core.scheduling.queue import key_of
from broker.core.state import State
from broker.wire.terms import JobState
from tests.simulation.facts import Facts, require, short


class ParkingChecks(Facts):
    """Checks of jobs that are parked, and of promises."""

    def note_due(self, state: State) -> None:
        """Note which jobs made room and may go on, and when they have waited for as long as they may."""
        self.due = {
            job.id: key_of(state.queue, job.id)
            for job in state.jobs.values()
            if job.parked_at and job.id in state.queue and job.yields_to not in state.queue
        }

    def none_is_due(self, old: Job, job: Job) -> None:
        """A job that is granted passes none that made room and has waited for as long as it may, but as the rules have it."""
        if not self.due or old.state is not JobState.QUEUED or job.state is not JobState.ASSIGNED:
            return
        state, at = self.world.broker.core.state, job.history[-1].at
        worker, bounds = state.pool.workers.get(job.worker), state.policy.preempt_bounds
        if worker is None or worker.model != job.submission.model or job.promise is not None:
            return
        for other_id, due_at in self.due.items():
            other = state.jobs.get(other_id)
            if due_at >= at or other is None or other_id not in state.queue or not other.parked_at:
                continue
            self.world.count("preempted: waits for longer than it may")
            submission = other.submission
            may = (
                submission.model == worker.model
                and state.tenants.may_start(submission.tenant)
                and dispatch.may_run(state, other, state.queue.lane(other_id), worker)
            )
            small = preemption.small(job.cost, state.run_times.predict(submission, submission.units), bounds)
            sooner = self.due.get(job.id, inf) <= due_at
            higher = job.submission.priority > submission.priority
            require(not may or small or sooner or higher, "who waited for as long as it may goes on", other_id, job.id)

    def parked_well(self, old: Job, job: Job) -> None:
        """Only for others, seldom, and never past what was promised; what it goes on from is what its attempts said since."""
        said = (kept for fence, kept in self.kept.items() if old.fence <= fence <= job.fence)
        known = job.kept == old.kept or any(job.kept in kept for kept in said)
        require(known, "the newest checkpoint counts", job.id, old.kept, job.kept, short(job.fence))
        if job.preemptions == old.preemptions:
            return
        self.world.count("preempted")
        bounds, core = self.world.plan.policy.preempt_bounds, self.world.broker.core
        require(job.preemptions <= bounds.most, "a job makes room so often at most", job.id, job.preemptions)
        # For whom it makes room is not journaled.
        live = core.state.jobs.get(job.id)
        at, other = job.history[-1].at, core.state.jobs.get(live.yields_to) if live is not None else None
        if job.history[-1].cause != Cause.PARK_REQUESTED or other is None:
            return
        self.world.count("preempted: for a promise" if other.promise is not None else "preempted: for a short one")
        require(not other.parked_at, "what made room makes nobody else do so", job.id, other.id)
        ran_s = at - job.started_at
        rest_s = min(bounds.most_rest_s, bounds.rest * other.cost)
        require(old.preemptions == 0 or ran_s >= rest_s, "who made room runs for a while", job.id, ran_s, rest_s)
        most_s = self.world.plan.policy.preempt_delay * core.state.run_times.predict(
            job.submission, job.submission.units
        )
        delay_s = job.preempted_s + old.preemptions * bounds.overhead_s + other.cost
        require(delay_s <= most_s, "a job is delayed by a share of its time", job.id, delay_s, most_s)
        whole_s = most_s / self.world.plan.policy.preempt_delay
        if other.promise is None and other.cost > bounds.small * whole_s:
            self.world.count("preempted: for one that is not small")
            reserved_s = bounds.reserve * most_s
            require(delay_s <= most_s - reserved_s, "part of a job's delay is for small ones", job.id, delay_s, most_s)
        for by in (job.deadline_at, job.promise.ready_by if job.promise is not None else 0.0):
            require(not by or at + other.cost <= by, "what is late makes no room", job.id, at, other.cost, by)

    def promise_stands(self, old: Job, job: Job) -> None:
        """What was promised is promised still, or was told broken."""
        if old.promise is None:
            require(job.promise is None, "a promise is given when the job is taken", job.id)
            return
        promise = job.promise
        require(promise is not None, "a promise is not dropped", job.id)
        if promise is not None and promise.ready_by != old.promise.ready_by:
            require(promise.breaks > old.promise.breaks, "another time is promised when one is broken", job.id)
            first = old.promise.first_ready_by or old.promise.ready_by
            require(promise.first_ready_by == first, "what was promised first is not forgotten", job.id)
            if self.world.plan.exact:
                possible = not self.world.disturbances
                require(not possible, "a promise is kept where all takes as long as it did", job.id, job.state)
                saviour = self._could_make_room(job, old.promise.ready_by)
                require(not saviour, "a promise is not broken while a job could make room", job.id, saviour)

    def _could_make_room(self, late: Job, ready_by: float) -> str:
        """A running job for which it would be easy to let a waiting one, to be done by then, go first; "": there is none."""
        plan, now = self.world.plan, late.history[-1].at
        step_s, bounds = max(plan.steps_s), plan.policy.preempt_bounds
        soon_s, takes_s = step_s + bounds.overhead_s, 1.15 * (late.submission.steps + 2) * step_s
        waits = late.state is JobState.QUEUED and not late.parked_at and not late.excluded
        if not plan.policy.preempt or not waits or now + soon_s + takes_s > ready_by:
            return ""
        for job in self.world.broker.core.state.jobs.values():
            if job.state is not JobState.RUNNING or job.phase != "denoise" or job.stop or job.park or job.deadline_at:
                continue
            whole_s, left_s = (steps * step_s for steps in (job.submission.steps, job.submission.steps - job.step))
            rested = not job.preemptions or now - job.started_at > bounds.most_rest_s + 1.0
            delay_s = soon_s + takes_s + job.preempted_s + job.preemptions * bounds.overhead_s
            cheap = job.preemptions < bounds.most and delay_s + 1.0 < plan.policy.preempt_delay * whole_s
            spare_s = job.promise.ready_by - now - 1.2 * left_s if job.promise is not None else inf
            if rested and cheap and left_s > 4 * soon_s and delay_s + 1.0 < spare_s:
                return job.id
        return ""
