"""What the edge does for every API family: submit, look up, list, cancel, wait, follow. The only user of the broker's client.

Rules. A job that succeeded is reported as such only after its client-chosen path is filled (or could not be), whichever edge is
asked. Every wait has an end. Nothing lives here alone: any edge over the same broker and home answers the same.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from broker.client import BrokerClient
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, ModelCard, cost_units, is_job_id
from http_edge.catalogue import Catalogue
from http_edge.errors import EdgeError, invalid, not_found
from http_edge.exports import Exports
from http_edge.forms import Upload
from http_edge.hub import Hub, Job
from http_edge.images import Images
from http_edge.orders import Order
from http_edge.settings import EdgeSettings
from http_edge.settler import Settler
from http_edge.specs import Wanted, build_spec, encode_checked
from http_edge.translated import translated

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seeds are drawn below this: exact in every JSON reader's floating point.
_SEED_BOUND = 2**32

#: How often a follower looks by itself: queue positions come with no event.
_WAITING_LOOK_S = 2.0
_RUNNING_LOOK_S = 15.0
_RETRY_LOOK_S = 1.0

#: Files handled at once: decoding an image or copying a result must not take every thread there is.
_FILE_THREADS = 4


class Calls:
    """The broker and the files, as API handlers use them."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: BrokerClient,
        hub: Hub,
        images: Images,
        exports: Exports,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.hub = hub
        self.catalogue = Catalogue(self._fetch_pool, aliases=settings.aliases)
        self._broker = broker
        self._images = images
        self._exports = exports
        self._wall_clock = wall_clock
        self._threads = anyio.CapacityLimiter(_FILE_THREADS)
        self._settler = Settler(settings.artefacts_path, exports, self._threads)

    # ------------------------------------------------------------ submit

    async def submit(self, order: Order) -> tuple[Job, bool]:
        """The accepted job, and whether it was there before. Raises `EdgeError`."""
        card = await self._card(order)
        wanted = order.wanted
        if order.image and not wanted.image:
            wanted = msgspec.structs.replace(wanted, image="the uploaded image")
        spec = build_spec(wanted, card, seed=_draw_seed(), echo=order.echo)
        if spec.save_to and spec.num_outputs > 1:
            raise invalid(wanted.label("save_to"), wanted.save_to, f"is one file, and the job makes {spec.num_outputs}")
        spec = await self._place(wanted, spec, order.image)
        if order.job_id and wanted.seed is None:
            return await self._submit_again(order, spec, card)
        return await self._submit(order, spec, card)

    async def _submit_again(self, order: Order, spec: JobSpec, card: ModelCard) -> tuple[Job, bool]:
        """Submit under the client's id with a drawn seed: if the id is taken, the seed drawn then makes the request the same."""
        try:
            return await self._submit(order, spec, card)
        except EdgeError as error:
            if error.kind != "id_conflict":
                raise
            there = await self.job(order.job_id)
            if there.spec is None or there.spec.seed == spec.seed:
                raise
        return await self._submit(order, msgspec.structs.replace(spec, seed=there.spec.seed), card)

    async def _submit(self, order: Order, spec: JobSpec, card: ModelCard) -> tuple[Job, bool]:
        body = encode_checked(spec)
        message = m.Submit(
            req=0,
            job_id=order.job_id or f"job-{secrets.token_hex(12)}",
            model=spec.model,
            units=cost_units(spec, card),
            priority=order.priority,
            deadline_at=self._wall_clock() + order.deadline_s if order.deadline_s else 0.0,
            origin=order.origin,
            alias=order.alias,
            alias_unique=order.alias_unique,
            worker=order.worker,
            only_if_idle=order.only_if_idle,
        )
        with translated():
            view, duplicate = await self._broker.submit(message, body)
        log.info("job accepted", extra={"action": "submit", "job_id": view.id})
        job = Job.of(msgspec.structs.replace(view, body=body), self.settings.retention_s)
        return await self._settler.settle(job), duplicate

    async def _card(self, order: Order) -> ModelCard:
        wanted = order.wanted
        return await self.catalogue.choose(
            wanted.model,
            label=wanted.label("model"),
            default=self.settings.default_model,
            output=wanted.output or order.prefers,
            with_image=bool(wanted.image or order.image),
            worker=order.worker,
        )

    async def _place(self, wanted: Wanted, spec: JobSpec, image: str) -> JobSpec:
        """Check the client's paths and keep its image."""
        save_to = spec.save_to
        if save_to:
            save_to = await self._in_thread(lambda: self._exports.check(wanted.label("save_to"), save_to, spec.output))
        if spec.image and not image:
            image = await self.image(wanted.label("image"), spec.image, allow_paths=True)
        return msgspec.structs.replace(spec, image=image, save_to=save_to)

    async def image(self, field: str, source: str | Upload, *, allow_paths: bool) -> str:
        """The kept copy of a client's image, for `Order.image`: from an upload of this request, a data URL, base64, an http(s) URL,
        an uploaded file's id, or (`allow_paths`) a path on this machine. Raises `EdgeError` naming field, value and rule."""
        return await self._images.resolve(field, source, allow_paths=allow_paths)

    async def repeat(self, job: Job) -> Job:
        """Submit a job that is over once more, as it is, under the same name: the newest of that name is what the name means then.

        Raises `EdgeError`.
        """
        if job.spec is None:
            raise EdgeError("unsupported", "the job was written by a newer version and cannot be repeated by this one")
        card = await self.catalogue.choose(job.view.model, worker=job.view.pinned)
        order = Order(
            wanted=Wanted(prompt=job.spec.prompt),
            priority=job.view.priority,
            origin=job.view.origin,
            alias=job.view.alias,
            worker=job.view.pinned,
        )
        again, _ = await self._submit(order, job.spec, card)
        return again

    # ------------------------------------------------------------ look up

    async def job(self, job_id: str) -> Job:
        """The job of this id. Raises `EdgeError`."""
        held = self.hub.memory.get(job_id)
        if held is not None:
            return held
        if not is_job_id(job_id):
            raise not_found("job", job_id)
        with translated():
            view = await self._broker.get(job_id)
        if view is None:
            raise not_found("job", job_id)
        return await self._take(view)

    async def job_by_alias(self, origin: str, alias: str) -> Job | None:
        """The newest job of this name, or None. Raises `EdgeError`."""
        with translated():
            view = await self._broker.get_alias(origin, alias)
        return None if view is None else await self._take(view)

    async def jobs(
        self,
        *,
        limit: int,
        after: str = "",
        newest_first: bool = True,
        states: tuple[m.JobStateName, ...] = (),
        origin: str = "",
        model: str = "",
        worker: str = "",
    ) -> tuple[list[Job], bool]:
        """A page of jobs, and whether more follow. Raises `EdgeError`."""
        with translated():
            views, more = await self._broker.list(
                limit=limit,
                after=after,
                newest_first=newest_first,
                states=states,
                origin=origin,
                model=model,
                worker=worker,
            )
        return [await self._take(view) for view in views], more

    async def saved_at(self, path: str) -> str | None:
        """The id of the job whose result lies at a client's path, or None. Raises `EdgeError` when clients may not look there."""
        return await self._in_thread(lambda: self._exports.written(path))

    async def pool(self, max_age_s: float = 0.0) -> m.PoolView:
        """The workers and the queue's totals. Raises `EdgeError`."""
        return await self.catalogue.pool(max_age_s)

    async def _fetch_pool(self) -> m.PoolView:
        with translated():
            return await self._broker.pool()

    async def _take(self, view: m.JobView) -> Job:
        job = await self._settler.settle(Job.of(view, self.settings.retention_s))
        # A path that could not be filled is tried again when next asked.
        if not job.save_error:
            self.hub.memory.put(job)
        return job

    # ------------------------------------------------------------ cancel, wait, follow

    async def cancel(self, job_id: str) -> tuple[m.CancelOutcome, Job]:
        """What became of the request, and the job. Raises `EdgeError`."""
        if not is_job_id(job_id):
            raise not_found("job", job_id)
        with translated():
            outcome, view = await self._broker.cancel(job_id)
        if outcome == "not_found":
            raise not_found("job", job_id)
        self.hub.memory.forget(job_id)
        if view is None or not view.body:
            return outcome, await self.job(job_id)
        return outcome, await self._take(view)

    async def follow(self, job_id: str, quiet_s: float) -> AsyncGenerator[Job | None, None]:
        """The job now, then every later version of it, the newest only for a slow reader; None after each `quiet_s` without news.

        Ends after the final version, or when the edge closes. Raises `EdgeError` if the job does not exist.
        """
        with self.hub.listen(job_id) as listener:
            job = await self.job(job_id)
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
                    news: Job | None = await self._settler.settle(job.moved_to(view))
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
                async with contextlib.aclosing(self.follow(job_id, 1.0)) as versions:
                    async for _ in versions:
                        pass
        return not scope.cancelled_caught and not self.hub.closed

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


def _draw_seed() -> int:
    return secrets.randbelow(_SEED_BOUND)


def _is_news(new: m.JobView, old: m.JobView) -> bool:
    if new.revision != old.revision:
        return new.revision > old.revision
    return (new.position, round(new.eta_s)) != (old.position, round(old.eta_s))
