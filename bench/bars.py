"""The numbers that docs/architecture.md says to hold, each beside what was measured. A missed bar is said so, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

#: Results of one report by key.
Results = Mapping[str, Any]
#: Results of all reports by bench.
All = Mapping[str, Results]


class Bar(Struct, frozen=True, kw_only=True):
    """One line: what, the target, the figures it is judged by, how they are shown, and what is to be said when it is missed."""

    what: str
    target: str
    bench: str
    keys: tuple[str, ...]
    shown: str
    met: Callable[[Results], bool]
    reason: str
    #: How the figure relates to a ceiling of the same run.
    ceiling: Callable[[Results], str] = lambda results: ""


class Judged(Struct, frozen=True, kw_only=True):
    """A bar's line in words. `met` is None when it was not measured."""

    what: str
    target: str
    measured: str
    ceiling: str
    met: bool | None
    reason: str


def judge(bar: Bar, found: All) -> Judged:
    """Compare one bar with what was measured."""
    results = found.get(bar.bench, {})
    if any(results.get(key) is None for key in bar.keys):
        return Judged(what=bar.what, target=bar.target, measured="not measured", ceiling="", met=None, reason="")
    met = bar.met(results)
    return Judged(
        what=bar.what,
        target=bar.target,
        measured=bar.shown.format(**results),
        ceiling=bar.ceiling(results),
        met=met,
        reason="" if met else bar.reason,
    )


def _latency_met(results: Results) -> bool:
    bound = max(3.0, 6 * float(results["fdatasync_p50_ms"]))
    return bool(results["submit_start_p50_ms"] <= 0.5 and results["submit_start_p99_ms"] <= bound)


def _router_ratio(results: Results) -> str:
    cpu_us = results.get("router_cpu_us")
    return f"{results['cpu_us_per_job'] / cpu_us:.1f} x a bare ROUTER echo's processor time" if cpu_us else ""


def _peer_ratios(results: Results) -> dict[str, float]:
    return {
        key.removesuffix("_ratio").replace("_", " "): float(value)
        for key, value in results.items()
        if key.endswith("_ratio") and value is not None
    }


_BUSY = "wall-clock rates fall with whatever else runs on the machine: read them beside its load and the flush of the moment"

BARS = (
    Bar(
        what="durable no-op jobs, window 256, one core",
        target="≥ 20,000 jobs/s on a quiet machine, ≤ 60 µs CPU a job",
        bench="broker",
        keys=("jobs_per_s", "cpu_us_per_job"),
        shown="{jobs_per_s:,.0f} jobs/s, {cpu_us_per_job:.0f} µs",
        met=lambda r: r["jobs_per_s"] >= 20_000 and r["cpu_us_per_job"] <= 60,
        reason=f"see where the time goes below; {_BUSY}",
        ceiling=_router_ratio,
    ),
    Bar(
        what="submit → start, one outstanding, fsynced",
        target="p50 ≤ 0.5 ms, p99 ≤ 3 ms or 6 × fdatasync",
        bench="broker",
        keys=("submit_start_p50_ms", "submit_start_p99_ms", "fdatasync_p50_ms", "fdatasync_p99_ms"),
        shown="p50 {submit_start_p50_ms:.2f} ms, p99 {submit_start_p99_ms:.2f} ms"
        " (one flush: {fdatasync_p50_ms:.2f} / {fdatasync_p99_ms:.2f} ms)",
        met=_latency_met,
        reason="most of it is the commit before the answer, and so this disk's flush",
        ceiling=lambda r: f"p50 is {r['submit_start_p50_ms'] / r['fdatasync_p50_ms']:.1f} x one flush",
    ),
    Bar(
        what="GPU idle between two queued jobs; decode and save overlap the next job",
        target="≤ 1 ms of broker time; tail overlapped",
        bench="engine",
        keys=("gap_p50_ms", "hidden_pct"),
        shown="{gap_p50_ms:.2f} ms; {hidden_pct:.0f} % of decoding and saving hidden",
        met=lambda r: r["gap_p50_ms"] <= 1.0 and r["hidden_pct"] > 0,
        reason="the gap holds the commit of the result and the hand-over between engine and agent; on a CPU nothing can be hidden,"
        " all phases share its cores",
    ),
    Bar(
        what="cancel → worker free",
        target="p99 ≤ one denoising step + 50 ms",
        bench="cancel",
        keys=("short_steps_p99_ms", "short_steps_bar_ms", "long_steps_p99_ms", "long_steps_bar_ms"),
        shown="{short_steps_p99_ms:.0f} ms of {short_steps_bar_ms:.0f} (short steps), {long_steps_p99_ms:.0f} ms of"
        " {long_steps_bar_ms:.0f} (long steps)",
        met=lambda r: (
            r["short_steps_p99_ms"] <= r["short_steps_bar_ms"] and r["long_steps_p99_ms"] <= r["long_steps_bar_ms"]
        ),
        reason="a cancel is heard at the next block; the rest is the commits and a busy machine's scheduling",
    ),
    Bar(
        what="pool makespan on mixed lengths, 8 workers",
        target="≤ 1.05 × max(total/8, longest job)",
        bench="pool",
        keys=("makespan_ours", "makespan_ours_more"),
        shown="{makespan_ours:.3f} × with 1,000 jobs (worst draw), {makespan_ours_more:.3f} × with 5,000",
        met=lambda r: r["makespan_ours"] <= 1.05,
        reason="short jobs go first, which is what keeps waits low, so the longest ones are left for the end of a batch; with more jobs"
        " in it the same tail weighs less",
    ),
    Bar(
        what="broker `kill -9` with 10,000 queued",
        target="serving again ≤ 2 s, 0 lost, 0 published twice",
        bench="recover",
        keys=("queue_queued", "queue_serving_s", "queue_lost", "queue_published_twice"),
        shown="{queue_serving_s:.2f} s with {queue_queued:,} queued, {queue_lost} lost, {queue_published_twice} published twice",
        met=lambda r: r["queue_serving_s"] <= 2 and not r["queue_lost"] and not r["queue_published_twice"],
        reason="starting Python and reading the journal back are all of it",
    ),
    Bar(
        what="1,000 workers, 100,000 queued",
        target="≤ 500 MB, ≤ 1 core, dispatch p99 ≤ 10 ms",
        bench="scale",
        keys=("queued", "workers_joined", "queued_mb", "working_cores", "dispatch_p99_ms"),
        shown="{queued_mb:.0f} MB, {working_cores:.2f} cores, {dispatch_p99_ms:.1f} ms ({workers_joined:,} workers, {queued:,} queued)",
        met=lambda r: r["queued_mb"] <= 500 and r["working_cores"] <= 1 and r["dispatch_p99_ms"] <= 10,
        reason="a dispatch waits for the commit of the result before it; on a slow disk that is most of it, and the driver of all workers"
        " is one Python thread",
    ),
    Bar(
        what="service over a bare diffusers loop, same prompts",
        target="≥ 1.0 × its throughput",
        bench="engine",
        keys=("ratio", "service_per_s", "bare_per_s"),
        shown="{ratio:.2f} × ({service_per_s:.2f} over {bare_per_s:.2f} clips/s)",
        met=lambda r: r["ratio"] >= 1.0,
        reason="hooks that make a cancel heard inside a block, hashing and flushing of files, and three more processes on the same"
        " cores weigh most on a model this small",
    ),
    Bar(
        what="status reads over HTTP, one edge process, 16 connections",
        target="≥ 12,000/s (a bare Starlette route: 36,700/s)",
        bench="http",
        keys=("status_per_s", "bare_per_s", "status_ratio"),
        shown="{status_per_s:,.0f}/s",
        met=lambda r: r["status_per_s"] >= 12_000,
        reason=f"judge it by the ratio to the bare route of the same seconds; {_BUSY}",
        ceiling=lambda r: f"{r['status_ratio']:.2f} x a bare Starlette route ({r['bare_per_s']:,.0f}/s)",
    ),
    Bar(
        what="beside other queues, same recipe, same machine",
        target="≥ 3 × the fastest",
        bench="peers",
        keys=("zoetrope_durable_per_s",),
        shown="{zoetrope_durable_per_s:,.0f} jobs/s with four workers of credit 1",
        met=lambda r: bool(_peer_ratios(r)) and min(_peer_ratios(r).values()) >= 3,
        reason="a queue that acknowledges before it flushes does not wait for the disk; compare the durable modes with each other",
        ceiling=lambda r: "; ".join(f"{ratio:.1f} x {name}" for name, ratio in _peer_ratios(r).items()),
    ),
)


def table(found: All) -> str:
    """Markdown: every bar on a line, then the reasons of those missed."""
    lines = ["| bar | target | measured | beside its ceiling or peers | |", "|---|---|---|---|---|"]
    reasons = []
    for bar in BARS:
        judged = judge(bar, found)
        verdict = {True: "met", False: "**missed**", None: "–"}[judged.met]
        lines.append(f"| {judged.what} | {judged.target} | {judged.measured} | {judged.ceiling or '–'} | {verdict} |")
        if judged.reason:
            reasons.append(f"- {judged.what}: {judged.reason}.")
    if reasons:
        lines += ["", "Missed, and why:", "", *reasons]
    return "\n".join(lines)
