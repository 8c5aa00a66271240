"""Rules of timers, of jobs that are set aside, of webhook deliveries, deletions and the disk, broken one at a time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import msgspec

from broker.core import requests, set_aside, timers, webhook_requests
from broker.core.deadlines import Deadlines
from broker.core.deliveries import LEASE_S
from broker.core.effects import DeliveryChanged
from broker.core.jobs import Cause, Job
from broker.core.state import State
from broker.shell.executor import Executor
from broker.shell.journal import schema
from broker.shell.journal.deliveries import DeliveryStore
from broker.shell.journal.journal import Journal
from broker.shell.journal.set_aside import SetAsideMarks
from broker.shell.recovery import Recovery
from broker.shell.router import Router
from broker.wire import messages as m
from tests.simulation.hunting import Mutation, nothing

# ---------------------------------------------------------------- timers


def _all_at_once(_: Any) -> Callable[..., Any]:
    def due(deadlines: Any, now: float) -> list[Any]:
        keys = []
        while deadlines._heap and deadlines._heap[0][0] <= now:
            at, key = heapq.heappop(deadlines._heap)
            if deadlines._at.get(key) == at:
                del deadlines._at[key]
                keys.append(key)
        return keys

    return due


def _any_back_off(_: Any) -> Callable[..., None]:
    def end_back_off(state: Any, job_id: str, now: float) -> None:
        job = state.jobs[job_id]
        state.move(job, Cause.DUE, now)
        state.enqueue(job)

    return end_back_off


def _any_deadline(_: Any) -> Callable[..., None]:
    def expire(state: Any, job_id: str, now: float) -> None:
        job = state.jobs[job_id]
        job.stop = "expired"
        if job.waiting:
            state.end_stopped(job, now)
        else:
            state.move(job, Cause.STOP_REQUESTED, now, "expired")
            state.send_cancel(job)

    return expire


# ---------------------------------------------------------------- set aside


def _said_all_the_same(original: Callable[..., Any]) -> Callable[..., Any]:
    def recover(router: Any, *args: Any) -> None:
        sends = router._executor.sends
        original(router, *args)
        router._executor.sends = [*sends, *router._executor.sends]

    return recover


def _memory_kept(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(recovery: Any, now: float) -> Any:
        return original(recovery, now) if not recovery.failures else 0

    return load


def _stop_forgotten(original: Callable[..., Any]) -> Callable[..., Any]:
    def put(asides: Any, job_id: str, n: int, mark: Any) -> None:
        original(asides, job_id, n, msgspec.structs.replace(mark, stop=""))

    return put


def _same_epoch_after(original: Callable[..., Any]) -> Callable[..., Any]:
    def discard(journal: Any) -> None:
        epoch = journal.epoch
        original(journal)
        journal.epoch = epoch

    return discard


def _still_known(_: Any) -> property:
    return property(lambda job: job.final)


# ---------------------------------------------------------------- webhooks and deletions


def _shared(original: Callable[..., Any]) -> Callable[..., Any]:
    def claim_deliveries(state: Any, peer: bytes, message: Any, found: Any, now: float) -> None:
        original(state, peer, message, found, now)
        for index, effect in enumerate(state.effects):
            if isinstance(effect, DeliveryChanged) and effect.delivery.due_at == now + LEASE_S:
                state.effects[index] = DeliveryChanged(msgspec.structs.replace(effect.delivery, due_at=now + 1.0))

    return claim_deliveries


def _any_claim(original: Callable[..., Any]) -> Callable[..., Any]:
    def settle(state: Any, delivery: Any, siblings: Any, message: Any, now: float) -> None:
        original(state, delivery, siblings, msgspec.structs.replace(message, claim=delivery.claim), now)

    return settle


def _after_delivery(original: Callable[..., Any]) -> Callable[..., Any]:
    def settle(state: Any, delivery: Any, siblings: Any, message: Any, now: float) -> None:
        if delivery.state == "delivered":
            delivery = msgspec.structs.replace(delivery, state="pending", claim=message.claim)
        original(state, delivery, siblings, message, now)

    return settle


def _early(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda box, now, limit: original(box, now + 5.0, limit)


def _hook_not_durable(original: Callable[..., Any]) -> Callable[..., Any]:
    def carry_out(executor: Any, effect: Any) -> None:
        durable = executor.durable
        original(executor, effect)
        if isinstance(effect, DeliveryChanged):
            executor.durable = durable

    return carry_out


def _forgets_the_living(_: Any) -> Callable[..., Any]:
    def forget_jobs(state: Any, peer: bytes, message: Any, found: Any, now: float) -> None:
        cold = {job.id: job for job in found.jobs}
        for job_id in message.job_ids:
            if (job := state.jobs.get(job_id) or cold.get(job_id)) is not None:
                state.forget(job)
        state.send(peer, m.Forgotten(req=message.req, job_ids=message.job_ids))

    return forget_jobs


def _not_forgotten(_: Any) -> Callable[..., Any]:
    def forget_jobs(state: Any, peer: bytes, message: Any, found: Any, now: float) -> None:
        state.send(peer, m.Forgotten(req=message.req, job_ids=message.job_ids))

    return forget_jobs


# ---------------------------------------------------------------- the disk


def _unsynced(original: Callable[..., Any]) -> Callable[..., Any]:
    def configure(connection: Any) -> None:
        original(connection)
        connection.execute("PRAGMA synchronous = NORMAL")

    return configure


TIMERS: tuple[Mutation, ...] = (
    Mutation(
        "back-off-unchecked",
        "a back-off that ends finds its job waiting, or does nothing",
        ((Deadlines, "due", _all_at_once), (timers, "_end_back_off", _any_back_off)),
        first=189,
    ),
    Mutation(
        "deadline-unchecked",
        "a deadline that passes finds its job unfinished, or does nothing",
        ((timers, "_expire", _any_deadline),),
        first=133,
    ),
    Mutation(
        "promise-untold",
        "a promise that is not kept is reported as broken",
        ((timers, "_check_promise", nothing),),
    ),
    Mutation("back-off-kept", "what waits no more has no back-off", ((State, "_end_wait", nothing),)),
    Mutation(
        "failed-pass-said",
        "what a failed pass was to say is not said",
        ((Router, "_recover", _said_all_the_same),),
        first=1150,
    ),
    Mutation("memory-kept", "what a failed pass has left in memory is forgotten", ((Recovery, "load", _memory_kept),)),
    Mutation("epoch-kept", "the epoch is raised after a failed pass", ((Journal, "discard", _same_epoch_after),)),
    Mutation(
        "aside-cancel-lost",
        "a cancel of a job that is set aside is kept",
        ((SetAsideMarks, "put", _stop_forgotten),),
        first=198,
    ),
    Mutation("aside-adopted", "no worker keeps a job that is set aside", ((Job, "closed", _still_known),), first=69),
    Mutation("aside-for-ever", "a job that is released goes on", ((set_aside, "_resume", nothing),)),
    Mutation("claim-shared", "a delivery is one edge's at a time", ((webhook_requests, "claim_deliveries", _shared),)),
    Mutation(
        "any-claim",
        "a failure counts only from the claim that holds",
        ((webhook_requests, "_record_outcome", _any_claim),),
        first=1016,
    ),
    Mutation(
        "delivered-again",
        "what is delivered stays so",
        ((webhook_requests, "_record_outcome", _after_delivery),),
        first=130,
    ),
    Mutation("claimed-early", "a delivery is tried when it is due", ((DeliveryStore, "due", _early),)),
    Mutation("lazy-claim", "a claim is durable", ((Executor, "_carry_out_rare", _hook_not_durable),)),
    Mutation("forget-the-living", "only what is final is deleted", ((requests, "forget_jobs", _forgets_the_living),)),
    Mutation(
        "forget-nothing", "a deletion is reported when it is on disk", ((requests, "forget_jobs", _not_forgotten),)
    ),
    Mutation("unsynced", "a commit is synced", ((schema, "_configure", _unsynced),)),
)
