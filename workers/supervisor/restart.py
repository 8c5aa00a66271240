"""Restart policy for a process that ended: pure, used by the supervisor for agents and by an agent for its engine.

The first restart is immediate: most deaths are one-offs. A process that keeps dying young waits 1, 2, 4, … seconds, at most `LIMIT_S`, so
that a broken one costs nothing and is still tried once a minute. A good life (as the caller defines it) clears all earlier deaths.

An engine in which job after job runs out of memory may have lost some, or the jobs are too large for any engine. Which it is shows only
afterwards, so the first replacement is immediate here too, and a later one waits until the engine has served a multiple of its load time.
"""

from __future__ import annotations

from msgspec import Struct

#: Longest wait between two starts, in seconds.
LIMIT_S = 60.0


#: Jobs in a row that run out of memory before an engine may have lost some.
_LEAKS = 2
#: Load times that an engine must have served before it is replaced for that again, doubled at most so often while no job is finished.
_SERVED = 10
_DOUBLINGS = 3


class RestartDecision(Struct, frozen=True):
    """Start again after `delay_s` seconds; `streak` is how many deaths in a row there have been now."""

    delay_s: float
    streak: int


def decide(streak: int, *, healthy: bool, blamed: bool = True) -> RestartDecision:
    """Decide on the restart after a death that follows `streak` deaths in a row.

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


class MemoryDecision(Struct, frozen=True):
    """Whether to replace the engine; `streak` is how many replacements for memory in a row there have been then."""

    replace: bool
    streak: int


def decide_memory(streak: int, *, jobs: int, finished: bool, served_s: float, load_s: float) -> MemoryDecision:
    """Whether to replace an engine in which the last `jobs` jobs ran out of memory, after `streak` such replacements in a row.

    The engine took `load_s` seconds to load and has been ready for `served_s`. `finished`: it has finished a job since it loaded.
    """
    if finished and served_s >= _SERVED * load_s:
        streak = 0
    wait_s = _SERVED * load_s * 2 ** min(streak - 1, _DOUBLINGS) if streak else 0.0
    if jobs < _LEAKS or served_s < wait_s:
        return MemoryDecision(False, streak)
    return MemoryDecision(True, streak + 1)
