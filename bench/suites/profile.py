"""Profile of the broker's processor time: no-op jobs through core, journal and codec in one process."""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from bench.suites.footprint import Line

_JOBS = 2_000
_ROWS = 12


def hot_spots(jobs: int = _JOBS) -> str:
    """Markdown: the functions with most time of their own, and their share."""
    # Processor time: waiting for the disk is not what is looked for.
    profile = cProfile.Profile(time.process_time)
    with tempfile.TemporaryDirectory() as directory:
        line = Line(Path(directory), watched=True)
        line.run(line.jobs(100))
        counted = line.jobs(jobs)
        profile.enable()
        line.run(counted)
        profile.disable()
        line.close()
    return table(pstats.Stats(profile), jobs)


def table(stats: pstats.Stats, jobs: int) -> str:
    """The rows of a profile that was taken of so many jobs."""
    entries = stats.stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in entries.values())
    rows = sorted(entries.items(), key=lambda entry: entry[1][2], reverse=True)[:_ROWS]
    lines = ["| function | calls a job | share of the time |", "|---|---|---|"]
    for (file, _, name), (_, calls, own, _, _) in rows:
        where = f"{_short(file)}: {name}" if file not in ("~", "") else name
        lines.append(f"| `{where}` | {calls / jobs:.1f} | {own / total * 100:.0f} % |")
    return "\n".join(lines)


def _short(file: str) -> str:
    """A source file from its package on."""
    parts = Path(file).parts
    starts = [number for number, part in enumerate(parts) if part in ("broker", "bench")]
    return "/".join(parts[starts[-1] :] if starts else parts[-2:])
