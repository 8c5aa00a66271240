"""Submitting a job: the model, the spec, the client's paths and image, the job's id, and the broker's answer.

Rules. A request that is sent again means the same job: under the client's own id what was drawn for the first (seed, trace) is taken for
the next, and under an idempotency key (`idempotency`) the job of the first is the answer. Limits are the caller's (`context.current`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from broker.client.client import BrokerClient
from broker.runtime.log_actions import Action
from broker.wire import messages as m
from broker.wire.inputs import ROLES, InputKind
from broker.wire.jobspec import JobSpec, ModelCard, cost_units, decode_spec
from broker.wire.loras import short_list
from broker.wire.promises import CONFIDENCE
from broker.wire.submission import DEFAULT_PRIORITY
from http_edge.base import idempotency
from http_edge.base.broker_errors import translated
from http_edge.base.context import Caller, current
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.base.job_names import is_made, own_id, shown_id
from http_edge.base.settings import EdgeSettings
from http_edge.jobs.generation import Generation
from http_edge.jobs.models import Catalogue
from http_edge.jobs.prompt_enhancer import PromptEnhancer, as_before
from http_edge.jobs.specs import build_spec, encode_checked
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import Webhook
from http_edge.media.exports import Exports
from http_edge.media.input_sources import InputSources
from http_edge.media.input_store import Picture

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Field and URL -> nothing, or an `EdgeError`.
CheckUrl = Callable[[str, str], Awaitable[None]]

#: How long a host's name may take to be resolved.
_CHECK_S = 5.0

#: Seeds are drawn below this: exact in every JSON reader's floating point.
_SEED_BOUND = 2**32

#: An id of `_new_id` with the prefix of its API.
_NAMED = re.compile(r"[a-z]+[_-]([0-9a-f]{11})[0-9a-f]{20}")


class Submitter:
    """Submitter of jobs."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: BrokerClient,
        catalogue: Catalogue,
        sources: InputSources,
        exports: Exports,
        threads: anyio.CapacityLimiter,
        check_url: CheckUrl,
        enhancer: PromptEnhancer,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`check_url` raises `EdgeError` for a URL to which nothing may be sent."""
        self._settings = settings
        self._check_url = check_url
        self._enhancer = enhancer
        self._broker = broker
        self._catalogue = catalogue
        self._sources = sources
        self._exports = exports
        self._threads = threads
        self._wall_clock = wall_clock

    async def submit(self, submission: Submission) -> tuple[m.JobView, bool]:
        """The accepted job with its spec's bytes, and whether it was there before. Raises `EdgeError`."""
        submission = self._named(submission)
        there = await self._replay(submission)
        if there is not None:
            return there, True
        card = await self._card(submission)
        generation = submission.generation
        if submission.image and not generation.image:
            generation = msgspec.structs.replace(generation, image="the uploaded image")
        make = partial(
            build_spec,
            generation,
            card,
            seed=secrets.randbelow(_SEED_BOUND),
            echo=submission.echo,
            warnings=submission.warnings,
            lenient=submission.lenient,
        )
        # Faults of the request are reported before a picture is fetched; the picture then decides the size, too.
        spec = make()
        if spec.save_to and spec.num_outputs > 1:
            raise invalid(
                generation.label("save_to"), generation.save_to, f"is one file, and the job makes {spec.num_outputs}"
            )
        save_to = await self._checked_path(generation, spec)
        media = await self._media(generation, submission)
        if media:
            paths = {role: tuple(one.path for one in kept) for role, kept in media.items()}
            image = paths.pop("image", ("",))[0]
            spec = msgspec.structs.replace(make(media=media), image=image, inputs=paths)
        spec = msgspec.structs.replace(spec, save_to=save_to)
        if submission.webhook is not None:
            await self._check_webhook(submission.webhook.url)
        if generation.use_prompt_enhancer:
            spec = await self._enhanced(submission, spec)
        return await self._submit(submission, spec, card)

    async def estimate(self, generation: Generation, priority: int) -> tuple[str, m.Forecast, float]:
        """(the model, what would become of such a job if it came now, Unix time now). Nothing is fetched or kept. Raises `EdgeError`."""
        scope = current()
        submission = Submission(generation=generation, priority=priority)
        submission = msgspec.structs.replace(submission, priority=_priority(submission, scope.caller))
        card = await self._card(submission)
        spec = build_spec(generation, card)
        _check_loras(spec, generation, scope.caller)
        ask = m.Estimate(
            req=0, submission=_fixed(submission, spec, card), confidence=generation.ready_confidence or CONFIDENCE
        )
        with translated():
            found = await self._broker.estimate(ask)
        return spec.model, found, self._wall_clock()

    async def repeat(self, view: m.JobView, spec: JobSpec) -> m.JobView:
        """Submit a job that is over once more, as it is, under the same name. Raises `EdgeError`."""
        submission = self._named(
            Submission(
                generation=Generation(prompt=spec.prompt, seed=spec.seed, gpus=view.submission.gpus),
                priority=view.submission.priority,
                origin=view.submission.origin,
                alias=view.submission.alias,
                worker=view.submission.pinned,
                webhook=Webhook(url=view.submission.webhook, events=view.submission.webhook_events)
                if view.submission.webhook
                else None,
            )
        )
        there = await self._replay(submission)
        if there is not None:
            return there
        for path in spec.input_paths():
            await self._sources.touch("image" if path == spec.image else "inputs", path)
        card = await self._catalogue.choose(view.submission.model, worker=view.submission.pinned)
        again, _ = await self._submit(submission, spec, card)
        return again

    async def _enhanced(self, submission: Submission, spec: JobSpec) -> JobSpec:
        """The spec with an enhanced prompt: for a request that comes again, the one that the first got. Raises `EdgeError`."""
        there = None if submission.fresh else await self._existing(submission.job_id)
        first = None if there is None else _spec_of(there)
        if first is not None and (same := as_before(spec, first)) is not spec:
            return same
        return await self._enhancer.apply(spec)

    # ------------------------------------------------------------ the same request again

    def _named(self, submission: Submission) -> Submission:
        """The submission with the id that its job gets, and the priority. Raises `EdgeError`."""
        scope = current()
        fresh = not (submission.job_id or scope.job_key)
        if not submission.job_id:
            job_id = f"{submission.id_prefix}{scope.job_key or _new_id(self._wall_clock())}"
        elif scope.job_key:
            raise invalid(
                "id", submission.job_id, f"excludes {idempotency.HEADER}: either makes the request idempotent"
            )
        elif not scope.caller.key_name:
            job_id = submission.job_id
        elif is_made(submission.job_id):
            raise invalid("id", submission.job_id, "is of the form of the ids that this service makes itself")
        else:
            job_id = own_id(scope.caller.tenant, submission.job_id)
        return msgspec.structs.replace(
            submission, job_id=job_id, fresh=fresh, priority=_priority(submission, scope.caller)
        )

    async def _replay(self, submission: Submission) -> m.JobView | None:
        """The job of an earlier request with this idempotency key, None when there is none. Raises `EdgeError`."""
        scope = current()
        if not scope.job_key:
            return None
        there = await self._existing(submission.job_id)
        if there is None:
            return None
        spec = _spec_of(there)
        if spec is None or scope.payload is None or spec.request_digest != scope.payload.digest():
            raise idempotency.reused()
        scope.replayed = True
        return there

    async def _submit(self, submission: Submission, spec: JobSpec, card: ModelCard) -> tuple[m.JobView, bool]:
        scope = current()
        _check_loras(spec, submission.generation, scope.caller)
        spec = msgspec.structs.replace(
            spec,
            recipe=spec.recipe and self._may_hold_recipe(submission.generation, scope.caller),
            traceparent=scope.trace.traceparent if scope.trace else "",
            parent_span=scope.trace.parent_id if scope.trace else "",
            request_digest=scope.payload.digest() if scope.job_key and scope.payload else "",
        )
        try:
            return await self._send(submission, spec, card)
        except EdgeError as error:
            if error.kind != "id_conflict":
                raise
            replayed = await self._replay(submission)
            if replayed is not None:
                # Another edge took the first request meanwhile.
                return replayed, True
            same = await self._as_first(submission, spec)
            if same is None:
                raise
        return await self._send(submission, same, card)

    async def _as_first(self, submission: Submission, spec: JobSpec) -> JobSpec | None:
        """The spec with what was drawn for the job that bears this id already; None when that makes no difference."""
        there = await self._existing(submission.job_id)
        first = _spec_of(there) if there is not None else None
        if first is None:
            return None
        seed = spec.seed if submission.generation.seed is not None else first.seed
        if submission.generation.use_prompt_enhancer:
            spec = as_before(spec, first)
        same = msgspec.structs.replace(spec, seed=seed, traceparent=first.traceparent, parent_span=first.parent_span)
        return same if same != spec else None

    async def _existing(self, job_id: str) -> m.JobView | None:
        with translated():
            view = await self._broker.get(job_id, current().caller.tenant)
        return None if view is None else require_sound(view)

    # ------------------------------------------------------------ parts

    async def _send(self, submission: Submission, spec: JobSpec, card: ModelCard) -> tuple[m.JobView, bool]:
        body = encode_checked(spec)
        scope = current()
        message = m.Submit(
            req=0,
            job_id=submission.job_id,
            submission=_fixed(submission, spec, card),
            alias_unique=submission.alias_unique,
            only_if_idle=submission.only_if_idle,
            max_queued=scope.caller.max_queued,
            deadline_s=submission.deadline_s,
            fresh=submission.fresh,
            body=body,
            promise=_wish(submission.generation),
        )
        try:
            with translated():
                view, duplicate = await self._broker.submit(message)
        except EdgeError as error:
            if error.kind != "id_conflict":
                raise
            # The broker has it by the journal's id.
            taken = f"another job bears the id {shown_id(submission.job_id)!r}"
            raise EdgeError("id_conflict", taken, param="id") from None
        log.info("job accepted", extra={"action": Action.SUBMIT, "job_id": view.id, **scope.log_fields()})
        return msgspec.structs.replace(view, body=body), duplicate

    async def _card(self, submission: Submission) -> ModelCard:
        generation = submission.generation
        return await self._catalogue.choose(
            generation.model,
            label=generation.label("model"),
            default=self._settings.default_model,
            output=generation.output or submission.prefers,
            inputs={*generation.roles(), *(("image",) if submission.image else ())},
            worker=submission.worker,
        )

    async def _checked_path(self, generation: Generation, spec: JobSpec) -> str:
        """Return the checked path that the result is saved to; "" for none. Raises `EdgeError`."""
        if not spec.save_to:
            return ""
        label, tenant = generation.label("save_to"), current().caller.tenant
        return await self._in_thread(lambda: self._exports.check(label, spec.save_to, spec.output, tenant))

    async def _media(self, generation: Generation, submission: Submission) -> dict[str, tuple[Picture, ...]]:
        """The job's inputs by role, kept. Raises `EdgeError`."""
        media: dict[str, tuple[Picture, ...]] = {}
        for role in generation.roles():
            label, there = generation.label(role), submission.inputs.get(role, ())
            if role == "image":
                there = (submission.image,) if submission.image else ()
            for one in there:
                await self._sources.touch(label, one.path)
            if not there:
                kind: InputKind = ROLES[role].kind if role in ROLES else "picture"
                texts = (generation.image,) if role == "image" else getattr(generation, role)
                there = tuple([await self._sources.resolve(label, text, allow_paths=True, kind=kind) for text in texts])
            media[role] = there
        return media

    async def _check_webhook(self, url: str) -> None:
        try:
            async with asyncio.timeout(_CHECK_S):
                await self._check_url("webhook", url)
        except TimeoutError:
            raise invalid("webhook", url, "names a host that cannot be resolved") from None

    def _may_hold_recipe(self, generation: Generation, caller: Caller) -> bool:
        """Whether the files may have their recipe. Raises `EdgeError` when they may not, and the request needs it."""
        if self._settings.recipe and caller.recipe:
            return True
        if generation.recipe:
            subject = "this key's results" if self._settings.recipe else "results of this service"
            message = f"recipe: {subject} do not hold their recipe"
            raise EdgeError("forbidden", message, param=generation.label("recipe"), value=True)
        return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _fixed(submission: Submission, spec: JobSpec, card: ModelCard) -> m.Submission:
    """Immutable attributes of the submission's job."""
    caller = current().caller
    return m.Submission(
        model=spec.model,
        units=cost_units(spec, card),
        tenant=caller.tenant,
        priority=submission.priority,
        gpus=submission.generation.gpus or 1,
        origin=submission.origin,
        alias=submission.alias,
        pinned=submission.worker,
        max_running=caller.max_running,
        webhook=submission.webhook.url if submission.webhook else "",
        webhook_events=submission.webhook.events if submission.webhook else (),
        lora_names=short_list(use.name for use in spec.loras) if spec.loras else (),
        submitted_by=caller.key_name,
        steps=spec.num_inference_steps * spec.num_outputs,
        draft_steps=(submission.generation.draft_steps or 0) * spec.num_outputs,
    )


def _wish(generation: Generation) -> m.PromiseWish | None:
    """The promise that a request asks for. Raises `EdgeError`."""
    within_s, confidence = generation.ready_within_s, generation.ready_confidence
    if within_s is None:
        if confidence is not None:
            label = generation.label("ready_confidence")
            raise invalid(label, confidence, "says how sure ready_within_s is to be, which is missing")
        return None
    return m.PromiseWish(within_s=within_s, confidence=CONFIDENCE if confidence is None else confidence)


def require_sound(view: m.JobView) -> m.JobView:
    """The view itself. Raises `EdgeError` when the job's record was damaged on disk."""
    if view.damaged:
        raise EdgeError(
            "damaged", f"the record of job {shown_id(view.id)!r} is damaged on the broker's disk: {view.damaged}"
        )
    return view


async def refuse_url(field: str, url: str) -> None:
    """Refuse every URL; for services that send nothing."""
    raise invalid(field, url, "is not taken by this service")


def _new_id(now: float) -> str:
    """Make a job's id: the time, 11 hex digits of milliseconds, so that the journal's index grows at one end; then 20 random ones."""
    return f"{int(now * 1000):011x}{secrets.token_hex(10)}"


def time_in_id(job_id: str) -> float:
    """Return the time at which an id was made, Unix; 0 when it has none."""
    match = _NAMED.fullmatch(job_id)
    return int(match[1], 16) / 1000 if match else 0.0


def _priority(submission: Submission, caller: Caller) -> int:
    """The job's priority. Raises `EdgeError` when the caller requests more than it may; what it did not request is lowered."""
    if submission.priority <= caller.max_priority:
        return submission.priority
    if submission.priority == DEFAULT_PRIORITY:
        return caller.max_priority
    message = f"priority: {submission.priority} is above what this key may ask for, {caller.max_priority}"
    raise EdgeError("forbidden", message, param="priority", value=submission.priority)


def _check_loras(spec: JobSpec, generation: Generation, caller: Caller) -> None:
    """Raise `EdgeError` for a LoRA that the caller's key does not allow."""
    for use in spec.loras:
        if caller.loras is not None and use.name not in caller.loras:
            label = generation.label("loras")
            message = f"{label}: this key may not draw with LoRA {shown(use.name)}"
            raise EdgeError("forbidden", message, param=label, value=use.name)


def _spec_of(view: m.JobView) -> JobSpec | None:
    try:
        return decode_spec(view.body)
    except ValueError:
        return None
