"""Rules of parking, checkpoints and promises, broken one at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from broker.core import parking, preempting, promised, reports, state
from broker.core.jobs import Cause, Job
from broker.core.scheduling import preemption
from broker.core.state import State
from tests.simulation.hunting import Mutation, constant, nothing
from workers.agent.parked import ParkedAttempts


def _queued_all_the_same(_: Any) -> Callable[..., Any]:
    def pause(core_state: Any, job: Any, now: float) -> None:
        if job.id not in core_state.queue:
            core_state.enqueue(job)

    return pause


def _for_free(_: Any) -> Callable[..., Any]:
    def kept_nothing(core_state: Any, job: Any, now: float, why: str = "") -> None:
        core_state.give_back(job, Cause.RETURNED, now)
        job.park = ""

    return kept_nothing


def _for_ever(wish_park: Any) -> Callable[..., Any]:
    def wish(job: Any, reason: str) -> None:
        if reason or job.park != "preempt":
            wish_park(job, reason)

    return wish


def _since_the_first(original: Any) -> Callable[..., Any]:
    def begin_attempt(job: Any, now: float) -> None:
        began = job.started_at
        original(job, now)
        job.started_at = began or now

    return begin_attempt


# ---------------------------------------------------------------- checkpoints, promises


def _any_attempt_keeps(original: Any) -> Callable[..., Any]:
    def reconcile_held(core_state: Any, worker: Any, held: Any, now: float) -> None:
        held = [*held]
        for item in held:
            job = core_state.jobs.get(item.job_id)
            if job is not None and not job.final and item.kept and item.kept != job.kept:
                job.kept = item.kept
                core_state.note_change(job)
        original(core_state, worker, held, now)

    return reconcile_held


def _at_once(_: Any) -> Callable[..., Any]:
    def add(parked: Any, attempt: Any, kept: int, now: float) -> None:
        attempt.kept = kept
        parked._attempts.hand_back(attempt, "parked", now)

    return add


def _as_it_comes(_: Any) -> Callable[..., Any]:
    return lambda core_state, choice, now: choice


PARKING: tuple[Mutation, ...] = (
    Mutation(
        "older-checkpoint",
        "only the current attempt says what is kept",
        ((reports, "reconcile_held", _any_attempt_keeps),),
        first=130,
    ),
    Mutation(
        "handed-back-early",
        "a parked job is handed back when its checkpoint is in the depot",
        ((ParkedAttempts, "add", _at_once),),
        first=31,
    ),
    Mutation("parked-for-ever", "a parked job is handed back", ((ParkedAttempts, "put", nothing),), first=31),
    Mutation("parked-time-counted", "time parked is no run time", ((Job, "begin_attempt", _since_the_first),)),
    Mutation(
        "ping-pong",
        "a job makes room so often, so long and after so long at most",
        ((preemption, "may_wait", constant(True)),),
        first=40,
    ),
    Mutation(
        "never-rests",
        "a job that has just made room runs for a while",
        ((preemption, "rests_s", constant(0.0)),),
        first=240,
    ),
    Mutation(
        "delay-unbounded",
        "a job is delayed by a share of its own time at most",
        ((preemption, "delay_left_s", constant(inf)),),
        first=20,
    ),
    Mutation(
        "reserve-spent",
        "part of the delay that a job may have is left to jobs that are small beside it",
        ((preemption, "reserve_s", constant(0.0)),),
        first=280,
    ),
    Mutation(
        "promise-ignored",
        "no job goes before a promised one that it makes late",
        ((promised, "guarded", _as_it_comes),),
        first=110,
    ),
    Mutation(
        "promise-unrescued",
        "a running job makes room for a promised one that would be late",
        ((preempting, "_in_danger", constant(())),),
        first=6660,
    ),
    Mutation("paused-queued", "what is paused is in no queue", ((State, "pause", _queued_all_the_same),)),
    Mutation("pause-untold", "a pause takes a job out of its engine", ((State, "send_park", nothing),), first=209),
    Mutation(
        "pause-lazy",
        "a pause is durable",
        ((state, "LAZY", lambda lazy: lazy | {Cause.PAUSED, Cause.PARK_REQUESTED}),),
    ),
    Mutation("pause-is-loss", "what was to be handed back is not lost", ((parking, "expected_back", constant(False)),)),
    Mutation("pause-forgotten", "a paused job waits for its client", ((parking, "handed_back", _for_free),)),
    Mutation(
        "park-for-ever", "a job that has made room gets no second request", ((Job, "wish_park", _for_ever),), first=50
    ),
    Mutation("draft-for-ever", "an uncommitted draft expires", ((parking, "expire_draft", nothing),)),
)
