"""Lookup of jobs in the memory of one edge and at the broker. A caller's jobs are those of its tenant (`current().caller`); others do not
exist for it. A job that succeeded is returned only after its client-chosen path is filled (or could not be), on whichever edge.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from broker.client.client import BrokerClient
from broker.wire import messages as m
from broker.wire.jobspec import is_job_id
from http_edge.base.broker_errors import translated
from http_edge.base.context import current
from http_edge.base.errors import not_found
from http_edge.base.job_names import journal_ids
from http_edge.jobs.export_on_read import ExportOnRead
from http_edge.jobs.hub import Hub
from http_edge.jobs.job import Job
from http_edge.jobs.slices import in_slices
from http_edge.jobs.submit import require_sound, time_in_id

#: Most that the clocks of edge and broker may differ, seconds; a job is rather listed twice than not at all.
_CLOCKS_S = 1.0

#: Answers of the broker to one search: some 20,000 jobs looked at. The place where it broke off is one in the journal, in another form than
#: an id.
_SEARCH_ANSWERS = 10
#: Searches for an answer that should not be empty: some 200,000 jobs.
_SEARCHES = 10
_SEARCH_TAG = "~"
_SEARCH_PLACE = re.compile(rf"{_SEARCH_TAG}([0-9]{{1,18}})")


class FoundJobs(NamedTuple):
    """A page of jobs, whether more may follow, and where the next begins.

    `searched_to`: the page is short, as the search broke off at jobs of this time, Unix; None: it is whole.
    """

    jobs: list[Job]
    more: bool
    last: str | None
    searched_to: float | None


class JobLookup:
    """Reads of jobs, for the caller of the request."""

    def __init__(self, broker: BrokerClient, hub: Hub, exports: ExportOnRead, retention_s: float) -> None:
        self._broker = broker
        self._hub = hub
        self._exports = exports
        self._retention_s = retention_s

    async def get(self, job_id: str) -> Job:
        """The job of this id. Raises `EdgeError`."""
        caller = current().caller
        held = self._hub.job_for_client(job_id)
        if held is not None and caller.may_see(held.view.submission.tenant):
            return held
        for name in journal_ids(caller, job_id):
            held = self._hub.job_for_client(name)
            if held is not None and caller.may_see(held.view.submission.tenant):
                return held
            view = await self.view(name) if is_job_id(name) else None
            if view is not None:
                # A request at the same time may have been answered before: one job, encoded once, for all of them.
                held = self._hub.memory.get(name)
                return held if held is not None and held.view.revision == view.revision else await self.remember(view)
        raise not_found("job", job_id)

    async def by_alias(self, origin: str, alias: str) -> Job | None:
        """The newest job of this name, or None. Raises `EdgeError`."""
        with translated():
            view = await self._broker.get_alias(origin, alias, current().caller.visible_tenant)
        return None if view is None else await self.remember(view)

    async def page(self, *, after: str = "", newest_first: bool = True, **query: Any) -> tuple[list[Job], bool]:
        """A page of jobs, and whether more follow, however long that takes. `query`: fields of `ListJobs`. Raises `EdgeError`."""
        found = await self._search(
            None, {**query, **await self._start(after, newest_first=newest_first)}, newest_first=newest_first
        )
        return found.jobs, found.more

    async def search(
        self, *, after: str = "", newest_first: bool = True, until_found: bool = False, **query: Any
    ) -> FoundJobs:
        """A page of jobs, as much of it as some ten thousand jobs that are looked at have. `query`: fields of `ListJobs`.

        `after`: the `last` of the page before. `until_found`: a page is empty only after ten times as many. Raises `EdgeError`.
        """
        for _ in range(_SEARCHES if until_found else 1):
            place = _SEARCH_PLACE.fullmatch(after)
            start = {"behind": int(place[1])} if place else await self._start(after, newest_first=newest_first)
            found = await self._search(_SEARCH_ANSWERS, {**query, **start}, newest_first=newest_first)
            if found.jobs or found.searched_to is None:
                break
            after = found.last or ""
        return found

    async def _search(self, answers: int | None, query: dict[str, Any], *, newest_first: bool) -> FoundJobs:
        with translated():
            found = await self._broker.search(
                answers, newest_first=newest_first, **query, tenant=current().caller.visible_tenant
            )
        jobs: list[Job] = await in_slices(found.jobs, self._keep_listed)
        if found.behind:
            return FoundJobs(jobs, True, f"{_SEARCH_TAG}{found.behind}", found.behind_at)
        return FoundJobs(jobs, found.more, jobs[-1].id if jobs else None, None)

    async def _start(self, after: str, *, newest_first: bool) -> dict[str, Any]:
        """The fields of `ListJobs` that begin behind a job."""
        for name in journal_ids(current().caller, after) if after and current().caller.key_name else ():
            if is_job_id(name) and await self.view(name) is not None:
                after = name
                break
        return {"after": after, "after_at": _cursor_at(after, newest_first=newest_first)}

    async def visible(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of these jobs that the caller may read. Raises `EdgeError`."""
        tenant = current().caller.visible_tenant
        with translated():
            views = await asyncio.gather(*(self._broker.get(job_id, tenant) for job_id in job_ids))
        return [view.id for view in views if view is not None]

    async def views(self, **query: Any) -> tuple[list[m.JobView], bool]:
        """A page as the broker has it, of the fields of `ListJobs`: nothing is remembered, no path is filled. Raises `EdgeError`."""
        with translated():
            return await self._broker.list(**query, tenant=current().caller.visible_tenant)

    async def view(self, job_id: str) -> m.JobView | None:
        """A job as the broker has it. Raises `EdgeError`."""
        with translated():
            return await self._broker.get(job_id, current().caller.visible_tenant)

    async def _keep_listed(self, view: m.JobView) -> Job:
        """Remember jobs of a list; one that is over and known stays the one that it was, with the answers that were encoded of it."""
        held = self._hub.memory.get(view.id)
        if held is not None and held.is_final and not view.submission.webhook and held.view.revision == view.revision:
            return held
        return await self.remember(view)

    async def remember(self, view: m.JobView) -> Job:
        """The job of a full view of the broker's, kept in memory unless its path could not be filled. Raises `EdgeError`."""
        require_sound(view)
        job = await self.of(view)
        # A path that could not be filled is tried again with the next read.
        if not job.save_error:
            self._hub.memory.put(job)
        return job

    async def saved_at(self, path: str) -> str | None:
        """The id of the job whose result lies at a client's path, or None. Raises `EdgeError` when clients may not look there."""
        return await self._exports.job_at(path)

    async def of(self, view: m.JobView) -> Job:
        """The job of a view, with its client-chosen path filled."""
        return await self._exports.fill_save_path(Job.of(view, self._retention_s))

    async def moved(self, job: Job, view: m.JobView) -> Job:
        """The job after an event, with its client-chosen path filled."""
        return await self._exports.fill_save_path(job.moved_to(view))


def _cursor_at(after: str, *, newest_first: bool) -> float:
    """Return the cursor behind a job that was deleted meanwhile: a client that deletes what it lists must reach the end."""
    at = time_in_id(after)
    return max(0.0, at + (_CLOCKS_S if newest_first else -_CLOCKS_S)) if at else 0.0
