"""What follows a failed attempt: a pure choice by class of failure.

| failure | rule |
|---|---|
| invalid input | never again: it would fail the same way |
| out of memory | once more, with the offload profile; then it has failed |
| engine crashed, hung | again, another worker first; after `max_crashes` of them the job is quarantined |
| engine error (an exception in the pipeline) | once more; then it has failed |
| worker or link lost | at once and free, up to `max_losses`; not the job's fault until it keeps happening |

Out of memory counts as a crash too: a job that keeps running engines over is dangerous in the same way.
"""

from __future__ import annotations

from msgspec import Struct

from broker.core.jobs import Profile
from broker.wire.messages import FailureKind

#: Seconds before the next attempt, by number of failures so far.
BACK_OFF_S = (1.0, 5.0, 25.0)

#: Part of the delay that is spread, so that jobs which failed together do not return together.
JITTER = 0.2

MAX_ENGINE_ERRORS = 2


class RetryDecision(Struct, frozen=True):
    """Try again after `delay_s`, with this profile, on another worker than `avoid` if there is one."""

    delay_s: float
    profile: Profile = "normal"
    avoid: str = ""


class GiveUp(Struct, frozen=True):
    """The job has failed, for this reason."""

    kind: FailureKind
    message: str


class Tries(Struct, frozen=True, kw_only=True):
    """What a job has been through, the failure at hand counted in."""

    crashes: int
    errors: int
    profile: Profile


def decide(
    kind: FailureKind, message: str, tries: Tries, worker: str, spread: float, max_crashes: int
) -> RetryDecision | GiveUp:
    """Choose. `spread` in [0, 1) places the delay within its jitter; the caller takes it from what it likes."""
    if kind in ("engine_crashed", "hung", "out_of_memory") and tries.crashes >= max_crashes:
        return GiveUp("quarantined", f"{tries.crashes} attempts ended the engine; the last: {kind}: {message}")
    if kind in ("engine_crashed", "hung"):
        return RetryDecision(_delay(tries.crashes, spread), profile=tries.profile, avoid=worker)
    if kind == "out_of_memory" and tries.profile != "offload":
        return RetryDecision(_delay(tries.crashes, spread), profile="offload")
    if kind == "engine_error" and tries.errors < MAX_ENGINE_ERRORS:
        return RetryDecision(_delay(tries.errors, spread), profile=tries.profile, avoid=worker)
    return GiveUp(kind, message)


def _delay(failures: int, spread: float) -> float:
    base = BACK_OFF_S[min(max(failures, 1), len(BACK_OFF_S)) - 1]
    return base * (1.0 + JITTER * spread)
