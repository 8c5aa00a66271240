"""The ranges of numbers that workers and clients report, and of those estimated from them; clamped where they enter.

The types of messages bound what crosses a socket, and refuse what lies outside. Here are the numbers that must not cost a job its result:
a worker that measures nonsense has drawn a film all the same.

| number | range | |
|---|---|---|
| run time of an attempt, seconds of a stage, predicted run time | 0 to `MAX_RUN_S` | |
| predicted wait, backlog and end | 0 to `MAX_WAIT_S` | -1: not known |
| memory | 0 to `MAX_MEMORY_MB` | |
| frames per second, seconds of sound | 0 to `MAX_GAUGE` | |
| utilisation, temperature, power (W), clocks (MHz) | -1 (not known) to `MAX_GAUGE` | |
| memory errors | -1 (not known) to `MAX_ERRORS` | |
| error of predictions, as a share | 0 to `MAX_ERROR` | |
"""

from __future__ import annotations

from msgspec.structs import replace

from broker.wire.jobspec import Result
from broker.wire.messages import DeviceHealth, Heartbeat

MAX_RUN_S = 7 * 86_400.0
MAX_WAIT_S = 1e9
MAX_MEMORY_MB = 1e9
MAX_GAUGE = 1e4
MAX_ERROR = 100.0
#: Errors of a memory that are counted.
MAX_ERRORS = 10**9

_MAX_STAGES = 32
_MAX_STAGE_NAME = 64


def clamp(value: float, low: float, high: float) -> float:
    """`value` within the range; `low` for what is no number."""
    if value >= low:
        return value if value <= high else high
    return low


def run_s(value: float) -> float:
    """Seconds that something ran, or will by prediction."""
    return value if 0.0 <= value <= MAX_RUN_S else clamp(value, 0.0, MAX_RUN_S)


def wait_s(value: float) -> float:
    """Seconds that something is predicted to wait."""
    return value if 0.0 <= value <= MAX_WAIT_S else clamp(value, 0.0, MAX_WAIT_S)


def heartbeat(report: Heartbeat) -> Heartbeat:
    """The heartbeat with its measurements in range; itself when they are."""
    used, total = report.memory_used_mb, report.memory_total_mb
    if (
        0.0 <= used <= MAX_MEMORY_MB
        and 0.0 <= total <= MAX_MEMORY_MB
        and -1.0 <= report.utilisation <= MAX_GAUGE
        and -1.0 <= report.temperature_c <= MAX_GAUGE
        and _health(report.health) is report.health
    ):
        return report
    return replace(
        report,
        health=_health(report.health),
        memory_used_mb=clamp(used, 0.0, MAX_MEMORY_MB),
        memory_total_mb=clamp(total, 0.0, MAX_MEMORY_MB),
        utilisation=clamp(report.utilisation, -1.0, MAX_GAUGE),
        temperature_c=clamp(report.temperature_c, -1.0, MAX_GAUGE),
    )


def _health(report: DeviceHealth) -> DeviceHealth:
    measured = (report.power_w, report.power_limit_w, report.clock_mhz, report.clock_max_mhz)
    if all(-1.0 <= value <= MAX_GAUGE for value in measured) and report.ecc_uncorrected <= MAX_ERRORS:
        return report
    power_w, power_limit_w, clock_mhz, clock_max_mhz = (clamp(value, -1.0, MAX_GAUGE) for value in measured)
    return replace(
        report,
        power_w=power_w,
        power_limit_w=power_limit_w,
        clock_mhz=clock_mhz,
        clock_max_mhz=clock_max_mhz,
        ecc_uncorrected=min(report.ecc_uncorrected, MAX_ERRORS),
    )


def result(report: Result) -> Result:
    """The result with its measurements in range; itself when they are."""
    stages = report.stage_durations
    sound = 0.0 <= report.peak_memory_mb <= MAX_MEMORY_MB and len(stages) <= _MAX_STAGES
    # Plain loops: this is done for every job.
    for name, seconds in stages.items():
        sound = sound and len(name) <= _MAX_STAGE_NAME and 0.0 <= seconds <= MAX_RUN_S
    for artefact in report.artefacts:
        sound = sound and 0.0 <= artefact.fps <= MAX_GAUGE and 0.0 <= artefact.sound_s <= MAX_GAUGE
    if sound:
        return report
    kept = [(name, run_s(stages[name])) for name in stages if len(name) <= _MAX_STAGE_NAME]
    return replace(
        report,
        stage_durations=dict(kept[:_MAX_STAGES]),
        peak_memory_mb=clamp(report.peak_memory_mb, 0.0, MAX_MEMORY_MB),
        artefacts=tuple(
            replace(artefact, fps=clamp(artefact.fps, 0.0, MAX_GAUGE), sound_s=clamp(artefact.sound_s, 0.0, MAX_GAUGE))
            for artefact in report.artefacts
        ),
    )
