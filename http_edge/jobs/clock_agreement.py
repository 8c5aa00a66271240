"""Agreement of clocks, which deletion by age needs: whether they agree, and by how much a file may look older than it is.

A job's age is the broker's to judge, on a timeline that cannot be set (`broker.shell.clock`). Files bear times of the wall clock. Where it
was set forwards, those of before look older than they are by the step, so that much is taken off until they are that old indeed.
"""

from __future__ import annotations

from broker.wire.messages import PoolView

#: Clocks further apart than this do not agree, seconds.
APART_S = 60.0


def doubt(pool: PoolView, now: float) -> str:
    """Return the reason why the clocks cannot be trusted at `now`, this process's wall clock, in a sentence; "" when they can."""
    if not pool.now:
        return "the broker does not send its time: it is of an older version"
    apart = now - pool.now
    if abs(apart) > APART_S:
        where = "ahead of" if apart > 0 else "behind"
        return f"this clock is {abs(apart):.0f} s {where} the broker's: nothing is deleted for its age until they agree"
    if pool.settling_s:
        return f"the clock was set, or the machine started: nothing is deleted for its age for {pool.settling_s:.0f} s"
    return ""


def slack_s(pool: PoolView, max_age_s: float) -> float:
    """By how much a file may be younger than by its time, when checked to be `max_age_s` old."""
    # A file was written before all steps, or between two, or after the last: the steps behind it count, forwards and back.
    slack = most = 0.0
    for step in reversed(pool.clock_steps):
        if step.age_s > max_age_s:
            break
        slack += step.by_s
        most = max(most, slack)
    return most
