"""Who watches: everything that goes to disk, over a wire to an agent or an edge, and into an engine is held against the promise.

It knows the journal as another process reads it, never the broker's memory, so a word that is sent before its row is committed is
caught when it is sent, whether or not the broker dies just then.
"""

from __future__ import annotations

from collections import Counter

from broker.core.deliveries import LEASE_S, Delivery
from broker.core.jobs import MAX_HISTORY, Job
from broker.core.usage import gpu_seconds
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.terms import JobState
from tests.simulation.edge_checks import EdgeChecks
from tests.simulation.engine_checks import EngineChecks
from tests.simulation.facts import require, short
from tests.simulation.parking_checks import ParkingChecks

#: How an agent says that an attempt has ended without a result.
_HANDED_BACK = ("the engine was replaced", "the engine ended before")


_PARKING = {"draft_ready": "drafted", "parked": "paused", "resumed": "resumed"}
_EVENTS = {JobState.SUCCEEDED: "completed", JobState.FAILED: "failed", JobState.CANCELLED: "cancelled"}


class Checker(EdgeChecks, EngineChecks, ParkingChecks):
    """Remembers what was sent and written, and compares."""

    # ------------------------------------------------------------ the disk

    def committed(self, job: Job) -> None:
        """This row is on disk now."""
        old = self.disk.get(job.id)
        self.disk[job.id] = job
        self.kept_fences.add(job.fence)
        if old is not None and (old.state, old.fence, old.revision) == (job.state, job.fence, job.revision):
            return
        self.world.trace("disk", "row", f"{job.id} {job.state} fence {short(job.fence)} stop {job.stop!r}")
        require(job.id in self.asked, "nothing appears that nobody asked for", job.id)
        if old is None:
            strangers = {fence for fence, (job_id, _) in self.grants.items() if job_id == job.id and fence != job.fence}
            self.strangers |= strangers
            as_asked = self.granted_specs.get((job.id, job.fence), job.body) == job.body
            require(as_asked, "a job is run as it was asked for", job.id)
            if strangers:
                self.world.count("accepted after an attempt at it was granted")
        if old is not None:
            require(not old.final, "a final state is final", f"{job.id} was {old.state}, is {job.state}")
            require(job.fence >= old.fence, "fences only rise", job.id, short(old.fence), short(job.fence))
            require(not old.stop or job.stop == old.stop, "a stop is not taken back", job.id, old.stop, job.stop)
            self.promise_stands(old, job)
            self.parked_well(old, job)
            self.none_is_due(old, job)
            reason = job.losses == old.losses or self._may_lose(old)
            require(reason, "a worker is lost for a reason", job.id, job.history[-1].note)
        policy = self.world.plan.policy
        require(job.crashes <= policy.max_crashes, "crashes are bounded", job.id, job.crashes)
        require(job.losses <= policy.max_losses + 1 or bool(job.stop), "losses are bounded", job.id, job.losses)
        failures = len(self.failures[job.id])
        require(
            job.crashes + job.errors <= failures, "a failure counts once", job.id, job.crashes, job.errors, failures
        )
        if job.final:
            self.world.count(f"job {job.state}" + (f": {job.failure.kind}" if job.failure else ""))
            self.world.watch_end(job)
        if job.state is JobState.SUCCEEDED:
            self._published(job)
        if job.id in self.cancels and job.final:
            require(job.state is not JobState.SUCCEEDED, "a cancelled job publishes nothing", job.id)

    def deleted(self, job_id: str, last: Job | None) -> None:
        """This row is not on disk any more; `last`: what it was then."""
        job = last or self.disk.get(job_id)
        if self.disk.pop(job_id, None) is None or job is None:
            return
        require(job.final, "only what is final is deleted", job_id, job.state)
        self._require_cancelled(job)
        self.world.count("job deleted")
        self.deleted_ids.add(job_id)
        self.deleted_fences[job_id] = job.fence
        self.starts.pop(job_id, None)
        self.world.forget_checkpoints(job_id)
        self.last_seen.pop(job_id, None)
        self.cancels.pop(job_id, None)
        self.deliveries = {
            number: delivery for number, delivery in self.deliveries.items() if delivery.job_id != job_id
        }

    def reopened(self, jobs: dict[str, Job], deliveries: dict[int, Delivery]) -> None:
        """A new process reads these."""
        reported = {job_id: (job.state, job.fence) for job_id, job in self.disk.items()}
        found = {job_id: (job.state, job.fence) for job_id, job in jobs.items()}
        require(found == reported, "what was committed is on disk", found, reported)
        require(deliveries == self.deliveries, "a delivery that was committed is on disk", deliveries, self.deliveries)

    def delivery_committed(self, delivery: Delivery) -> None:
        """This row of a webhook delivery is on disk now."""
        old = self.deliveries.get(delivery.number)
        self.deliveries[delivery.number] = delivery
        job = self.disk[delivery.job_id]
        if delivery.event == "promise_broken":
            happened = job.promise is not None and job.promise.breaks > 0
        elif delivery.event in _PARKING:
            happened = any(move.cause == _PARKING[delivery.event] for move in job.history)
        else:
            happened = job.attempts > 0 if delivery.event == "started" else _EVENTS.get(job.state) == delivery.event
        require(happened, "only what has happened is delivered", delivery.job_id, delivery.event, job.state)
        if old is None:
            twins = [
                other
                for other in self.deliveries.values()
                if (other.job_id, other.event) == (delivery.job_id, delivery.event)
            ]
            require(len(twins) == 1, "an event is one delivery", delivery.job_id, delivery.event)
            return
        require(
            old.state != "delivered" or delivery.state == "delivered", "what is delivered stays so", delivery.job_id
        )
        ended = old.state != "pending" and delivery.state == "pending"
        require(not ended, "a delivery that has ended is not tried again", delivery.job_id, old.state)
        if old.claim and not delivery.claim and delivery.state in ("pending", "failed"):
            own = (delivery.number, old.claim) in self.reported
            require(own, "a delivery is settled by who holds it", delivery.job_id, delivery.event)
        if delivery.state == "pending" and delivery.claim not in (0, old.claim):
            free = not old.claim or delivery.due_at - LEASE_S >= old.due_at
            require(free, "a delivery is one edge's at a time", delivery.job_id, delivery.event)
            require(old.due_at <= delivery.due_at - LEASE_S, "a delivery is tried when it is due", delivery.job_id)

    def delivery_noted(self, claim: m.ClaimedDelivery) -> None:
        """An edge was told that its delivery is settled."""
        delivery = self.deliveries.get(claim.number)
        settled = delivery is None or delivery.state == "delivered"
        require(settled, "a delivery is noted when it is on disk", claim.job_id, claim.event)

    def forgotten(self, job_id: str) -> None:
        """A customer was told that the record is deleted."""
        require(job_id in self.deleted_ids, "a deletion is reported when it is on disk", job_id)

    def _require_cancelled(self, job: Job) -> None:
        if job.id in self.cancels:
            ended = job.state is JobState.CANCELLED or (job.failure is not None and job.failure.kind == "expired")
            require(ended, "what was cancelled is cancelled", job.id, job.state, job.failure)

    def _require_start_delivered(self, job: Job) -> None:
        """A start that is in the record was delivered to the job's webhook, if that wants it."""
        wanted = job.submission.webhook_events
        if job.submission.webhook and job.attempts and (not wanted or "started" in wanted):
            events = {delivery.event for delivery in self.deliveries.values() if delivery.job_id == job.id}
            require("started" in events, "a start is delivered, however late it was told", job.id, *events)

    def _published(self, job: Job) -> None:
        require(not job.stop, "a job that is being stopped publishes nothing", job.id, job.stop)
        require((job.id, job.fence) in self.files, "what is published is there", job.id, short(job.fence))
        require(self.attempts.get(job.fence) == job.id, "only what ran is published", job.id, short(job.fence))
        stranger = job.fence in self.strangers
        require(not stranger, "an attempt counts for the job that it was granted for", job.id, short(job.fence))
        result = job.result
        right = result is not None and result.artefacts[0].sha256 == f"{job.fence:064x}"
        require(right, "an attempt publishes its own result", job.id, short(job.fence), result)
        if any(job.fence in worker.spool.resumed for worker in self.world.workers):
            self.world.count("depot: a result of a dead agent counts")
        self._has_started(job)

    def _has_started(self, job: Job) -> None:
        """Rules of a job that is done: its start is told too, and is the moment at which its engine got it."""
        causes = [move.cause for move in job.history]
        reported = job.attempts > 0 and ("started" in causes or "adopted" in causes)
        require(reported or len(causes) >= MAX_HISTORY, "what ends has started", job.id, job.attempts, *causes)
        at = self.given_at[job.fence]
        if not self.world.disturbed((job.worker, "broker"), at):
            late_s = job.started_at - self.world.broker.clock_offset - at
            exact = -1e-3 <= late_s <= self.world.network.longest_s + 0.1
            require(exact, "a start is reported as it was", job.id, short(job.fence), f"{late_s:.3f} s late")

    # ------------------------------------------------------------ what the broker says

    def sending(self, peer: bytes, frame: bytes) -> bool:
        """The broker hands a message to its socket; whether it is a new grant of a job that is not on disk."""
        known = len(self.hasty)
        if peer.startswith(b"b"):
            for message in codec.to_agent(frame):
                self._to_agent(peer, message)
        else:
            for message in codec.to_edge(frame):
                self._to_edge(message)
        return len(self.hasty) > known

    def _to_agent(self, peer: bytes, message: m.Message) -> None:
        record = self.world.broker.core.state.pool.by_peer.get(peer)
        if record is not None:
            self.names[peer] = record.name
        match message:
            case m.Run(job_id=job_id, fence=fence, alone=alone):
                # None: its row is about to be written, for the first time, in place of one that is about to be deleted, or in vain.
                job = None if self.world.broker.journal.begins(job_id) else self.disk.get(job_id)
                # An address that was given up later in the same pass was that worker's when the grant was made.
                worker = self.names.get(peer, "")
                if job is None and job_id in self.deleted_ids and job_id not in self.world.broker.core.state.jobs:
                    return  # it was granted, ended and deleted in one pass; the worker's next word is answered with a cancel
                body = message.body
                as_asked = (job_id, body) in self.specs if job is None else body == job.body
                require(as_asked, "a job is run as it was asked for", job_id)
                self.granted_specs[job_id, fence] = body
                self._kept_is_known(job_id, fence, message.kept)
                self.kept[fence].add(message.kept)
                if fence not in self.grants:
                    if job is None:
                        self.world.count("granted before it was on disk")
                        self.hasty.add(fence)
                    else:
                        self._may_be_run(job, message)
                    self.alone |= {fence} if alone else set()
                    higher = fence > self.highest.get(job_id, 0) and fence >> 32 == self.world.broker.journal.epoch
                    require(higher, "every grant bears a higher fence", job_id, short(fence))
                    self.highest[job_id] = fence
                    pinned = self.asked[job_id].submission.pinned
                    require(pinned in ("", worker), "a pinned job runs where it was pinned", job_id, worker)
                    self.grants[fence] = (job_id, worker)
                    self.grants_of[job_id] += 1
                    most = 30 + 10 * len(self.world.disturbances)
                    require(self.grants_of[job_id] <= most, "a worker that has no room is not asked again", job_id)
                require(
                    self.grants[fence] == (job_id, worker), "a fence is one job's at one worker", job_id, short(fence)
                )
            case m.ResultAck(job_id=job_id, fence=fence, accepted=True):
                job = self.disk.get(job_id)
                if job is None:
                    require(job_id in self.deleted_ids, "a result is acknowledged when it is on disk", job_id)
                    return
                if fence <= self.deleted_fences.get(
                    job_id, 0
                ):  # it ended, was deleted and its id taken anew in one commit
                    return
                if (job_id, fence) in self.finished:
                    done = job.state is JobState.SUCCEEDED and job.fence == fence
                else:  # it failed, or was stopped
                    done = job.fence > fence or job.final or job.waiting
                require(done, "a result is acknowledged when it is on disk", job_id, short(fence))

    def _may_be_run(self, job: Job, run: m.Run) -> None:
        """Rules of a new grant of a job that is on disk."""
        require(not job.final, "what is final is not run", job.id)
        kept_out = job.state is JobState.PARKED and job.fence < run.fence
        require(not kept_out, "what is parked is not run", job.id, short(run.fence))
        require(run.alone == (job.crashes > 0), "what crashed before is to run alone", job.id, job.crashes)

    def said(self, worker: str, message: m.Message) -> None:
        """An agent says what it holds, and how an attempt ended."""
        if isinstance(message, m.Finished | m.Failed | m.Cancelled) and message.fence not in self.beaten:
            self.world.count("ended before a heartbeat told of it")
        match message:
            case m.Heartbeat(held=held):
                self.beaten |= {item.fence for item in held}
                for item in held:
                    self.kept[item.fence].add(item.kept)
            case m.Refused(fence=fence, kept=kept) if kept:
                self.kept[fence].add(kept)
                self._handed_back(worker, message)
            case m.Failed(job_id=job_id, fence=fence, kind=kind):
                self.failures[job_id].add(fence)
                to_blame = {"engine_crashed": self.crashes, "hung": self.hung}.get(kind)
                blamed = to_blame is None or fence in to_blame
                require(blamed, "who only stood by is not to blame", worker, job_id, short(fence), kind)
            case m.Finished(job_id=job_id, fence=fence):
                self.finished.add((job_id, fence))
            case m.Cancelled(job_id=job_id, fence=fence):
                # An agent after the one that finished it may have been told to cancel it while it put the files once more.
                self.finished.discard((job_id, fence))
            case m.Refused():
                self._handed_back(worker, message)
            case m.Hello(held=held):
                for item in held:
                    self.kept[item.fence].add(item.kept)

    def _handed_back(self, worker: str, message: m.Refused) -> None:
        if message.reason.startswith(_HANDED_BACK):
            self.handed_back[message.job_id].add(message.fence)
            require(message.fence not in self.crashes, "who is to blame says so", worker, message.job_id)
            other = "another job" in message.reason
            self.world.count("overlap: handed back" if other else "handed back before it began")

    def broker_stepped(self) -> None:
        """The broker has taken and done what there was."""
        self.world.broker.check()
        core = self.world.broker.core
        for name, limit in self.world.limits.items():
            held = core.state.tenants.share(name).held
            waived = core.state.orphans or self.world.disturbances
            require(held <= limit or bool(waived), "a tenant has its share of workers at most", name, held)
        self.note_due(core.state)

    # ------------------------------------------------------------ the end

    def finally_(self) -> None:
        """Everything is quiet."""
        for job_id in self.accepted_ids:
            require(job_id in self.disk or job_id in self.deleted_ids, "what was accepted is on disk", job_id)
        for job in self.disk.values():
            self._require_cancelled(job)
            self._require_start_delivered(job)
        for delivery in self.deliveries.values():
            taken = delivery.state != "delivered" or delivery.number in self.received
            require(taken, "only what was received is delivered", delivery.job_id, delivery.event)
        aliases = Counter(
            (job.submission.alias, job.submission.tenant) for job in self.disk.values() if job.submission.alias
        )
        require(all(count == 1 for count in aliases.values()), "a name that is to be unique is", aliases)
        for job in self.disk.values():
            files = (job.id, job.fence) in self.files
            require(job.state is not JobState.SUCCEEDED or files, "what is published stays", job.id)
            finals = [move for move in job.history if move.target in ("succeeded", "failed", "cancelled")]
            require(len(finals) == 1, "a job ends once", job.id, job.history)
            starts = [move for move in job.history if move.target == "running"]
            gpus = {worker.name: worker.gpus for worker in self.world.workers}
            counted = all(move.gpus == gpus[move.worker] for move in starts if move.worker)
            require(counted, "usage counts the GPUs of the worker", job.id, job.history)
            used_s = sum(gpu_seconds(job)) / max((move.gpus for move in starts), default=1)
            most_s = job.finished_at - job.submitted_at - job.preempted_s
            # A broker that starts again counts its time anew.
            sound = used_s <= most_s + 0.001 or bool(self.world.broker.deaths)
            require(sound, "time parked is no run time", job.id, used_s, most_s)
