"""Rules of the two cores, broken one at a time: a simulation that does not notice proves nothing.

Each mutation replaces one function by one that leaves a rule out, and is hunted seed by seed until some check notices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from broker.core import grants, lookups, reports, requests, retry, state, timers, worker_breaker
from broker.core.effects import Send, SendRun
from broker.core.jobs import Cause
from broker.core.machine import Core
from broker.core.pool import Pool
from broker.core.scheduling import dispatch, placement
from broker.core.scheduling.tenants import Tenants
from broker.core.step_streams import StepStreams
from broker.shell import executor
from broker.shell.journal.epochs import Epochs
from broker.shell.router import Router
from broker.wire import messages as m
from broker.wire.terms import JobState
from tests.simulation.hunting import Mutation, constant, nothing
from tests.simulation.mutations_overlap import OVERLAP
from tests.simulation.mutations_parking import PARKING
from tests.simulation.mutations_timers import TIMERS
from workers.agent.attempt import Attempt
from workers.agent.broker_orders import BrokerOrders
from workers.agent.registration import Registration
from workers.agent.unacked_results import UnackedResults

# ---------------------------------------------------------------- the broker: results


def _any_fence(original: Callable[..., Any]) -> Callable[..., Any]:
    def current(core_state: Any, worker: Any, message: Any, found: Any, now: float, **how: Any) -> Any:
        job = core_state.jobs.get(message.job_id) or found.job
        if job is None or job.final:
            return original(core_state, worker, message, found, now, **how)
        core_state.pool.update_room(worker, message.fence, message.free)
        return job

    return current


def _after_the_end(original: Callable[..., Any]) -> Callable[..., Any]:
    def current(core_state: Any, worker: Any, message: Any, found: Any, now: float, **how: Any) -> Any:
        job = core_state.jobs.get(message.job_id) or found.job
        if job is None or job.fence != message.fence:
            return original(core_state, worker, message, found, now, **how)
        core_state.pool.update_room(worker, message.fence, message.free)
        return job

    return current


def _requested_gpus(original: Callable[..., Any]) -> Callable[..., Any]:
    def give(core_state: Any, job: Any, worker: Any) -> None:
        original(core_state, job, worker)
        job.held_gpus = job.submission.gpus

    return give


def _deaf_to_stop(original: Callable[..., Any]) -> Callable[..., Any]:
    def finished(core_state: Any, worker: Any, message: Any, found: Any, now: float) -> None:
        job = core_state.jobs.get(message.job_id)
        if job is not None:
            job.stop = ""
        original(core_state, worker, message, found, now)

    return finished


# ---------------------------------------------------------------- the broker: disk before words


def _send_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def reconcile_held(router: Any, now: float) -> None:
        sends, router._executor.sends = router._executor.sends, []
        router._send(sends, {})
        original(router, now)

    return reconcile_held


def _run_first(_: Any) -> Callable[..., Any]:
    def send_run(core_state: Any, peer: bytes, run: Any, *, evicted: bool = False) -> None:
        core_state.effects.append((SendRun if evicted else Send)(peer, run, early=True))

    return send_run


def _unfenced(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **fields: original(**{**fields, "fence": 0})


def _strangers_left(original: Callable[..., Any]) -> Callable[..., Any]:
    def reconcile_held(core_state: Any, worker: Any, held: Any, now: float) -> None:
        original(core_state, worker, [item for item in held if item.job_id in core_state.jobs], now)

    return reconcile_held


def _same_epoch(original: Callable[..., Any]) -> Callable[..., Any]:
    def raise_again(epochs: Any, guarded: Any) -> int:
        original(epochs, guarded)
        return 1

    return raise_again


# ---------------------------------------------------------------- the broker: who holds what


def _counted(_: Any) -> Callable[..., Any]:
    def said(pool: Any, worker: Any, seen: int, free: int) -> None:
        worker.seen = max(worker.seen, seen)
        worker.free = 1
        worker.unseen = list(worker.held.values())
        pool._index(worker)

    return said


def _no_adoption(_: Any) -> Callable[..., Any]:
    def reconcile_held(core_state: Any, worker: Any, held: Any, now: float) -> None:
        for item in held:
            job = core_state.jobs.get(item.job_id)
            ours = job is not None and not job.final and worker.held.get(item.job_id) == item.fence
            if ours and job.state is JobState.ASSIGNED:
                reports._adopt(core_state, worker, job, item.fence, item.age_s, now)
            elif not ours and item.phase != "finished":
                core_state.send(worker.peer, reports.m.Cancel(job_id=item.job_id, fence=item.fence))

    return reconcile_held


def _mute_to_zombies(original: Callable[..., Any]) -> Callable[..., Any]:
    def reconcile_held(core_state: Any, worker: Any, held: Any, now: float) -> None:
        current = [item for item in held if (job := core_state.jobs.get(item.job_id)) and item.fence >= job.fence]
        original(core_state, worker, current, now)

    return reconcile_held


def _forgets_stored(original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(core_state: Any, peer: bytes, message: Any, found: Any, now: float) -> None:
        original(core_state, peer, message, msgspec.structs.replace(found, job=None), now)

    return submit


def _always_fresh(original: Callable[..., Any]) -> Callable[..., Any]:
    def needs(core: Any, peer: bytes, message: Any) -> Any:
        if isinstance(message, m.Submit):
            message = msgspec.structs.replace(message, fresh=True)
        return original(core, peer, message)

    return needs


def _trusted_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def restore(core: Any, *args: Any, **options: Any) -> None:
        original(core, *args, **options)
        core.state.skips_lookup_of_fresh = True

    return restore


def _retry_always(original: Callable[..., Any]) -> Callable[..., Any]:
    def decide(kind: Any, message: str, tries: Any, worker: str, spread: float, limit: int) -> Any:
        choice = original(kind, message, tries, worker, spread, limit)
        return retry.RetryDecision(1.0) if isinstance(choice, retry.GiveUp) else choice

    return decide


def _lose_freely(_: Any) -> Callable[..., Any]:
    def lose(core_state: Any, job: Any, now: float, note: str) -> None:
        core_state.give_back(job, Cause.LOST, now, note)

    return lose


def _refused_for_free(_: Any) -> Callable[..., Any]:
    def refused(core_state: Any, worker: Any, message: Any, now: float) -> None:
        job = core_state.jobs.get(message.job_id)
        core_state.pool.update_room(worker, message.fence, message.free)
        if job is not None and job.held and job.fence == message.fence and job.worker == worker.name:
            core_state.give_back(job, Cause.REFUSED, now, message.reason)

    return refused


def _never_taken(original: Callable[..., Any]) -> Callable[..., Any]:
    def refused(core_state: Any, worker: Any, message: Any, now: float) -> None:
        original(core_state, worker, msgspec.structs.replace(message, age_s=-1.0), now)

    return refused


def _start_untold(original: Callable[..., Any]) -> Callable[..., Any]:
    def current(core_state: Any, worker: Any, message: Any, found: Any, now: float, **how: Any) -> Any:
        job = core_state.jobs.get(message.job_id)
        if job is not None and job.fence == message.fence:
            job.begun = job.fence
        return original(core_state, worker, message, found, now, **how)

    return current


def _as_heard(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda job, age_s, now: original(job, 0.0, now)


def _never_where_it_crashed(scene: Any, job: Any, lane: Any, worker: Any) -> bool:
    return worker.name not in job.excluded


def _takes_back(original: Callable[..., Any]) -> Callable[..., Any]:
    def hello(core_state: Any, peer: bytes, message: Any, now: float) -> None:
        old = core_state.pool.workers.get(message.name)
        seen = max([message.seen, *(old.held.values() if old is not None else ())])
        original(core_state, peer, msgspec.structs.replace(message, seen=seen), now)

    return hello


# ---------------------------------------------------------------- the agent


def _said_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def due(unacked_results: Any, now: float, free: int) -> Any:
        messages = original(unacked_results, now, free)
        for pending in unacked_results._pending.values():
            pending.due_at = float("inf")
        return messages

    return due


def _any_run(original: Callable[..., Any]) -> Callable[..., Any]:
    def take_run(orders: Any, run: Any, now: float) -> None:
        results, free = orders._unacked_results, orders._capacity.free
        held = orders._attempts.find(run.job_id, run.fence) or results.waits(run.job_id, run.fence)
        known = held or results.answer(run.job_id, run.fence, free, now)
        if run.fence <= orders.seen and not known and not orders._capacity.refusal_reason():
            orders._control.begin(run, now)
        else:
            original(orders, run, now)

    return take_run


def _endless_patience(_: Any) -> Callable[..., Any]:
    return lambda attempt, policy: float("inf")


#: Rules of promise, order and place; those of time, parking and overlap stand in modules of their own.
RULES: tuple[Mutation, ...] = (
    Mutation("any-fence", "a result counts only with the job's fence", ((reports, "_current", _any_fence),), first=16),
    Mutation("after-the-end", "nothing leads out of a final state", ((reports, "_current", _after_the_end),)),
    Mutation("publish-cancelled", "a finish loses against a cancel", ((reports, "finished", _deaf_to_stop),), first=31),
    Mutation("failure-counts-again", "a failure closes its attempt", ((state.State, "close_attempt", nothing),)),
    Mutation(
        "send-before-commit", "nothing is said before it is on disk", ((Router, "_commit_and_send", _send_first),)
    ),
    Mutation(
        "run-overtakes", "a grant overtakes no row that lets its job go on", ((state.State, "send_run", _run_first),)
    ),
    Mutation(
        "born-unfenced",
        "an attempt of before a job's acceptance is none of its own",
        ((requests, "Job", _unfenced),),
        first=204,
    ),
    Mutation(
        "strangers-left",
        "an attempt at an unknown job is stopped",
        ((reports, "reconcile_held", _strangers_left),),
        first=330,
    ),
    Mutation(
        "spec-left-out", "a job is run as it was asked for", ((executor, "with_spec", lambda _: lambda _, run: run),)
    ),
    Mutation("lazy-stop", "a stop is durable", ((state, "LAZY", lambda lazy: lazy | {Cause.STOP_REQUESTED}),)),
    Mutation("lazy-finish", "a result is durable", ((state, "LAZY", lambda lazy: lazy | {Cause.FINISHED}),)),
    Mutation("same-epoch", "the epoch is raised before every life", ((Epochs, "raise_again", _same_epoch),)),
    Mutation("counted-credit", "room is what the worker said last", ((Pool, "update_room", _counted),)),
    Mutation("no-lease-expiry", "what a silent worker held goes back", ((timers, "_lose_worker", nothing),), first=37),
    Mutation(
        "no-rejoin-end", "orphans go back when no worker claims them", ((timers, "_close_rejoin", nothing),), first=87
    ),
    Mutation(
        "no-stall-rule", "the broker's own sleep is not the workers' silence", ((Core, "stalled", nothing),), first=391
    ),
    Mutation("no-adoption", "a worker that comes back keeps its job", ((reports, "reconcile_held", _no_adoption),)),
    Mutation("zombies-left", "an old attempt is stopped", ((reports, "reconcile_held", _mute_to_zombies),), first=123),
    Mutation(
        "handed-back-for-ever", "what was begun and handed back is a loss", ((reports, "refused", _refused_for_free),)
    ),
    Mutation(
        "handed-back-unheard",
        "what was taken and handed back is a loss, reported before or not",
        ((reports, "refused", _never_taken),),
        first=11,
    ),
    Mutation("start-untold", "what ends has started", ((reports, "_current", _start_untold),), first=79),
    Mutation("start-as-heard", "a start is reported as it was", ((reports, "_begun_at", _as_heard),)),
    Mutation("hello-takes-back", "a grant that a hello crosses stands", ((reports, "hello", _takes_back),)),
    Mutation("submit-forgets", "a job's id is its dedup key for ever", ((requests, "submit", _forgets_stored),)),
    Mutation(
        "fresh-unasked", "an id is looked up unless its edge drew it", ((Core, "needs", _always_fresh),), first=32
    ),
    Mutation(
        "fresh-refused",
        "what was accepted is not refused later",
        ((lookups, "_may_refuse", constant(False)),),
        first=426,
    ),
    Mutation(
        "fresh-for-ever",
        "a taken id is answered when it is said again",
        ((Core, "restore", _trusted_at_once),),
        first=14,
    ),
    Mutation("retry-for-ever", "three crashes quarantine a job", ((retry, "decide", _retry_always),)),
    Mutation("lose-for-ever", "too many losses quarantine a job", ((reports, "lose", _lose_freely),), first=11),
    Mutation(
        "excluded-for-ever",
        "a job may run where it crashed when there is no other",
        ((dispatch, "CONDITIONS", lambda _: (dispatch.fits, _never_where_it_crashed)),),
        first=7,
    ),
    Mutation(
        "breaker-open-for-ever",
        "a tripped worker comes back",
        ((worker_breaker, "end", nothing), (worker_breaker, "reconsider", nothing)),
        first=418,
    ),
    Mutation("no-tenant-limit", "a tenant has its share of workers", ((Tenants, "may_start", constant(True)),)),
    Mutation("wrong-worker", "a pinned job runs where it was pinned", ((placement, "fits", constant(True)),)),
    Mutation("silent-steps", "followers of a job are sent its steps", ((StepStreams, "note", nothing),)),
    Mutation(
        "requested-gpus-used",
        "usage counts the GPUs of the worker",
        ((grants, "give", _requested_gpus), (requests, "give", _requested_gpus)),
    ),
    Mutation("silent-watch", "every change is sent to watchers", ((Core, "notify_watchers", constant([])),)),
    Mutation(
        "result-said-once",
        "a result is said until it is acknowledged",
        ((UnackedResults, "due", _said_once), (UnackedResults, "send_all_now", nothing)),
        first=13,
    ),
    Mutation(
        "no-cancel-escalation",
        "an engine that does not obey a cancel is killed",
        ((Attempt, "grace_s", constant(1e9)),),
        first=72,
    ),
    Mutation(
        "no-hang-watch", "an engine that stands still is killed", ((Attempt, "stuck_at", _endless_patience),), first=90
    ),
    Mutation("any-run", "an agent takes a fence once", ((BrokerOrders, "run", _any_run),), first=3040),
    Mutation(
        "no-hello-again", "an agent without an answer registers again", ((Registration, "lapse", constant(False)),)
    ),
)

#: All others.
FURTHER: tuple[Mutation, ...] = (*OVERLAP, *TIMERS, *PARKING)

ALL = (*RULES, *FURTHER)
