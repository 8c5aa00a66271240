"""Invariants of an agent's core between any two events. Checked after each step in tests."""

from __future__ import annotations

from workers.agent.core import AgentCore
from workers.agent.errors import AgentError
from workers.ipc.shared import SLOTS


class InvariantBroken(AgentError):
    """The agent's state contradicts itself."""


def check(core: AgentCore) -> None:
    """Raises `InvariantBroken`, naming the rule."""
    engine_slot, unacked_results = core.engine_slot, core.unacked_results
    attempts, state = list(engine_slot.attempts), engine_slot.engine.life.state
    denoising = [attempt for attempt in attempts if not attempt.postprocessing]
    waiting = unacked_results.fences()
    parked = engine_slot.parked.fences()
    held = [*(attempt.fence for attempt in attempts), *parked, *waiting]
    rules = {
        "a busy engine draws a job": bool(denoising) or state != "busy",
        # It takes another while it draws one, if it requested that.
        "only a busy or stopping engine draws a job": not denoising
        or state in ("busy", "stopping")
        or denoising[-1].next_requested,
        "an engine without a process has no job": not attempts or engine_slot.engine.life.alive,
        "one job is drawn, and behind it one that it asked for": len(denoising) <= 2
        and denoising == attempts[len(attempts) - len(denoising) :]
        and all(attempt.next_requested for attempt in denoising[:-1]),
        "there are no more jobs than slots": len(attempts) <= SLOTS,
        "every job has a slot of its own": len({attempt.slot for attempt in attempts}) == len(attempts),
        "a job that must be alone has nobody after it": not any(attempt.alone for attempt in attempts[:-1]),
        "an engine that is killed for its job is stopping": all(attempt.ending is None for attempt in attempts)
        or state == "stopping",
        "free means that a job would be taken": core.capacity.free == 0
        or (
            state == "idle"
            and all(attempt.next_requested for attempt in denoising)
            and not core.capacity.hands_back
            and core.leaving is None
        ),
        "no attempt is two of running, parked and done": len(set(held)) == len(held),
        "every fence held has been seen": all(fence <= core.orders.seen for fence in held),
        "everything held fits into a heartbeat": len(held) <= core.policy.max_unacknowledged + SLOTS,
        "a model is in memory only while there is an engine": not engine_slot.engine.model
        or engine_slot.engine.life.alive,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise InvariantBroken(f"broken: {'; '.join(broken)} (engine {state}, held {held})")
