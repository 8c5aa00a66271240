"""Streams of steps: which watchers are sent those of which jobs, and which jobs made one that has not been sent.

Every watcher is sent every change of a job's state. Steps are most of what happens in a large pool and of use only to a client of that very
job: a watcher names the jobs whose steps it follows (`m.Follow`), or takes all of them (`m.Watch.steps`). Only a live job is followed, so
that what is kept is bounded by the jobs in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.jobs import Job


class StepStreams:
    """Peers by job and jobs by peer, always the same pairs."""

    def __init__(self) -> None:
        #: Watchers of the steps of all jobs.
        self.of_all: set[bytes] = set()
        #: Job -> peers that follow it; for reading, as `followed`.
        self.followers: dict[str, set[bytes]] = {}
        #: Peer -> jobs that it follows.
        self.followed: dict[bytes, set[str]] = {}
        #: Jobs that made a step which some watcher is to be sent.
        self.stepped: dict[str, Job] = {}

    def note(self, job: Job) -> None:
        """Note a step of this job, if it has a watcher."""
        if self.of_all or job.id in self.followers:
            self.stepped[job.id] = job

    def follow(self, peer: bytes, job_id: str) -> None:
        self.followers.setdefault(job_id, set()).add(peer)
        self.followed.setdefault(peer, set()).add(job_id)

    def unfollow(self, peer: bytes, job_id: str) -> None:
        self._discard(self.followers, job_id, peer)
        self._discard(self.followed, peer, job_id)

    def drop_peer(self, peer: bytes) -> None:
        """Send this peer no more steps."""
        self.of_all.discard(peer)
        for job_id in self.followed.pop(peer, ()):
            self._discard(self.followers, job_id, peer)

    def drop_job(self, job_id: str) -> None:
        """End the streams of this job: it is over."""
        self.stepped.pop(job_id, None)
        for peer in self.followers.pop(job_id, ()):
            self._discard(self.followed, peer, job_id)

    def take(self, sent: Iterable[str]) -> dict[bytes, list[Job]]:
        """Peer -> the jobs whose steps it is to be sent, less those that all are `sent` anyway; forget them."""
        stepped, self.stepped = self.stepped, {}
        for job_id in sent:
            stepped.pop(job_id, None)
        subscribed: dict[bytes, list[Job]] = {peer: [*stepped.values()] for peer in self.of_all} if stepped else {}
        for job_id, job in stepped.items():
            for peer in self.followers.get(job_id, ()):
                if peer not in self.of_all:
                    subscribed.setdefault(peer, []).append(job)
        return subscribed

    @staticmethod
    def _discard(pairs: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
        values = pairs.get(key)
        if values is not None:
            values.discard(value)
            if not values:
                del pairs[key]
