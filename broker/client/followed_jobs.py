"""Jobs to whose steps a watcher subscribes, and what of that its broker has not been sent yet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from broker.wire import messages as m
from broker.wire.edge_messages import MAX_FOLLOW


class FollowedJobs:
    """Jobs to follow, and the `Follow` messages of at most `MAX_FOLLOW` jobs each, until they are `note_sent`."""

    def __init__(self) -> None:
        self._followed: dict[str, None] = {}
        #: Job -> whether it is to be followed, where the broker has not been sent that.
        self._unsent: dict[str, bool] = {}
        #: Jobs that the broker was sent.
        self._sent: set[str] = set()

    def __len__(self) -> int:
        """Return the number of jobs that are followed."""
        return len(self._followed)

    def follow(self, job_id: str) -> None:
        self._followed[job_id] = None
        self._set(job_id, on=True)

    def unfollow(self, job_id: str) -> None:
        self._followed.pop(job_id, None)
        self._set(job_id, on=False)

    def renew(self) -> None:
        """Send all again: to a new broker, which has none of it."""
        self._sent.clear()
        self._unsent = dict.fromkeys(self._followed, True)

    def unsent(self) -> Iterator[m.Follow]:
        """Messages to send, in any order: a job is in one alone."""
        for on in (True, False):
            jobs = iter([job_id for job_id, followed in self._unsent.items() if followed is on])
            while portion := tuple(islice(jobs, MAX_FOLLOW)):
                yield m.Follow(job_ids=portion, on=on)

    def note_sent(self, message: m.Follow) -> None:
        """Note that this was sent."""
        for job_id in message.job_ids:
            del self._unsent[job_id]
        if message.on:
            self._sent.update(message.job_ids)
        else:
            self._sent.difference_update(message.job_ids)

    def _set(self, job_id: str, *, on: bool) -> None:
        if (job_id in self._sent) is on:
            self._unsent.pop(job_id, None)
        else:
            self._unsent[job_id] = on
