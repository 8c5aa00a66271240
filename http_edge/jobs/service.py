"""Operations on jobs for every API family, put together: submit, cancel, control; lookups, waits, deletions by their own objects.

It holds no state of its own: any edge over the same broker and home answers the same. This room is the only user of the broker's client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import anyio
import anyio.to_thread

from broker.client.client import BrokerClient
from broker.depot.object_store import ObjectStore
from broker.wire import messages as m
from broker.wire.jobspec import is_job_id
from http_edge.base.broker_errors import translated
from http_edge.base.context import current
from http_edge.base.errors import EdgeError, not_found
from http_edge.base.job_names import journal_ids, shown_id
from http_edge.base.settings import EdgeSettings
from http_edge.jobs.deletion import JobDeletion
from http_edge.jobs.export_on_read import ExportOnRead
from http_edge.jobs.follower import JobFollower
from http_edge.jobs.generation import Generation
from http_edge.jobs.hub import Hub
from http_edge.jobs.inputs import JobInputs
from http_edge.jobs.job import Job
from http_edge.jobs.lookup import JobLookup
from http_edge.jobs.models import Catalogue
from http_edge.jobs.prompt_enhancer import PromptEnhancer
from http_edge.jobs.submission import Submission
from http_edge.jobs.submit import CheckUrl, Submitter, refuse_url
from http_edge.jobs.workers import WorkerControl
from http_edge.media.artefact_store import ArtefactStore
from http_edge.media.credentials import EdgeCredentials
from http_edge.media.exports import Exports
from http_edge.media.input_sources import InputSources
from http_edge.media.result_files import ResultFiles

__all__ = ["JobService", "Submission"]

#: Files handled at once, as decoding an image or copying a result must not take every thread.
_FILE_THREADS = 4

#: Outcome of a cancel; "requested": the worker of the job is being stopped.
Cancelled = Literal["cancelled", "requested", "already_final"]
Controlled = Literal["done", "requested"]

#: Action -> its participle, for errors.
_DONE: dict[m.JobAction, str] = {"pause": "paused", "resume": "resumed", "commit": "committed"}


class JobService:
    """The broker and the files, as API handlers use them; a part for each concern, and the changes of a job that a client requests."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: BrokerClient,
        hub: Hub,
        sources: InputSources,
        exports: Exports,
        *,
        check_url: CheckUrl = refuse_url,
        enhancer: PromptEnhancer | None = None,
        wall_clock: Callable[[], float] = time.time,
        remote: ObjectStore | None = None,
    ) -> None:
        """`remote`: the object store with the results; None: they are on this home's disk."""
        self.settings = settings
        self.hub = hub
        self.workers = WorkerControl(broker)
        self.catalogue = Catalogue(self.workers.pool, aliases=settings.aliases)
        self.credentials = EdgeCredentials.of(settings)
        self.results = ResultFiles(
            settings.home_path,
            remote,
            cache_bytes=settings.result_cache_mb * 1_000_000,
            redirect=settings.results_redirect,
        )
        threads = anyio.CapacityLimiter(_FILE_THREADS)
        export_on_read = ExportOnRead(self.results, exports, threads)
        hub.when_gone(export_on_read.forget)
        hub.steps.on_interest(broker.follow, broker.unfollow)
        self.jobs = JobLookup(broker, hub, export_on_read, settings.retention_s)
        self.follower = JobFollower(self.jobs, hub)
        self.deletion = JobDeletion(broker, self.jobs, hub, ArtefactStore(settings.home_path, remote), threads)
        self.inputs = JobInputs(sources, self.results)
        self._broker = broker
        self._submitter = Submitter(
            settings,
            broker,
            self.catalogue,
            sources,
            exports,
            threads,
            check_url,
            enhancer or PromptEnhancer(settings),
            wall_clock,
        )

    async def submit(self, submission: Submission) -> tuple[Job, bool]:
        """The accepted job, and whether it was there before. Raises `EdgeError`."""
        view, duplicate = await self._submitter.submit(submission)
        return await self.jobs.of(view), duplicate

    async def estimate(self, generation: Generation, priority: int) -> tuple[str, m.Forecast, float]:
        """(the model, what would become of such a job if it came now, Unix time now). Raises `EdgeError`."""
        return await self._submitter.estimate(generation, priority)

    async def repeat(self, job: Job) -> Job:
        """Submit a job that is over once more, as it is, under the same name: the newest of that name is what the name means then.

        Raises `EdgeError`.
        """
        if job.spec is None:
            raise EdgeError("unsupported", "the job was written by a newer version and cannot be repeated by this one")
        view = await self._submitter.repeat(job.view, job.spec)
        return await self.jobs.of(view)

    async def usage(
        self, first_day: int, last_day: int, by: tuple[m.UsageGroup, ...]
    ) -> tuple[Sequence[m.UsageRow], bool]:
        """Usage of the caller's tenant, and whether there is more than is returned. Raises `EdgeError`."""
        tenant = current().caller.visible_tenant
        with translated():
            return await self._broker.usage(first_day=first_day, last_day=last_day, by=by, tenant=tenant)

    async def cancel(self, job_id: str) -> tuple[Cancelled, Job]:
        """Cancel a job; return the outcome and the job. Raises `EdgeError`."""
        caller = current().caller
        for name in journal_ids(caller, job_id):
            if not is_job_id(name):
                continue
            with translated():
                outcome, view = await self._broker.cancel(name, caller.visible_tenant)
            if outcome != "not_found":
                self.hub.memory.forget(name)
                return outcome, await (
                    self.jobs.get(name) if view is None or not view.body else self.jobs.remember(view)
                )
        raise not_found("job", job_id)

    async def control(self, job_id: str, action: m.JobAction) -> tuple[Controlled, Job]:
        """Pause, resume or commit a job; return the outcome and the job. Raises `EdgeError`, with the reason where it cannot be done."""
        caller = current().caller
        for name in journal_ids(caller, job_id):
            if not is_job_id(name):
                continue
            with translated():
                outcome, reason, view = await self._broker.control(name, action, caller.visible_tenant)
            if outcome == "not_found" or view is None:
                continue
            if outcome == "refused":
                raise EdgeError("wrong_state", f"job {shown_id(name)} cannot be {_DONE[action]}: {reason}", param="id")
            self.hub.memory.forget(name)
            return outcome, await self.jobs.remember(view)
        raise not_found("job", job_id)
