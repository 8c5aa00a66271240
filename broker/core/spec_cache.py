"""Which specs are in memory: those of the first jobs that wait; of all others the journal alone has them.

A spec may be 512 KiB and is needed three times only: when its job starts, when a client asks for the whole record, and when a submit is
repeated. So that of a job which is accepted while many wait is *evicted* once it is on disk: the shell reads it whenever it is needed.
Jobs read back at a start are all evicted.
"""

from __future__ import annotations

from broker.core.jobs import Job
from broker.core.policy import Policy


class SpecCache:
    """Counts the specs that live jobs keep in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        #: Accepted since the last commit, so not on disk yet.
        self._fresh: list[Job] = []

    def accepted(self, job: Job) -> None:
        """A new job, whose row is not yet on disk."""
        self._fresh.append(job)
        self.keep(job)

    def keep(self, job: Job) -> None:
        """The job's bytes are in memory, and it is live."""
        self.count += 1
        self.bytes += len(job.body)

    def drop(self, job: Job) -> None:
        """They are not, or it is not."""
        self.count -= 1
        self.bytes -= len(job.body)

    def committed(self, policy: Policy) -> None:
        """What was accepted is on disk: evict what is too much, the last ones first."""
        fresh, self._fresh = self._fresh, []
        while fresh and (self.count > policy.live_bodies or self.bytes > policy.live_body_bytes):
            job = fresh.pop()
            if job.waiting and not job.evicted:
                self.drop(job)
                job.evicted, job.body = True, b""
