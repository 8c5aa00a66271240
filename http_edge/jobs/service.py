"""Operations on jobs for every API family: submit, look up, list, cancel, wait, follow. The only user of the broker's client.

Rules. A job that succeeded is reported as such only after its client-chosen path is filled (or could not be), whichever edge is
asked. Every wait has an end. A caller's jobs are those of its tenant (`scope`); others do not exist for it. Nothing lives here alone:
any edge over the same broker and home answers the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from broker.client.client import BrokerClient
from broker.depot.object_store import ObjectStore, StoreError
from broker.wire import messages as m
from broker.wire.inputs import ROLES, InputKind
from broker.wire.jobspec import Artefact, is_job_id
from http_edge.base.broker_errors import translated
from http_edge.base.context import current
from http_edge.base.errors import EdgeError, not_found, shown
from http_edge.base.job_names import meant, shown_id
from http_edge.base.settings import EdgeSettings
from http_edge.body.forms import Upload
from http_edge.jobs.export_on_read import ExportOnRead
from http_edge.jobs.generation import Generation
from http_edge.jobs.hub import Audience, Hub
from http_edge.jobs.job import Job
from http_edge.jobs.models import Catalogue
from http_edge.jobs.prompt_enhancer import PromptEnhancer
from http_edge.jobs.slices import in_slices
from http_edge.jobs.submission import Submission
from http_edge.jobs.submit import CheckUrl, Submitter, named_at, refuse_url, require_sound
from http_edge.media.artefact_store import ArtefactStore
from http_edge.media.credentials import EdgeCredentials
from http_edge.media.exports import Exports
from http_edge.media.image_inputs import Picture
from http_edge.media.image_sources import ImageSources
from http_edge.media.result_files import ResultFiles, store_away

__all__ = ["JobService", "Submission"]

T = TypeVar("T")

#: How often a follower looks by itself: queue positions come with no event.
_WAITING_LOOK_S = 2.0
_RUNNING_LOOK_S = 15.0
_RETRY_LOOK_S = 1.0

#: How far the edge's clock, which names jobs, and the broker's may be apart: rather list a job twice than not at all.
_CLOCKS_S = 1.0

#: Answers of the broker to one search: some 20,000 jobs looked at. Where it broke off is a place in the journal, told apart from an id.
_SEARCH_ANSWERS = 10
_SEARCH_TAG = "~"
_SEARCH_PLACE = re.compile(rf"{_SEARCH_TAG}([0-9]{{1,18}})")

#: Files handled at once: decoding an image or copying a result must not take every thread there is.
_FILE_THREADS = 4
#: Longest name that the wire carries.
_MAX_WORKER_NAME = 128

#: What became of a cancel; "requested": a worker is being told to stop.
Cancelled = Literal["cancelled", "requested", "already_final"]
Controlled = Literal["done", "requested"]

#: What was done to a job, in a word.
_DONE: dict[m.JobAction, str] = {"pause": "paused", "resume": "resumed", "commit": "committed"}


class FoundJobs(NamedTuple):
    """A page of jobs, whether more may follow, and where the next begins.

    `searched_to`: the page is short, as the search broke off at jobs of this time, Unix; None: it is whole.
    """

    jobs: list[Job]
    more: bool
    last: str | None
    searched_to: float | None


class JobService:
    """The broker and the files, as API handlers use them."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: BrokerClient,
        hub: Hub,
        images: ImageSources,
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
        self.catalogue = Catalogue(self._fetch_pool, aliases=settings.aliases)
        self._broker = broker
        self._images = images
        self._exports = exports
        self._threads = anyio.CapacityLimiter(_FILE_THREADS)
        self._submits = Submitter(
            settings,
            broker,
            self.catalogue,
            images,
            exports,
            self._threads,
            check_url,
            enhancer or PromptEnhancer(settings),
            wall_clock,
        )
        self.results = ResultFiles(
            settings.home_path,
            remote,
            cache_bytes=settings.result_cache_mb * 1_000_000,
            redirect=settings.results_redirect,
        )
        self._export_on_read = ExportOnRead(self.results, exports, self._threads)
        self._draining = asyncio.Lock()
        self.artefacts = ArtefactStore(settings.home_path, remote)
        self.credentials = EdgeCredentials.of(settings)
        hub.when_gone(self._export_on_read.forget)
        hub.steps.tell(broker.follow, broker.unfollow)

    # ------------------------------------------------------------ submit

    async def submit(self, order: Submission) -> tuple[Job, bool]:
        """The accepted job, and whether it was there before. Raises `EdgeError`."""
        view, duplicate = await self._submits.submit(order)
        return await self._export_on_read.fill_save_path(Job.of(view, self.settings.retention_s)), duplicate

    async def estimate(self, wanted: Generation, priority: int) -> tuple[str, m.Forecast, float]:
        """(the model, what would become of such a job if it came now, Unix time now). Raises `EdgeError`."""
        return await self._submits.estimate(wanted, priority)

    async def image(self, field: str, source: str | Upload, *, allow_paths: bool) -> Picture:
        """The kept copy of a client's image, for `Submission.image`: from an upload of this request, a data URL, base64, an http(s) URL,
        an uploaded file's id, or (`allow_paths`) a path on this machine. Raises `EdgeError` naming field, value and rule."""
        return await self._images.resolve(field, source, allow_paths=allow_paths)

    async def uploaded(self, files: Mapping[str, Sequence[Upload]]) -> dict[str, tuple[Picture, ...]]:
        """The kept copies of files that came as further inputs, by role, for `Submission.inputs`. Raises `EdgeError`."""
        return {
            role: tuple(
                [
                    await self._images.resolve(file.field, file, allow_paths=False, kind=ROLES[role].kind)
                    for file in uploads
                ]
            )
            for role, uploads in files.items()
        }

    async def kept_result(self, field: str, job: Job, artefact: Artefact, kind: InputKind) -> Picture:
        """A copy of a job's file that is kept as an input. Raises `EdgeError`."""
        path = await self._in_thread(lambda: self.results.local(job.view, artefact))
        return await self._images.of_result(field, job.id, path, kind)

    async def repeat(self, job: Job) -> Job:
        """Submit a job that is over once more, as it is, under the same name: the newest of that name is what the name means then.

        Raises `EdgeError`.
        """
        if job.spec is None:
            raise EdgeError("unsupported", "the job was written by a newer version and cannot be repeated by this one")
        view = await self._submits.repeat(job.view, job.spec)
        return await self._export_on_read.fill_save_path(Job.of(view, self.settings.retention_s))

    # ------------------------------------------------------------ look up

    async def job(self, job_id: str) -> Job:
        """The job of this id. Raises `EdgeError`."""
        caller = current().caller
        held = self.hub.ask(job_id)
        if held is not None and caller.may_see(held.view.submission.tenant):
            return held
        for name in meant(caller, job_id):
            held = self.hub.ask(name)
            if held is not None and caller.may_see(held.view.submission.tenant):
                return held
            view = await self.view(name) if is_job_id(name) else None
            if view is not None:
                return await self._remember(view)
        raise not_found("job", job_id)

    async def job_by_alias(self, origin: str, alias: str) -> Job | None:
        """The newest job of this name, or None. Raises `EdgeError`."""
        with translated():
            view = await self._broker.get_alias(origin, alias, current().caller.sees)
        return None if view is None else await self._remember(view)

    async def jobs(self, *, after: str = "", newest_first: bool = True, **query: Any) -> tuple[list[Job], bool]:
        """A page of jobs, and whether more follow, however long that takes. `query`: fields of `ListJobs`. Raises `EdgeError`."""
        found = await self._search(None, newest_first, {**query, **await self._start(after, newest_first)})
        return found.jobs, found.more

    async def search(self, *, after: str = "", newest_first: bool = True, **query: Any) -> FoundJobs:
        """A page of jobs, as much of it as some ten thousand jobs that are looked at have. `query`: fields of `ListJobs`.

        `after`: the `last` of the page before. Raises `EdgeError`.
        """
        place = _SEARCH_PLACE.fullmatch(after)
        start = {"behind": int(place[1])} if place else await self._start(after, newest_first)
        return await self._search(_SEARCH_ANSWERS, newest_first, {**query, **start})

    async def _search(self, answers: int | None, newest_first: bool, query: dict[str, Any]) -> FoundJobs:
        with translated():
            found = await self._broker.search(answers, newest_first=newest_first, **query, tenant=current().caller.sees)
        jobs: list[Job] = await in_slices(found.jobs, self._remember_listed)
        if found.behind:
            return FoundJobs(jobs, True, f"{_SEARCH_TAG}{found.behind}", found.behind_at)
        return FoundJobs(jobs, found.more, jobs[-1].id if jobs else None, None)

    async def _start(self, after: str, newest_first: bool) -> dict[str, Any]:
        """The fields of `ListJobs` that begin behind a job."""
        for name in meant(current().caller, after) if after and current().caller.key_name else ():
            if is_job_id(name) and await self.view(name) is not None:
                after = name
                break
        return {"after": after, "after_at": _cursor_at(after, newest_first)}

    async def visible(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of these jobs that the caller may see. Raises `EdgeError`."""
        sees = current().caller.sees
        with translated():
            views = await asyncio.gather(*(self._broker.get(job_id, sees) for job_id in job_ids))
        return [view.id for view in views if view is not None]

    async def saved_at(self, path: str) -> str | None:
        """The id of the job whose result lies at a client's path, or None. Raises `EdgeError` when clients may not look there."""
        return await self._in_thread(lambda: self._exports.written(path))

    async def views(self, **query: Any) -> tuple[list[m.JobView], bool]:
        """A page as the broker has it, of the fields of `ListJobs`: nothing is remembered, no path is filled. Raises `EdgeError`."""
        with translated():
            return await self._broker.list(**query, tenant=current().caller.sees)

    async def view(self, job_id: str) -> m.JobView | None:
        """A job as the broker has it. Raises `EdgeError`."""
        with translated():
            return await self._broker.get(job_id, current().caller.sees)

    async def pool(self, max_age_s: float = 0.0) -> m.PoolView:
        """The workers and the queue's totals. Raises `EdgeError`."""
        return await self.catalogue.pool(max_age_s)

    async def load_history(self) -> Sequence[m.LoadSample]:
        """How busy the pool was over the last hour. Raises `EdgeError`."""
        with translated():
            return await self._broker.load_history()

    async def usage(
        self, first_day: int, last_day: int, by: tuple[m.UsageGroup, ...]
    ) -> tuple[Sequence[m.UsageRow], bool]:
        """What the caller's tenant used, and whether there is more than is told. Raises `EdgeError`."""
        sees = current().caller.sees
        with translated():
            return await self._broker.usage(first_day=first_day, last_day=last_day, by=by, tenant=sees)

    async def drain_worker(self, name: str, *, hand_back: bool = False, even_last: bool = False) -> m.WorkerView:
        """Let a worker finish what it holds, or hand it back, and leave; the last one if `even_last`. Raises `EdgeError`."""
        _require_operator()
        # One after the other: of two requests for the last two workers the second must see the first.
        async with self._draining:
            if not even_last and _is_last(name, (await self._fetch_pool()).workers):
                message = (
                    f"worker: {shown(name)} is the last one, and the service would end with it: stop its process instead"
                    " (SIGTERM; it finishes its jobs within stop_grace_s), or say even_last where another will come"
                )
                raise EdgeError("forbidden", message, param="worker", value=name, place="path")
            with translated():
                worker = await self._broker.drain_worker(name, hand_back=hand_back) if _is_worker_name(name) else None
        if worker is None:
            raise not_found("worker", name)
        return worker

    async def undrain_worker(self, name: str) -> m.WorkerView:
        """Give a worker that drains, and has not left, work again. Raises `EdgeError`."""
        _require_operator()
        with translated():
            worker = await self._broker.undrain_worker(name) if _is_worker_name(name) else None
        if worker is None:
            message = (
                f"worker: {shown(name)} is not there, or has left; SIGUSR1 to its supervisor (python -m workers) starts"
                " those again that were drained"
            )
            raise EdgeError("not_found", message, param="worker", value=name, place="path")
        return worker

    async def _fetch_pool(self) -> m.PoolView:
        with translated():
            return await self._broker.pool()

    async def _remember_listed(self, view: m.JobView) -> Job:
        """Remember jobs of a list; one that is over and known stays the one that it was, with the answers that were encoded of it."""
        held = self.hub.memory.get(view.id)
        if held is not None and held.is_final and not view.submission.webhook and held.view.revision == view.revision:
            return held
        return await self._remember(view)

    async def _remember(self, view: m.JobView) -> Job:
        require_sound(view)
        job = await self._export_on_read.fill_save_path(Job.of(view, self.settings.retention_s))
        # A path that could not be filled is tried again when next asked.
        if not job.save_error:
            self.hub.memory.put(job)
        return job

    # ------------------------------------------------------------ forget

    async def forget(self, job_id: str) -> None:
        """Delete a finished job: its record, then its files. Raises `EdgeError`."""
        job = await self.job(job_id)
        if not job.is_final:
            raise EdgeError("still_stopping", f"job {job.id} is {job.view.state}; only what is over can be deleted")
        await self.forget_records([job.view.id])
        await self._in_thread(lambda: self.artefacts.remove(job.view.id, job.view.fence))
        with contextlib.suppress(StoreError):  # swept as a pin of no job
            await self._in_thread(lambda: self.artefacts.unpin(job.view.id))

    async def forget_damaged(self, job_id: str) -> str:
        """Delete a record that cannot be read, and return its id; its files have none then, and go as such. Raises `EdgeError`."""
        for name in meant(current().caller, job_id):
            view = await self.view(name) if is_job_id(name) else None
            if view is not None and view.damaged and await self.forget_records([name]):
                return shown_id(name)
        raise not_found("job", job_id)

    async def pin(self, job_id: str, pinned: bool | None) -> bool:
        """Keep this job beyond its time, no longer (False), or as it is (None); whether it is kept."""
        try:
            if pinned is not None:
                await self._in_thread(lambda: self.artefacts.pin(job_id) if pinned else self.artefacts.unpin(job_id))
            return await self._in_thread(lambda: self.artefacts.is_pinned(job_id))
        except StoreError as error:
            raise store_away(error) from None

    async def forget_records(self, job_ids: Sequence[str], finished_s: float = 0.0) -> tuple[str, ...]:
        """Delete the records (at most 50) of those of these jobs that have been over for so long; their ids. Raises `EdgeError`."""
        with translated():
            gone = await self._broker.forget(job_ids, finished_s=finished_s)
        self.hub.on_gone(gone)
        return gone

    # ------------------------------------------------------------ webhooks

    async def claim_deliveries(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        """Webhook deliveries that are now this edge's to make, and the seconds until another is due, -1: none. Raises `EdgeError`."""
        with translated():
            return await self._broker.claim_deliveries(limit)

    async def delivery_done(self, done: m.DeliveryDone) -> None:
        """Report a delivery; on disk when this returns. Raises `EdgeError`."""
        with translated():
            await self._broker.delivery_done(done)

    # ------------------------------------------------------------ cancel, wait, follow

    async def cancel(self, job_id: str) -> tuple[Cancelled, Job]:
        """Cancel a job; return the outcome and the job. Raises `EdgeError`."""
        caller = current().caller
        for name in meant(caller, job_id):
            if not is_job_id(name):
                continue
            with translated():
                outcome, view = await self._broker.cancel(name, caller.sees)
            if outcome != "not_found":
                self.hub.memory.forget(name)
                return outcome, await (self.job(name) if view is None or not view.body else self._remember(view))
        raise not_found("job", job_id)

    async def control(self, job_id: str, action: m.JobAction) -> tuple[Controlled, Job]:
        """Pause, resume or commit a job; return the outcome and the job. Raises `EdgeError`, with the reason where it cannot be done."""
        caller = current().caller
        for name in meant(caller, job_id):
            if not is_job_id(name):
                continue
            with translated():
                outcome, reason, view = await self._broker.control(name, action, caller.sees)
            if outcome == "not_found" or view is None:
                continue
            if outcome == "refused":
                raise EdgeError("wrong_state", f"job {shown_id(name)} cannot be {_DONE[action]}: {reason}", param="id")
            self.hub.memory.forget(name)
            return outcome, await self._remember(view)
        raise not_found("job", job_id)

    async def follow(self, job_id: str, quiet_s: float, *, steps: bool = True) -> AsyncGenerator[Job | None, None]:
        """The job now, then every later version of it, the newest only for a slow reader; None after each `quiet_s` without news.

        `steps`: what moves while it runs is wanted, too, and not its changes of state alone. Ends after the final version, or when the
        edge closes. Raises `EdgeError` if the job does not exist.
        """
        if current().caller.key_name:
            # What is told of a job is told by the journal's id.
            job_id = (await self.job(job_id)).view.id
        with self.hub.listen(job_id) as listener:
            job = await self.job(job_id)
            if steps and not job.is_final:
                listener.want_steps()
            yield job
            quiet_since = time.monotonic()
            while not job.is_final and not self.hub.closed:
                look_s = _RUNNING_LOOK_S if job.view.state == "running" else _WAITING_LOOK_S
                if listener.stale:
                    look_s = _RETRY_LOOK_S
                left_s = quiet_since + quiet_s - time.monotonic()
                view = await listener.next(max(0.0, min(look_s, left_s)))
                if self.hub.closed:
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
                elif time.monotonic() - quiet_since >= quiet_s:
                    yield None
                else:
                    continue
                quiet_since = time.monotonic()

    async def wait_final(self, job_ids: list[str], timeout_s: float) -> bool:
        """Wait until all these jobs are final, at most so long; whether they are. Raises `EdgeError`."""
        with anyio.move_on_after(timeout_s) as scope:
            for job_id in job_ids:
                async with contextlib.aclosing(self.follow(job_id, 1.0, steps=False)) as versions:
                    async for _ in versions:
                        pass
        return not scope.cancelled_caught and not self.hub.closed

    async def _moved(self, audience: Audience, job: Job, view: m.JobView) -> Job:
        """The job after an event, the same for all who follow it. A record of this id that was deleted meanwhile has other events."""
        moved = audience.job_at(view)
        if moved is None:
            moved = await self._export_on_read.fill_save_path(job.moved_to(view))
            audience.keep(view, moved)
        return moved

    async def _look(self, job_id: str) -> Job | None:
        """The job now; None when the broker does not answer."""
        try:
            return await self.job(job_id)
        except EdgeError as error:
            if error.kind == "not_found":
                raise
            return None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _require_operator() -> None:
    caller = current().caller
    if caller.key_name and caller.sees:
        raise EdgeError("forbidden", "workers are drained with a key that sees every tenant, or without keys")


def _is_worker_name(name: str) -> bool:
    return 0 < len(name) <= _MAX_WORKER_NAME


def _is_last(name: str, workers: Sequence[m.WorkerView]) -> bool:
    """Whether the service would end with this worker: no other goes on, or none on the broker's machine, where `make run` ends with them.

    Names of other machines' workers begin with the name of their key and a dot.
    """
    here = "." not in name
    staying = [one.name for one in workers if one.state not in ("draining", "lost")]
    return name in staying and all(one == name or (here and "." in one) for one in staying)


def _cursor_at(after: str, newest_first: bool) -> float:
    """Return the cursor behind a job that was deleted meanwhile: a client that deletes what it lists must reach the end."""
    at = named_at(after)
    return max(0.0, at + (_CLOCKS_S if newest_first else -_CLOCKS_S)) if at else 0.0


def _is_news(new: m.JobView, old: m.JobView) -> bool:
    if new.revision != old.revision:
        return new.revision > old.revision
    return (new.position, round(new.eta_s)) != (old.position, round(old.eta_s))
