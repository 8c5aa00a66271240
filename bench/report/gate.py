"""Gate of changes: counts against `baseline.json`, each with the growth that is allowed.

A count that grew by more than its tolerance is a regression; one that shrank by more needs a new baseline, so that what was won is
kept. Counts of calls depend on Python's own version, so they are compared under the one that the baseline was taken with.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

BASELINE = Path(__file__).with_name("baseline.json")
HOW_TO_UPDATE = (
    "If the change is meant to cost this, or to save it, run `make bench-baseline`, commit bench/report/baseline.json"
    " and say in the commit what the difference buys."
)
#: Share by which a count may differ from its baseline; the others must be what they were.
TOLERANCE = {"calls": 0.03, "ratio": 0.05, "wire_bytes": 0.03}
#: Blocks and objects left behind by a job: what is below this is noise, what is above it is a leak.
LEAK = 0.5


class Baseline(Struct, frozen=True, kw_only=True):
    """The file."""

    #: Version of Python whose calls were counted, such as "3.11".
    python: str
    counts: dict[str, float]


def read(path: Path = BASELINE) -> Baseline:
    """The baseline in force. Raises `OSError` or `msgspec.MsgspecError`."""
    return msgspec.json.decode(path.read_bytes(), type=Baseline)


def write(counts: Mapping[str, float], path: Path = BASELINE) -> None:
    """Make these counts the baseline. Raises `OSError`."""
    baseline = Baseline(python=this_python(), counts=dict(sorted(counts.items())))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n")


def this_python() -> str:
    """Major and minor version."""
    return ".".join(platform.python_version_tuple()[:2])


def findings(counts: Mapping[str, float], baseline: Baseline, python: str) -> list[str]:
    """Return a sentence for each count that has changed; those that depend on another Python are left out."""
    found = []
    for name, value in counts.items():
        kind = name.rsplit(".", 1)[-1]
        if kind in ("blocks", "tracked"):
            if value > LEAK:
                found.append(f"{name}: each job leaves {value:g} behind, which is a leak")
            continue
        if kind in ("calls", "ratio") and python != baseline.python:
            continue
        known = baseline.counts.get(name)
        if known is None:
            found.append(f"{name} is {value:g} and has no baseline yet")
        elif abs(value - known) > TOLERANCE.get(kind, 0.0) * known + 1e-9:
            direction = "grew" if value > known else "shrank"
            found.append(f"{name} {direction} from {known:g} to {value:g}")
    return found
