"""Rules of the engine that has two jobs or three, broken one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from broker.core import grants
from tests.simulation.hunting import Mutation, constant, nothing
from workers.agent import effects as fx
from workers.agent import engine_slot
from workers.agent.attempt_control import AttemptControl
from workers.agent.attempts import Attempts
from workers.agent.engine_slot import EngineSlot
from workers.agent.registration import Registration
from workers.ipc.shared import SLOTS


def _alone_unsaid(original: Callable[..., Any]) -> Callable[..., Any]:
    def send_grant(core_state: Any, job: Any, worker: Any, now: float) -> None:
        crashes, job.crashes = job.crashes, 0
        original(core_state, job, worker, now)
        job.crashes = crashes

    return send_grant


def _alone_unheard(original: Callable[..., Any]) -> Callable[..., Any]:
    def begin(control: Any, run: Any, *args: Any) -> None:
        original(control, msgspec.structs.replace(run, alone=False), *args)

    return begin


def _blame(*, replaced: bool) -> Callable[[Any], Callable[..., Any]]:
    def build(original: Callable[..., Any]) -> Callable[..., Any]:
        def end_all_killed(engine_slot: Any, how: str, now: float, lost: str) -> None:
            engine_slot._replaced = replaced
            original(engine_slot, how, now, lost)

        return end_all_killed

    return build


def _other_slot(original: Callable[..., Any]) -> Callable[..., Any]:
    def cancel(control: Any, order: Any, now: float) -> Any:
        def elsewhere(effect: fx.Effect) -> None:
            emit(
                fx.RequestCancel((effect.slot + 1) % SLOTS, effect.fence)
                if isinstance(effect, fx.RequestCancel)
                else effect
            )

        emit, control._emit = control._emit, elsewhere
        try:
            return original(control, order, now)
        finally:
            control._emit = emit

    return cancel


def _last_of_all(_: Any) -> Callable[..., Any]:
    return lambda attempts, fence: [*attempts][-1] if attempts else None


def _first_attempt(_: Any) -> property:
    return property(lambda attempts: next(iter(attempts), None))


OVERLAP: tuple[Mutation, ...] = (
    Mutation(
        "alone-unsaid", "a job that crashed before is sent to run alone", ((grants, "send_grant", _alone_unsaid),)
    ),
    Mutation("alone-unheard", "a job that crashed before runs alone", ((AttemptControl, "begin", _alone_unheard),)),
    Mutation(
        "bystander-blamed",
        "who only stood by is not to blame",
        ((EngineSlot, "_end_all_killed", _blame(replaced=False)),),
        first=38,
    ),
    Mutation(
        "crash-handed-back",
        "an attempt that crashed has failed",
        ((EngineSlot, "_end_all_killed", _blame(replaced=True)),),
    ),
    Mutation("other-slot", "a cancel is for the slot of its job", ((AttemptControl, "cancel", _other_slot),)),
    Mutation("wrong-end", "a result ends its own attempt", ((Attempts, "of", _last_of_all),)),
    Mutation(
        "tail-end-frees",
        "the end of a tail leaves the job that is drawn",
        ((Attempts, "denoising", _first_attempt),),
    ),
    Mutation(
        "waiting-counts", "who waits for a tail does not hang", ((Attempts, "waits", constant(False)),), first=280
    ),
    Mutation("room-too-early", "room is said when there is some", ((EngineSlot, "refusal_reason", constant("")),)),
    Mutation("room-unsaid", "room beside a tail is said", ((EngineSlot, "_postprocess_begun", nothing),)),
    Mutation("next-unheard", "room beside the last steps is reported", ((EngineSlot, "_next_requested", nothing),)),
    Mutation(
        "third-refused", "room beside a tail and last steps is said", ((engine_slot, "SLOTS", lambda _: 2),), first=15
    ),
    Mutation(
        "nobody-overtakes",
        "a job denoised before the end of the one before is reported comes first",
        ((Attempts, "_overtake", nothing),),
        first=170,
    ),
    Mutation("room-said-late", "room beside a tail is said at once", ((Registration, "beat_now", nothing),)),
)
