"""What must hold of an agent's core between any two events. Run after each step in tests."""

from __future__ import annotations

from workers.agent.core import AgentCore
from workers.agent.errors import AgentError


class InvariantBroken(AgentError):
    """The agent's state contradicts itself."""


def check(core: AgentCore) -> None:
    """Raises `InvariantBroken`, naming the rule."""
    slot, outbox = core.slot, core.outbox
    attempt, state = slot.attempt, slot.engine.state
    waiting = outbox.fences()
    rules = {
        "a busy engine has a job": attempt is not None or state != "busy",
        "only a busy or stopping engine has a job": attempt is None or state in ("busy", "stopping"),
        "an engine that is killed for its job is stopping": attempt is None
        or attempt.ending is None
        or state == "stopping",
        "free means that a job would be taken": core.free == 0
        or (state == "idle" and attempt is None and not core.draining and core.leaving is None),
        "no attempt is running and done": attempt is None or attempt.fence not in waiting,
        "every fence held has been seen": all(item.fence <= core.seen for item in core.held()),
        "everything held fits into a heartbeat": len(core.held()) <= core.policy.max_unacknowledged + 1,
        "a model is in memory only while there is an engine": not slot.model or slot.engine.alive,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise InvariantBroken(f"broken: {'; '.join(broken)} (engine {state}, held {core.held()})")
