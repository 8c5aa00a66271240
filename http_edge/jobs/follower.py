"""Following of jobs to their end: every later version of one, and the wait for several. Every wait has an end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import anyio

from broker.wire import messages as m
from http_edge.base.context import current
from http_edge.base.errors import EdgeError
from http_edge.jobs.hub import Audience, Hub
from http_edge.jobs.job import Job
from http_edge.jobs.lookup import JobLookup

#: How often a follower polls by itself: queue positions come with no event.
_WAITING_LOOK_S = 2.0
_RUNNING_LOOK_S = 15.0
_RETRY_LOOK_S = 1.0


class JobFollower:
    """Versions of jobs from the hub's events, and from the broker where events may be missing."""

    def __init__(self, jobs: JobLookup, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs = jobs
        self._hub = hub
        self._clock = clock

    async def follow(self, job_id: str, quiet_s: float, *, steps: bool = True) -> AsyncGenerator[Job | None, None]:
        """The job now, then every later version of it, the newest only for a slow reader; None after each `quiet_s` without news.

        `steps`: progress while it runs is followed, too, and not its changes of state alone. Ends after the final version, or when the
        edge closes. Raises `EdgeError` if the job does not exist.
        """
        if current().caller.key_name:
            # Events name a job by the journal's id.
            job_id = (await self._jobs.get(job_id)).view.id
        with self._hub.listen(job_id) as listener:
            job = await self._jobs.get(job_id)
            if steps and not job.is_final:
                listener.subscribe_steps()
            yield job
            quiet_since = self._clock()
            while not job.is_final and not self._hub.closed:
                look_s = _RUNNING_LOOK_S if job.view.state == "running" else _WAITING_LOOK_S
                if listener.stale:
                    look_s = _RETRY_LOOK_S
                left_s = quiet_since + quiet_s - self._clock()
                view = await listener.next(max(0.0, min(look_s, left_s)))
                if self._hub.closed:
                    return
                if view is not None and not listener.stale:
                    news: Job | None = await self._moved(listener.audience, job, view)
                else:
                    listener.stale = False
                    news = await self._look(job_id)
                    listener.stale = listener.stale or news is None
                if news is not None and _is_news(news.view, job.view):
                    job = news
                    yield job
                elif self._clock() - quiet_since >= quiet_s:
                    yield None
                else:
                    continue
                quiet_since = self._clock()

    async def wait_final(self, job_ids: list[str], timeout_s: float) -> bool:
        """Wait until all these jobs are final, at most so long; whether they are. Raises `EdgeError`."""
        with anyio.move_on_after(timeout_s) as scope:
            for job_id in job_ids:
                async with contextlib.aclosing(self.follow(job_id, 1.0, steps=False)) as versions:
                    async for _ in versions:
                        pass
        return not scope.cancelled_caught and not self._hub.closed

    async def _moved(self, audience: Audience, job: Job, view: m.JobView) -> Job:
        """The job after an event, the same for all its followers. A record of this id that was deleted meanwhile has other events."""
        moved = audience.job_at(view)
        if moved is None:
            moved = await self._jobs.moved(job, view)
            audience.keep(view, moved)
        return moved

    async def _look(self, job_id: str) -> Job | None:
        """The job now; None when the broker does not answer."""
        try:
            return await self._jobs.get(job_id)
        except EdgeError as error:
            if error.kind == "not_found":
                raise
            return None


def _is_news(new: m.JobView, old: m.JobView) -> bool:
    if new.revision != old.revision:
        return new.revision > old.revision
    return (new.position, round(new.eta_s)) != (old.position, round(old.eta_s))
