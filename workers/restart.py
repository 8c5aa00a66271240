"""When to start a process again that ended: pure policy, used by the supervisor for agents and by an agent for its engine.

The first restart is immediate: most deaths are one-offs. A process that keeps dying young waits 1, 2, 4, … seconds, at most `LIMIT_S`, so
that a broken one costs nothing and is still tried once a minute. A good life (the caller says what that is) forgets all earlier deaths.
"""

from __future__ import annotations

from msgspec import Struct

#: Longest wait between two starts, in seconds.
LIMIT_S = 60.0


class RestartDecision(Struct, frozen=True):
    """Start again after `delay_s` seconds; `streak` is how many deaths in a row there have been now."""

    delay_s: float
    streak: int


def decide(streak: int, *, healthy: bool, blamed: bool = True) -> RestartDecision:
    """What to do after a death that follows `streak` deaths in a row.

    `healthy`: this life was a good one, so the earlier deaths are forgotten. `blamed`: the process died of its own fault; one that was
    killed for another reason (a cancel that had to be enforced) starts at once and does not lengthen the streak.
    """
    before = 0 if healthy else streak
    if not blamed:
        return RestartDecision(0.0, before)
    if before == 0:
        return RestartDecision(0.0, 1)
    # 2**6 > LIMIT_S: the exponent is capped so that a streak of thousands stays a small number.
    return RestartDecision(min(LIMIT_S, float(2 ** min(before - 1, 6))), before + 1)
