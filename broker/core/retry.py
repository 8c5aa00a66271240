"""The choice that follows a failed attempt, by class of failure.

The classes and their rules are declared in `wire.failures`. After `max_crashes` crashes the job is quarantined, whatever its class would
allow. A lost worker or link is no failure of an attempt: see `reports.lose`.
"""

from __future__ import annotations

from msgspec import Struct

from broker.wire.failures import FailureKind
from broker.wire.jobspec import Profile

#: Seconds before the next attempt, by number of failures so far.
BACK_OFF_S = (1.0, 5.0, 25.0)

#: Part of the delay that is spread, so that jobs which failed together do not return together.
JITTER = 0.2

#: Failures of a job that were no crashes, after which it has failed.
MAX_ERRORS = 2


class RetryDecision(Struct, frozen=True):
    """Try again after `delay_s`, with this profile, on another worker than `avoid` if there is one."""

    delay_s: float
    profile: Profile = "normal"
    avoid: str = ""


class GiveUp(Struct, frozen=True):
    """Fail the job, for this reason."""

    kind: FailureKind
    message: str


class Tries(Struct, frozen=True, kw_only=True):
    """Failures of a job by count, the one at hand included."""

    crashes: int
    errors: int
    profile: Profile


def decide(
    kind: FailureKind, message: str, tries: Tries, worker: str, spread: float, max_crashes: int
) -> RetryDecision | GiveUp:
    """Choose. `spread` in [0, 1) places the delay within its jitter; any number that differs between jobs."""
    rules = kind.rules
    if rules.crash and tries.crashes >= max_crashes:
        text = f"{tries.crashes} attempts ended the engine; the last: {kind}: {message}"
        return GiveUp(FailureKind.QUARANTINED, text)
    delay_s = _delay(tries.crashes if rules.crash else tries.errors, spread)
    if rules.retry == "offload" and tries.profile != "offload":
        return RetryDecision(delay_s, profile="offload")
    if rules.retry == "elsewhere" and (rules.crash or tries.errors < MAX_ERRORS):
        return RetryDecision(delay_s, profile=tries.profile, avoid=worker)
    return GiveUp(kind, message)


def _delay(failures: int, spread: float) -> float:
    base = BACK_OFF_S[min(max(failures, 1), len(BACK_OFF_S)) - 1]
    return base * (1.0 + JITTER * spread)
