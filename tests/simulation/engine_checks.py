"""What engines do: each start has a reason, and nothing published is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.jobs import Job
from broker.wire import messages as m
from broker.wire.terms import JobState
from tests.simulation.facts import Facts, require, short

if TYPE_CHECKING:
    from tests.simulation.engine import Work


class EngineChecks(Facts):
    """Checks of attempts in engines, and of their files."""

    def fetches(self, fence: int) -> None:
        """An agent has this attempt, and fetches what it needs before its engine is given it."""
        self.given_at[fence] = self.world.timeline.now

    def begun(self, worker: str, job_id: str, fence: int) -> None:
        """An engine is given this attempt."""
        require(fence not in self.attempts, "a fence runs once", job_id, short(fence))
        self.attempts[fence] = job_id
        self.given_at.setdefault(fence, self.world.timeline.now)
        if self.vain(job_id, fence):
            self.world.count("begun in vain: its job was not accepted")
            return
        require(self._may_start(job_id, fence), "a job is started again for a reason", job_id, short(fence))
        self.starts[job_id] = (self.world.timeline.now, worker, fence)
        self.files.discard((job_id, fence))

    def vain(self, job_id: str, fence: int) -> bool:
        """Whether this attempt was granted for a job that has not come to the disk."""
        job = self.disk.get(job_id)
        return fence in self.hasty and fence not in self.kept_fences and (job is None or job.fence < fence)

    def set_aside(self, job_id: str) -> None:
        """The core has raised over this job."""
        self.asides.add(job_id)

    def shown_aside(self, view: m.JobView) -> None:
        """The broker shows a job as set aside."""
        require(view.set_aside is not None, "who is set aside is shown so", view.id)
        require(view.id in self.asides, "only the job that the core raised over is set aside", view.id)

    def _may_start(self, job_id: str, new: int) -> bool:
        """Whether it was not started before, or something happened to that attempt: it failed, or its worker or link was disturbed.

        The broker's death is no reason, unless it came so soon that the grant was not on disk. Nor is its sleep.
        """
        last = self.starts.get(job_id)
        if last is None or job_id in self.asides:
            return True
        at, worker, fence = last
        if new < fence:  # an old grant, late: it will be told to stop
            return True
        slack_s = 1.0 + 2 * self.world.network.longest_s
        kept = (
            fence in self.kept_fences
        )  # a broker that slept before it died may never have written a grant of long ago
        forgotten = any(abs(death - at) < slack_s or (death >= at and not kept) for death in self.world.broker.deaths)
        slow = max(self.world.plan.delays) > 1.0  # a message that takes as long as a lease is a disturbance of its own
        ended = fence in self.failures[job_id] or fence in self.handed_back[job_id] or fence in self.parks
        return ended or forgotten or slow or self.world.disturbed((worker,), at)

    def begins(self, work: Work, others: list[Work]) -> None:
        """The engine takes up this attempt, beside these."""
        alone = self.alone & {work.fence, *(other.fence for other in others)}
        require(not others or not alone, "who crashed before is alone", work.job.job_id, *map(short, alone))
        if others:
            self.world.count("overlap: begins beside a tail")

    def crashed(self, works: list[Work]) -> None:
        """The engine has broken down by itself, or somebody has killed it, under these."""
        fences = {work.fence for work in works if work.begun_at is not None}
        self.crashes |= fences
        if len(fences) > 1:
            self.world.count("overlap: crashes under both")

    def paused(self, job_id: str, outcome: str) -> None:
        """A customer was told what became of a pause."""
        if outcome == "not_found":
            known = job_id in self.accepted_ids - self.deleted_ids
            require(not known, "what was accepted can be paused", job_id)

    def parked(self, work: Work, kept: int) -> None:
        """An engine has left off after so many steps, which lie in a checkpoint."""
        job = self.disk.get(work.job.job_id)
        self.parks.add(work.fence)
        asked = job is None or job.fence != work.fence or bool(job.park) or 0 < work.job.park_at <= kept
        leaves = self.world.disturbances
        require(asked or bool(leaves), "only what is asked for is parked", work.job.job_id, short(work.fence))

    def hears(self, message: m.Message) -> None:
        """The broker is about to hear this."""
        if not isinstance(message, m.Refused):
            return
        job = self.world.broker.core.state.jobs.get(message.job_id)
        if job is not None and not job.final and job.fence > message.fence and message.kept > job.kept:
            self.world.count("parked: handed back after its job was granted again")

    def hangs(self, work: Work) -> None:
        """This one will not move any more."""
        self.hung.add(work.fence)

    def _may_lose(self, job: Job) -> bool:
        """Whether a worker or its link was disturbed lately, or an attempt handed back since this row.

        The broker's own death and sleep are no reason.
        """
        if any(fence >= job.fence for fence in self.handed_back[job.id]):
            return True
        workers = tuple(worker.name for worker in self.world.workers)
        slow = max(self.world.plan.delays) > 1.0
        return slow or self.world.disturbed(workers, self.world.timeline.now - 20.0)

    def made(self, job_id: str, fence: int) -> None:
        """The attempt's files are on disk."""
        self.files.add((job_id, fence))

    def removed(self, job_id: str, fence: int) -> None:
        """The attempt's files are being removed."""
        job = self.disk.get(job_id)
        published = job is not None and job.state is JobState.SUCCEEDED and job.fence == fence
        require(not published, "what is published stays", job_id, short(fence))
        self.files.discard((job_id, fence))
