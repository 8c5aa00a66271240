"""Rules of parking, broken one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.core import parking, state
from broker.core.jobs import Cause, Job
from broker.core.state import State
from tests.simulation.hunting import Mutation, constant, nothing


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


PARKING: tuple[Mutation, ...] = (
    Mutation("paused-queued", "what is paused is in no queue", ((State, "pause", _queued_all_the_same),)),
    Mutation("pause-untold", "a pause takes a job out of its engine", ((State, "tell_park", nothing),), first=180),
    Mutation(
        "pause-lazy",
        "a pause is durable",
        ((state, "LAZY", lambda lazy: lazy | {Cause.PAUSED, Cause.PARK_REQUESTED}),),
    ),
    Mutation("pause-is-loss", "what was to be handed back is not lost", ((parking, "expected_back", constant(False)),)),
    Mutation("pause-forgotten", "a paused job waits for its client", ((parking, "handed_back", _for_free),)),
    Mutation("park-for-ever", "who has made room is told so no more", ((Job, "wish_park", _for_ever),), first=50),
    Mutation("draft-for-ever", "a draft that nobody commits expires", ((parking, "expire_draft", nothing),)),
)
