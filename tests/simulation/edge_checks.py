"""What an edge is sent, and what customers get: each answer is held against the disk."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.core.timers import FRESH_S
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import JobState
from tests.simulation.facts import Facts, require, short


class _View(msgspec.Struct):
    """What is checked of a view."""

    id: str
    state: str
    fence: int = 0
    revision: int = 0
    result: Result | None = None


_view = msgspec.msgpack.Decoder(_View).decode


class EdgeChecks(Facts):
    """Checks of answers and events."""

    def _end_is_on_disk(self, view: _View | m.JobView) -> None:
        if view.state in ("succeeded", "failed", "cancelled"):
            job = self.disk.get(view.id)
            # A job that was never granted is shown without a fence.
            same = (
                job is not None
                and job.state == view.state
                and view.fence in (job.fence, 0 if job.attempts == 0 else job.fence)
            )
            # The id of a deleted job may be another's by now.
            another = job is not None and view.id in self.deleted_ids and job.revision > view.revision
            require(same or another, "an end is reported when it is on disk", view.id, view.state)

    def _to_edge(self, message: Any) -> None:
        about_job = isinstance(message, m.Accepted | m.JobReply | m.CancelReply | m.ControlReply)
        view = _view(message.body) if about_job and message.body else None
        if view is not None and view.id in self.deleted_ids and view.id not in self.disk:
            return  # it was there when the answer was written, and is told to be gone right behind
        if view is not None:
            self._end_is_on_disk(view)
        match message:
            case m.Event():
                shown = codec.event_views(message.body)
                require(len({one.id for one in shown}) == len(shown), "a job is told of once in an event")
                for one in shown:
                    self._end_is_on_disk(one)
            case m.Deliveries():
                for claim in codec.hook_claims(message.body):
                    delivery = self.deliveries.get(claim.number)
                    # One that is settled in the same pass, by whoever held it before, is held by nobody.
                    held = delivery is None or delivery.claim == claim.claim or delivery.state != "pending"
                    known = delivery is not None or claim.job_id in self.deleted_ids
                    require(held and known, "a claim is given when it is on disk", claim.job_id, claim.event)
            case m.Accepted(job_id=job_id):
                there = job_id in self.disk or job_id in self.deleted_ids
                require(there, "accepted means on disk", job_id)
                require(message.duplicate == (view is not None), "a job that was there is shown as it is", job_id)
            case m.ControlReply(outcome="done" | "requested"):
                assert view is not None
                reported, job = codec.job_view(message.body).parking, self.disk[view.id]
                if reported is not None and not job.final and job.revision <= view.revision:
                    paused = reported.reason != "paused" or job.park == "pause"
                    require(paused, "a pause is answered when it is on disk", view.id, job.state)
                    require(reported.committed == job.committed, "a commit is answered when it is on disk", view.id)
            case m.CancelReply(outcome="requested" | "cancelled"):
                assert view is not None
                job = self.disk[view.id]
                mark = self.world.broker.journal.asides.of_job(view.id)
                kept = job.state is JobState.CANCELLED or bool(job.stop) or bool(mark and mark.stop)
                require(kept, "a cancel is answered when it is on disk", view.id, job.state)

    def submitted(self, message: m.Submit) -> None:
        self.asked.setdefault(message.job_id, message)
        self.specs.add((message.job_id, message.body))

    def accepted(self, job_id: str, view: m.JobView) -> None:
        require(view.id == job_id and view.body == job_id.encode(), "the answer is about one's own job", job_id)
        self.accepted_ids.add(job_id)
        if view.promise is not None:
            self.world.count("promise: given")

    def rejected(self, job_id: str, message: m.Rejected) -> None:
        self.world.count(f"rejected: {message.code}")
        require(message.code != "id_conflict", "one's own job is recognised", job_id)
        known = job_id in self.accepted_ids - self.deleted_ids
        require(not known, "what was accepted is not refused later", job_id, message.code)

    def taken(self, job_ids: list[str]) -> None:
        """The broker took these for new, and found them on disk."""
        self.world.count("a fresh id was taken")
        for job_id in job_ids:
            require(self.asked[job_id].fresh, "an id is looked up unless its edge drew it", job_id)
            require(job_id in self.disk, "only what is on disk is taken", job_id)
            since_s = self.world.timeline.now - self.taken_at.get(job_id, 0.0)
            require(since_s >= FRESH_S, "a taken id is answered when it is said again", job_id, f"{since_s:.1f} s")
            self.taken_at[job_id] = self.world.timeline.now

    def conflict(self, job_id: str, message: Any) -> None:
        refused = isinstance(message, m.Rejected) and message.code == "id_conflict"
        require(refused, "an id is one job's", job_id, message)
        self.world.count("rejected: id_conflict")

    def found(self, job_id: str, found: bool) -> None:
        require(found or job_id not in self.accepted_ids - self.deleted_ids, "what was accepted is found", job_id)

    def seen(self, view: m.JobView) -> None:
        old = self.last_seen.get(view.id)
        if view.id in self.deleted_ids:
            self.last_seen[view.id] = view
            return
        if old is None or view.revision > old.revision:
            final = old is not None and old.state in ("succeeded", "failed", "cancelled")
            require(not final, "nothing is heard of a job after its end", view.id, old and old.state, view.state)
            self.last_seen[view.id] = view
            self._kept_is_known(view.id, view.fence, view.kept)
            if view.promise is not None and view.promise.breaks > (old.promise.breaks if old and old.promise else 0):
                self.world.count("promise: broken")

    def _kept_is_known(self, job_id: str, fence: int, kept: int) -> None:
        """What is said to lie in a checkpoint is what the last attempt that was granted was told, or has said, until this fence."""
        granted = [number for number, (owner, _) in self.grants.items() if owner == job_id and number <= fence]
        known = self.kept[max(granted)] if granted else set()
        require(kept == 0 or kept in known, "no older attempt's checkpoint counts", job_id, short(fence), kept, *known)

    def cancel_answered(self, job_id: str, outcome: str) -> None:
        self.world.count(f"cancel: {outcome}")
        if job_id in self.deleted_ids:
            return
        if outcome == "not_found":
            require(job_id not in self.accepted_ids, "what was accepted can be cancelled", job_id)
        elif outcome == "already_final":
            require(self.disk[job_id].final, "an end is reported when it is on disk", job_id)
        else:
            require(self.disk[job_id].state is not JobState.SUCCEEDED, "a cancelled job publishes nothing", job_id)
            self.cancels.setdefault(job_id, self.world.timeline.now)
