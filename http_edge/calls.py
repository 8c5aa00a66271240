"""What the edge does for every API family: submit, look up, list, cancel, wait, follow. The only user of the broker's client.

Rules. A job that succeeded is reported as such only after its client-chosen path is filled (or could not be), whichever edge is
asked. Every wait has an end. Nothing lives here alone: any edge over the same broker and home answers the same.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from broker.client import BrokerClient
from broker.errors import BrokerError
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, ModelCard, Scalar, cost_units, decode_spec, is_job_id
from http_edge.catalogue import Catalogue
from http_edge.errors import EdgeError, from_broker, invalid, not_found
from http_edge.exports import Exports, Source
from http_edge.files import artefact_path
from http_edge.hub import Hub, Job
from http_edge.inputs import Inputs
from http_edge.settings import EdgeSettings
from http_edge.specs import Wanted, build_spec, encode_checked

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

#: Jobs remembered to need no further look at their client-chosen path, and how long a failure to fill one is believed.
_SETTLED_REMEMBERED = 10_000
_SAVE_RETRY_S = 5.0


class Order(Struct, frozen=True, kw_only=True):
    """One request to make something, from any API family."""

    wanted: Wanted
    #: The client's own id, which makes the request idempotent; "" for a new one.
    job_id: str = ""
    priority: int = 5
    deadline_s: float = 0.0
    origin: str = ""
    alias: str = ""
    alias_unique: bool = False
    only_if_idle: bool = False
    #: The only worker that may run it; "" for any.
    worker: str = ""
    #: What the API makes when no model is named.
    prefers: str | None = None
    echo: dict[str, Scalar] = {}


class Calls:
    """The broker and the files, as API handlers use them."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: BrokerClient,
        hub: Hub,
        inputs: Inputs,
        exports: Exports,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.hub = hub
        self.catalogue = Catalogue(self._fetch_pool)
        self._broker = broker
        self._inputs = inputs
        self._exports = exports
        self._wall_clock = wall_clock
        self._threads = anyio.CapacityLimiter(_FILE_THREADS)
        #: Job -> ("" or why its path could not be filled, when that was found).
        self._settled: OrderedDict[str, tuple[str, float]] = OrderedDict()

    # ------------------------------------------------------------ submit

    async def submit(self, order: Order) -> tuple[Job, bool]:
        """The accepted job, and whether it was there before. Raises `EdgeError`."""
        card = await self._card(order)
        wanted = order.wanted
        spec = build_spec(wanted, card, seed=_draw_seed(), echo=order.echo)
        if spec.save_to and spec.num_outputs > 1:
            raise invalid(wanted.label("save_to"), wanted.save_to, f"is one file, and the job makes {spec.num_outputs}")
        if spec.image or spec.save_to:
            spec = await self._in_thread(lambda: self._place(wanted, spec))
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
        with _translated():
            view, duplicate = await self._broker.submit(message, body)
        log.info("job accepted", extra={"action": "submit", "job_id": view.id})
        job = Job(view=msgspec.structs.replace(view, body=body), spec=spec)
        return await self._settle(job), duplicate

    async def _card(self, order: Order) -> ModelCard:
        wanted = order.wanted
        return await self.catalogue.choose(
            wanted.model,
            label=wanted.label("model"),
            default=self.settings.default_model,
            output=wanted.output or order.prefers,
            with_image=bool(wanted.image),
            worker=order.worker,
        )

    def _place(self, wanted: Wanted, spec: JobSpec) -> JobSpec:
        """Check the client's paths and spool its image. Blocks."""
        save_to = self._exports.check(wanted.label("save_to"), spec.save_to, spec.output) if spec.save_to else ""
        image = self._inputs.from_path(wanted.label("image"), spec.image) if spec.image else ""
        return msgspec.structs.replace(spec, image=image, save_to=save_to)

    # ------------------------------------------------------------ look up

    async def job(self, job_id: str) -> Job:
        """The job of this id. Raises `EdgeError`."""
        held = self.hub.memory.get(job_id)
        if held is not None:
            return held
        if not is_job_id(job_id):
            raise not_found("job", job_id)
        with _translated():
            view = await self._broker.get(job_id)
        if view is None:
            raise not_found("job", job_id)
        return await self._take(view)

    async def job_by_alias(self, origin: str, alias: str) -> Job | None:
        """The newest job of this name, or None. Raises `EdgeError`."""
        with _translated():
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
        with _translated():
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

    async def pool(self, max_age_s: float = 0.0) -> m.PoolView:
        """The workers and the queue's totals. Raises `EdgeError`."""
        return await self.catalogue.pool(max_age_s)

    async def _fetch_pool(self) -> m.PoolView:
        with _translated():
            return await self._broker.pool()

    async def _take(self, view: m.JobView) -> Job:
        job = await self._settle(Job(view=view, spec=_spec_of(view)))
        # A path that could not be filled is tried again when next asked.
        if not job.save_error:
            self.hub.memory.put(job)
        return job

    # ------------------------------------------------------------ cancel, wait, follow

    async def cancel(self, job_id: str) -> tuple[m.CancelOutcome, Job]:
        """What became of the request, and the job. Raises `EdgeError`."""
        if not is_job_id(job_id):
            raise not_found("job", job_id)
        with _translated():
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
                    news: Job | None = await self._settle(job.moved_to(view))
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

    # ------------------------------------------------------------ client-chosen paths

    async def _settle(self, job: Job) -> Job:
        """The job, with its client-chosen path filled if it succeeded."""
        if job.view.state != "succeeded" or job.spec is None or not job.spec.save_to or job.view.result is None:
            return job
        known = self._settled.get(job.id)
        if known is None or (known[0] and time.monotonic() - known[1] > _SAVE_RETRY_S):
            reason = await self._in_thread(lambda: self._fill(job))
            if reason and (known is None or known[0] != reason):
                log.warning("result could not be saved", extra={"action": "save", "job_id": job.id, "reason": reason})
            known = self._settled[job.id] = (reason, time.monotonic())
            if len(self._settled) > _SETTLED_REMEMBERED:
                self._settled.popitem(last=False)
        return msgspec.structs.replace(job, save_error=known[0]) if known[0] else job

    def _fill(self, job: Job) -> str:
        """Copy the first artefact to where the client asked. Blocks. "" or the reason why not."""
        assert job.spec is not None
        assert job.view.result is not None
        if not job.view.result.artefacts:
            return "the job made no file"
        artefact = job.view.result.artefacts[0]
        path = artefact_path(self.settings.artefacts_path, job.view, artefact)
        source = Source(job=job.id, finished_at=job.view.finished_at, path=path, size=artefact.size)
        return self._exports.fill(job.spec.save_to, source)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _draw_seed() -> int:
    return secrets.randbelow(_SEED_BOUND)


def _spec_of(view: m.JobView) -> JobSpec | None:
    try:
        return decode_spec(view.body)
    except ValueError:
        return None


def _is_news(new: m.JobView, old: m.JobView) -> bool:
    if new.revision != old.revision:
        return new.revision > old.revision
    return (new.position, round(new.eta_s)) != (old.position, round(old.eta_s))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn the broker's refusals into the edge's errors."""
    try:
        yield
    except BrokerError as error:
        raise from_broker(error) from None
