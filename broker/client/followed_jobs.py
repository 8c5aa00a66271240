"""Jobs to whose steps a watcher subscribes, and what of that its broker has not been sent yet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from broker.wire import messages as m
from broker.wire.edge_messages import MAX_FOLLOW


class FollowedJobs:
    """Jobs to follow, and the messages of at most `MAX_FOLLOW` jobs that say so, each until it is `said`."""

    def __init__(self) -> None:
        self._wanted: dict[str, None] = {}
        #: Job -> whether it is to be followed, where the broker has not been sent that.
        self._unsaid: dict[str, bool] = {}
        #: Jobs that the broker was sent.
        self._told: set[str] = set()

    def __len__(self) -> int:
        """Return the number of jobs that are followed."""
        return len(self._wanted)

    def follow(self, job_id: str) -> None:
        self._wanted[job_id] = None
        self._want(job_id, on=True)

    def unfollow(self, job_id: str) -> None:
        self._wanted.pop(job_id, None)
        self._want(job_id, on=False)

    def renew(self) -> None:
        """Say all again: the broker knows of nothing any more."""
        self._told.clear()
        self._unsaid = dict.fromkeys(self._wanted, True)

    def unsaid(self) -> Iterator[m.Follow]:
        """Messages to send, in any order: a job is in one alone."""
        for on in (True, False):
            jobs = iter([job_id for job_id, wanted in self._unsaid.items() if wanted is on])
            while portion := tuple(islice(jobs, MAX_FOLLOW)):
                yield m.Follow(job_ids=portion, on=on)

    def said(self, message: m.Follow) -> None:
        """Take it that this was sent."""
        for job_id in message.job_ids:
            del self._unsaid[job_id]
        if message.on:
            self._told.update(message.job_ids)
        else:
            self._told.difference_update(message.job_ids)

    def _want(self, job_id: str, *, on: bool) -> None:
        if (job_id in self._told) is on:
            self._unsaid.pop(job_id, None)
        else:
            self._unsaid[job_id] = on
