"""Specs in memory: those of the first jobs that wait; the journal alone has all others.

A spec may be 512 KiB and is needed three times only: when its job starts, when a client requests the whole record, and when a submit is
repeated. So that of a job which is accepted while many wait is *evicted* once it is on disk: the shell reads it whenever it is needed.
Jobs read back at a start are all evicted.
"""

from __future__ import annotations

from broker.core.jobs import Job
from broker.core.policy import Policy


class SpecCache:
    """Counter of the specs that live jobs have in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0

    def accepted(self, job: Job) -> None:
        """Count the spec of a job that is new in memory."""
        self.count += 1
        self.bytes += len(job.body)

    def drop(self, size: int) -> None:
        """Count a spec of so many bytes no longer: it is evicted, or its job is over."""
        self.count -= 1
        self.bytes -= size

    def evict(self, fresh: dict[str, Job], policy: Policy) -> None:
        """Evict the specs that are too many, of these jobs, the last ones first: all of them have just come to the disk."""
        while fresh and (self.count > policy.live_bodies or self.bytes > policy.live_body_bytes):
            _, job = fresh.popitem()
            if job.waiting and not job.evicted:
                self.drop(len(job.body))
                job.evicted, job.body = True, b""
