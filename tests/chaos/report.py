"""What a soak found, for people and for machines."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from tests.chaos.checker import KINDS
from tests.chaos.faults import Strike
from tests.chaos.history import Violation

#: Violations told in full; of more of one kind only the number is.
_TOLD = 5


class Recovery(Struct, frozen=True, kw_only=True):
    """Seconds from the end of a fault until the service was whole again, over all faults of one kind."""

    kind: str
    strikes: int
    #: Of those that no other fault overlapped; None when all were.
    median_s: float | None
    max_s: float | None
    #: Faults that the service had not recovered from when the soak ended, or that others overlapped.
    overlapped: int
    never: int


class Calm(Struct, frozen=True, kw_only=True):
    """A process before and after the calm load: a leak would show here."""

    name: str
    descriptors: tuple[int, int]
    rss_mb: tuple[float, float]


class Report(Struct, frozen=True, kw_only=True):
    """Everything that is printed."""

    seed: int
    seconds: float
    disk: bool
    jobs: dict[str, int]
    answers: dict[str, int]
    restarts: dict[str, int]
    recoveries: tuple[Recovery, ...]
    calm: tuple[Calm, ...]
    lost_attempts: int
    violations: tuple[Violation, ...]
    #: Broken promises that are not about one job.
    troubles: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not (self.violations or self.troubles)


def recoveries(strikes: list[Strike]) -> tuple[Recovery, ...]:
    """One line a kind, in the order of their names."""
    lines = []
    for kind in sorted({strike.fault.kind for strike in strikes}):
        of_kind = [strike for strike in strikes if strike.fault.kind == kind]
        times = [strike.recovered - strike.ended for strike in of_kind if strike.recovered and not strike.overlapped]
        lines.append(
            Recovery(
                kind=kind,
                strikes=len(of_kind),
                median_s=round(median(times), 3) if times else None,
                max_s=round(max(times), 3) if times else None,
                overlapped=sum(strike.overlapped for strike in of_kind),
                never=sum(not strike.recovered for strike in of_kind),
            )
        )
    return tuple(lines)


def text_of(report: Report) -> str:
    """The table at the end."""
    found = Counter(violation.kind for violation in report.violations)
    lines = [
        f"chaos: seed {report.seed}, {report.seconds:g} s of faults" + ("" if report.disk else ", disk full left out"),
        "jobs      " + ", ".join(f"{name} {count}" for name, count in report.jobs.items()),
        "answers   " + ", ".join(f"{name} {count}" for name, count in sorted(report.answers.items())),
        "restarts  " + ", ".join(f"{name} {count}" for name, count in report.restarts.items()),
        "verdict   " + ", ".join(f"{kind} {found[kind]}" for kind in KINDS),
        f"leftovers {report.lost_attempts} directories of attempts that lost",
        "",
        f"{'fault':<15}{'times':>6}{'alone':>7}{'recovered after: median':>25}{'max':>9}",
    ]
    for line in report.recoveries:
        alone = line.strikes - line.overlapped
        row = f"{line.kind:<15}{line.strikes:>6}{alone:>7}{_seconds(line.median_s):>25}{_seconds(line.max_s):>9}"
        lines.append(row + (f"   {line.never} not yet at the end" if line.never else ""))
    lines += ["", f"{'process, calm':<15}{'descriptors':>14}{'memory, MB':>20}"]
    for calm in report.calm:
        files, memory = (f"{pair[0]:.4g} > {pair[1]:.4g}" for pair in (calm.descriptors, calm.rss_mb))
        lines.append(f"{calm.name:<15}{files:>14}{memory:>20}")
    return "\n".join([*lines, "", *stories(report)])


def stories(report: Report) -> list[str]:
    """What went wrong, each with its story."""
    if report.passed:
        return ["passed: lost 0, twice 0, stuck 0"]
    lines = [f"FAILED: {text}" for text in report.troubles]
    for kind in KINDS:
        of_kind = [violation for violation in report.violations if violation.kind == kind]
        lines += [f"FAILED: {kind}: job {violation.job_id} {violation.text}" for violation in of_kind[:_TOLD]]
        if len(of_kind) > _TOLD:
            lines.append(f"FAILED: {kind}: {len(of_kind) - _TOLD} more")
    return lines


def json_of(report: Report) -> bytes:
    """The same for machines."""
    body: dict[str, Any] = {**msgspec.to_builtins(report), "passed": report.passed}
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
