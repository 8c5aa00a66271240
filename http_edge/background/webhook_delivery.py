"""Delivery of webhook events to clients, by the Standard Webhooks specification.

The broker's journal is the queue of deliveries, and outlives restarts of every process. An edge claims some of it, sends, and reports
within the claim's lease; a claim that is not reported comes back to the next edge that claims. So a delivery is never lost and may be sent
twice: receivers recognise the second by its `webhook-id`. Any number of edges share the work. `webhook_turns` decides the order; a delivery
that has to wait too long is given back to the journal, which counts as no attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from email.utils import parsedate_to_datetime
from typing import Any

from msgspec import Struct

from broker.runtime.log_actions import Action
from broker.wire.edge_messages import DeliveryOutcome
from broker.wire.messages import ClaimedDelivery, DeliveryDone, JobView
from http_edge.background.webhook_events import event_body, event_id
from http_edge.background.webhook_signing import SecretsError, WebhookSecrets, signatures
from http_edge.background.webhook_turns import Turn, Turns
from http_edge.base.errors import EdgeError
from http_edge.jobs.deliveries import Deliveries
from http_edge.jobs.service import JobService
from http_edge.media.fetch import Fetcher, NotSent, host_of, parse_url

log = logging.getLogger(__name__)

#: Seconds before each attempt, after the one before it; then it has failed. Those of the specification.
SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)

#: Random part of a delay, so that deliveries that failed together are not repeated together.
_JITTER = 0.2

#: Statuses by which a receiver reports too many requests, and the least pause that follows one.
_THROTTLED, _THROTTLE_S = (429, 502, 504), 30.0
_MOST_PAUSE_S = 86_400.0

#: For one request; and for all of an attempt: with the wait before it (`webhook_turns.WAIT_S`) within the lease of 60 s of the claim.
_TIMEOUT_S = 20.0
_ATTEMPT_S = 40.0

#: Deliveries that one claim brings, at most.
_BATCH = 64

#: Longest wait, seconds: another edge may have died with deliveries that it had claimed.
_POLL_S = 5.0
_LEAST_PAUSE_S = 0.05
_BROKER_RETRY_S = 1.0

#: How long an outcome is kept for a broker that does not answer. Without it the delivery is made again.
_REPORT_S = 300.0


class Result(Struct, frozen=True):
    """Result of one attempt."""

    outcome: DeliveryOutcome
    status: int = 0
    retry_s: float = 0.0
    note: str = ""


class WebhookDelivery:
    """The tasks that deliver."""

    def __init__(
        self,
        calls: JobService,
        deliveries: Deliveries,
        fetcher: Fetcher,
        secrets: WebhookSecrets,
        *,
        wall_clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.secrets = secrets
        self._calls = calls
        self._deliveries = deliveries
        self._fetcher = fetcher
        self._base_url = calls.settings.public_url.rstrip("/")
        self._wall_clock = wall_clock
        self._draw = draw
        self._wake = asyncio.Event()
        self._turns: Turns[ClaimedDelivery] = Turns()
        self._busy: set[asyncio.Task[None]] = set()
        self._secrets_missing = False

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the caller cancels the task."""
        self._calls.hub.when_changed(self._on_change)
        self._calls.hub.when_gap(self._wake.set)
        return [asyncio.create_task(self._run())]

    def _on_change(self, view: JobView) -> None:
        """Note a changed job, whose webhook may have an event to get."""
        if view.submission.webhook and (view.state != "running" or view.step == 0):
            self._wake.set()

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                pause_s = await self._claim()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(_LEAST_PAUSE_S, min(pause_s, _POLL_S))):
                        await self._wake.wait()
        finally:
            # What is cut off here comes back when its claim has run out.
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def _claim(self) -> float:
        """Take due deliveries in, as many as there is room for, and begin those whose turn it is; seconds until there is more to do."""
        now = asyncio.get_running_loop().time()
        for claim, retry_s in self._turns.overdue(now):
            self._spawn(self._release(claim, retry_s))
        wait_s = await self._take_in()
        self._begin()
        overdue_at = self._turns.next_overdue()
        return wait_s if overdue_at is None else min(wait_s, overdue_at - now)

    async def _take_in(self) -> float:
        """Claim due deliveries; return the seconds until more are due, as far as is known."""
        room = min(_BATCH, self._turns.room)
        if room <= 0 or not self._has_secrets():
            return _POLL_S
        try:
            claims, wait_s = await self._deliveries.claim(room)
            views = await asyncio.gather(*(self._calls.jobs.view(claim.job_id) for claim in claims))
        except EdgeError as error:
            # What was claimed comes back when its lease has run out.
            log.info("no webhook deliveries", extra={"action": Action.WEBHOOK, "reason": error.message})
            return _BROKER_RETRY_S
        now = asyncio.get_running_loop().time()
        for claim, view in zip(claims, views, strict=True):
            # Without: the job was deleted meanwhile, and the delivery with it.
            if view is not None and view.submission.webhook:
                retry_s = self._turns.add(Turn(_host_of(view.submission.webhook), view.submission.tenant), claim, now)
                if retry_s is not None:
                    self._spawn(self._release(claim, retry_s))
        return wait_s if wait_s >= 0 else _POLL_S

    def _begin(self) -> None:
        for turn, claim in self._turns.ready(asyncio.get_running_loop().time()):
            self._spawn(self._deliver(turn, claim))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _release(self, claim: ClaimedDelivery, retry_s: float) -> None:
        await self._report(claim, Result("released", retry_s=retry_s))

    def _has_secrets(self) -> bool:
        """Whether deliveries can be signed. Until they can, they wait in the journal."""
        try:
            self.secrets.keys()
        except SecretsError as error:
            if not self._secrets_missing:
                log.error("webhooks cannot be signed", extra={"action": Action.WEBHOOK, "reason": str(error)})
            self._secrets_missing = True
            return False
        self._secrets_missing = False
        return True

    # ------------------------------------------------------------ one delivery

    async def _deliver(self, turn: Turn, claim: ClaimedDelivery) -> None:
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            async with asyncio.timeout(_ATTEMPT_S):
                result = await self._attempt(claim)
        except TimeoutError:
            result = self._retry(claim, 0, "there was no time left for it")
        finally:
            self._turns.ended(turn, clock() - began_at, clock())
        # There is a place, and there may be room for more.
        self._begin()
        self._wake.set()
        if result is None:
            return
        log.info(
            "webhook delivered",
            extra={
                "action": Action.WEBHOOK,
                "job_id": claim.job_id,
                "event": claim.event,
                "attempt": claim.attempts,
                "outcome": result.outcome,
                "status": result.status or None,
                "note": result.note,
            },
        )
        await self._report(claim, result)

    async def _attempt(self, claim: ClaimedDelivery) -> Result | None:
        """Send once. None: the job was deleted meanwhile, and the delivery with it."""
        try:
            # Looking at a job fills its path first: a receiver of its event finds the file.
            job = await self._calls.jobs.get(claim.job_id)
            keys = self.secrets.keys()
        except EdgeError as error:
            return None if error.kind == "not_found" else self._retry(claim, 0, error.message)
        except SecretsError:
            return self._retry(claim, 0, "it could not be signed")
        if not job.view.submission.webhook:
            return None
        body = event_body(job, claim, self._base_url)
        timestamp = int(self._wall_clock())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id(claim),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(keys, event_id(claim), timestamp, body),
        }
        if job.spec is not None and job.spec.traceparent:
            headers["traceparent"] = job.spec.traceparent
        try:
            status, answer = await self._fetcher.post(job.view.submission.webhook, headers, body, _TIMEOUT_S)
        except NotSent as error:
            return self._retry(claim, 0, str(error))
        if 200 <= status < 300:
            return Result("delivered", status)
        if status == 410:
            return Result("disabled", status, 0.0, "the receiver is gone")
        note = "it redirects, which is not followed" if 300 <= status < 400 else f"the receiver answered {status}"
        return self._retry(claim, status, note, answer.get("retry-after", ""))

    def _retry(self, claim: ClaimedDelivery, status: int, note: str, retry_after: str = "") -> Result:
        """Return the result of a failed attempt: when it is tried again, or that it is not."""
        if claim.attempts >= len(SCHEDULE_S):
            return Result("failed", status, 0.0, note[:256])
        pause_s = SCHEDULE_S[max(1, claim.attempts)] * (1.0 + _JITTER * self._draw())
        if status in _THROTTLED:
            pause_s = max(pause_s, _THROTTLE_S)
        requested_s = _seconds(retry_after, self._wall_clock())
        return Result("retry", status, max(pause_s, min(requested_s, _MOST_PAUSE_S)), note[:256])

    async def _report(self, claim: ClaimedDelivery, result: Result) -> None:
        done = DeliveryDone(
            req=0,
            number=claim.number,
            claim=claim.claim,
            outcome=result.outcome,
            status=result.status,
            retry_s=result.retry_s,
            note=result.note,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_S):
                while True:
                    try:
                        await self._deliveries.report(done)
                    except EdgeError:
                        await asyncio.sleep(_BROKER_RETRY_S)
                    else:
                        break
        if result.outcome in ("retry", "released"):
            # It may be due sooner than what was waited for.
            self._wake.set()


def _host_of(url: str) -> str:
    """Host and port of a webhook, by which receivers are distinguished."""
    parsed = parse_url("webhook", url)
    return f"{host_of(parsed).rstrip('.')}:{parsed.port or parsed.scheme}"


def _seconds(retry_after: str, now: float) -> float:
    """Return the seconds of a `Retry-After`; 0 when it cannot be read."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0
