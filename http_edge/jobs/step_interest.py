"""Interest of this edge in steps: of jobs with an open stream, and of those that a client polls.

Of all other jobs events come when their state changes, which is all that waits, webhooks and metrics need. A job that is polled is followed
so that most of its polls are answered from memory, which costs the broker less than each of them would.
"""

from __future__ import annotations

from collections.abc import Callable

#: How long after a poll the next one is waited for, seconds.
POLLED_S = 5.0
#: Jobs that are followed as they are polled, at most.
_MOST_POLLED = 2048


class StepInterest:
    """Streams by job, and polled jobs; calls `follow` and `unfollow` as the first comes and the last goes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streams: dict[str, int] = {}
        #: Job -> until when its next poll is waited for.
        self._polled: dict[str, float] = {}
        self._look_at = 0.0
        self._follow: Callable[[str], None] = lambda job_id: None
        self._unfollow: Callable[[str], None] = lambda job_id: None

    def on_interest(self, follow: Callable[[str], None], unfollow: Callable[[str], None]) -> None:
        """Call these with the ids of jobs from now on."""
        self._follow, self._unfollow = follow, unfollow

    def opened(self, job_id: str) -> None:
        """Note that a stream of this job's steps begins."""
        if job_id not in self._streams and job_id not in self._polled:
            self._follow(job_id)
        self._streams[job_id] = self._streams.get(job_id, 0) + 1

    def closed(self, job_id: str) -> None:
        """Note that a stream of this job's steps ends."""
        self._streams[job_id] -= 1
        if not self._streams[job_id]:
            del self._streams[job_id]
            if job_id not in self._polled:
                self._unfollow(job_id)

    def polled(self, job_id: str) -> None:
        """Note a read of a running job that is polled."""
        now = self._clock()
        if job_id not in self._polled:
            if len(self._polled) >= _MOST_POLLED:
                return
            if job_id not in self._streams:
                self._follow(job_id)
        self._polled[job_id] = now + POLLED_S
        if now >= self._look_at:
            self.expire()

    def read(self, job_id: str) -> None:
        """Note a read that was answered from memory: a polled job stays polled."""
        if job_id in self._polled:
            self._polled[job_id] = self._clock() + POLLED_S

    def expire(self) -> None:
        """Drop the jobs that are polled no more; to be called now and then."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + POLLED_S
        for job_id in [job_id for job_id, until in self._polled.items() if until < now]:
            self.over(job_id)

    def over(self, job_id: str) -> None:
        """Drop a job that has ended."""
        if self._polled.pop(job_id, None) is not None and job_id not in self._streams:
            self._unfollow(job_id)
