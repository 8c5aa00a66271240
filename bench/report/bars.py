"""The numbers to hold of docs/architecture.md, each beside what was measured. Nothing is explained here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

#: Results of one report by key.
Results = Mapping[str, Any]
#: Results of all reports by bench.
All = Mapping[str, Results]


class Bar(Struct, frozen=True, kw_only=True):
    """Bar: its subject, the target, the figures that it is judged by, and their form."""

    what: str
    target: str
    bench: str
    keys: tuple[str, ...]
    shown: str
    met: Callable[[Results], bool]
    #: How the figure relates to a ceiling of the same run.
    ceiling: Callable[[Results], str] = lambda results: ""


class Judged(Struct, frozen=True, kw_only=True):
    """A bar's line in words. `met` is None when it was not measured."""

    what: str
    target: str
    measured: str
    ceiling: str
    met: bool | None


def judge(bar: Bar, found: All) -> Judged:
    """Compare one bar with what was measured."""
    results = found.get(bar.bench, {})
    if any(results.get(key) is None for key in bar.keys):
        return Judged(what=bar.what, target=bar.target, measured="not measured", ceiling="", met=None)
    met = bar.met(results)
    return Judged(
        what=bar.what,
        target=bar.target,
        measured=bar.shown.format(**results),
        ceiling=bar.ceiling(results),
        met=met,
    )


def _peer_ratios(results: Results) -> str:
    durable = results.get("fastest_durable_ratio")
    like = (
        f"{durable:.1f} x the fastest of like durability ({results['fastest_durable']})"
        if durable
        else "none of like durability was measured"
    )
    pairs = ((key.removesuffix("_ratio"), value) for key, value in results.items() if key.endswith("_ratio"))
    each = [
        f"{value:.1f} x {name.replace('_', ' ')}"
        for name, value in pairs
        if value and not name.startswith("fastest") and not name.endswith("_start")
    ]
    return "; ".join([like, *each])


BARS = (
    Bar(
        what="broker's processor time for a durable no-op job, window 256",
        target="≤ 5.5 × a bare ROUTER echo of the same repeat",
        bench="broker",
        keys=("echo_ratio", "cpu_us_per_job", "jobs_per_s"),
        shown="{echo_ratio:.1f} ×: {cpu_us_per_job:.0f} µs a job, {jobs_per_s:,.0f} jobs/s",
        met=lambda r: r["echo_ratio"] <= 5.5,
    ),
    Bar(
        what="the same with one watcher of all jobs, which every edge is",
        target="≤ 15 µs more",
        bench="broker",
        keys=("watcher_us",),
        shown="{watcher_us:.1f} µs more",
        met=lambda r: r["watcher_us"] <= 15,
    ),
    Bar(
        what="submit → start, one outstanding, fsynced",
        target="p50 ≤ one flush + 0.24 ms",
        bench="broker",
        keys=("submit_start_p50_ms", "submit_start_p99_ms", "fdatasync_p50_ms", "fdatasync_p99_ms"),
        shown="p50 {submit_start_p50_ms:.2f} ms, p99 {submit_start_p99_ms:.2f} ms"
        " (one flush: {fdatasync_p50_ms:.2f} / {fdatasync_p99_ms:.2f} ms)",
        met=lambda r: r["submit_start_p50_ms"] <= r["fdatasync_p50_ms"] + 0.24,
        ceiling=lambda r: f"one flush and {r['submit_start_p50_ms'] - r['fdatasync_p50_ms']:.2f} ms",
    ),
    Bar(
        what="GPU idle between two queued jobs; decode and save overlap the next job",
        target="≤ 2 ms without a model at work, from the last step to the next job's first",
        bench="engine",
        keys=("idle_p50_ms", "hand_over_p50_ms", "gap_p50_ms", "hidden_pct"),
        shown="{idle_p50_ms:.2f} ms; the next job starts after {hand_over_p50_ms:.2f} ms ({gap_p50_ms:.2f} ms with nothing under way); "
        "{hidden_pct:.0f} % of decoding and saving hidden",
        met=lambda r: r["idle_p50_ms"] <= 2.0,
    ),
    Bar(
        what="cancel → worker free",
        target="p99 ≤ one forward + 50 ms",
        bench="cancel",
        keys=("short_steps_p99_ms", "short_steps_bar_ms", "long_steps_p99_ms", "long_steps_bar_ms"),
        shown="{short_steps_p99_ms:.0f} ms of {short_steps_bar_ms:.0f} (short steps), {long_steps_p99_ms:.0f} ms of"
        " {long_steps_bar_ms:.0f} (long steps)",
        met=lambda r: (
            r["short_steps_p99_ms"] <= r["short_steps_bar_ms"] and r["long_steps_p99_ms"] <= r["long_steps_bar_ms"]
        ),
    ),
    Bar(
        what="promised times, predictions off by 20 %, 30 % of the work in long jobs, load 0.9",
        target="≥ 99 % kept, none broken untold; tenants' shares within 5 %",
        bench="promises",
        keys=("kept_pct", "silent", "share_error_pct"),
        shown="{kept_pct:.2f} % kept, {silent} untold; shares off by {share_error_pct:.1f} %",
        met=lambda r: r["kept_pct"] >= 99.0 and r["silent"] == 0 and r["share_error_pct"] <= 5.0,
    ),
    Bar(
        what="short jobs among long ones, the same run",
        target="p95 ≤ 2 × their time alone",
        bench="promises",
        keys=("short_p95_x", "long_mean_x"),
        shown="{short_p95_x:.1f} ×; long jobs {long_mean_x:.2f} × theirs on average",
        met=lambda r: r["short_p95_x"] <= 2.0,
    ),
    Bar(
        what="pictures among clips: 30 % of the jobs long, 4, 8 and 16 workers, load 0.9",
        target="≥ 99 % kept, pictures p95 ≤ 2 × their time alone, clips ≤ 2 % longer than each to its end",
        bench="promises",
        keys=("pictures_kept_pct", "pictures_short_p95_x", "pictures_long_pct"),
        shown="{pictures_kept_pct:.1f} % kept; {pictures_short_p95_x:.2f} ×; clips {pictures_long_pct:+.1f} %",
        met=lambda r: (
            r["pictures_kept_pct"] >= 99.0 and r["pictures_short_p95_x"] <= 2.0 and r["pictures_long_pct"] <= 2.0
        ),
    ),
    Bar(
        what="pool makespan on mixed lengths, 8 workers",
        target="≤ 1.05 × max(total/8, longest job)",
        bench="pool",
        keys=("makespan_ours", "makespan_ours_more"),
        shown="{makespan_ours:.3f} × with 1,000 jobs (worst draw), {makespan_ours_more:.3f} × with 5,000",
        met=lambda r: r["makespan_ours"] <= 1.05,
    ),
    Bar(
        what="workers that die in the same pool, a checkpoint each 10 s",
        target="no death costs more than the interval, or a step; ≤ 1 % of the work drawn twice",
        bench="pool",
        keys=("rescue_kept_repeated_pct", "rescue_plain_repeated_pct", "rescue_kept_over_interval"),
        shown="{rescue_kept_repeated_pct:.2f} % of the work; {rescue_plain_repeated_pct:.1f} % without checkpoints",
        met=lambda r: not r["rescue_kept_over_interval"] and r["rescue_kept_repeated_pct"] <= 1.0,
    ),
    Bar(
        what="broker `kill -9` with 10,000 queued",
        target="serving again ≤ 2 s, 0 lost, 0 published twice",
        bench="recover",
        keys=("queue_queued", "queue_serving_s", "queue_lost", "queue_published_twice"),
        shown="{queue_serving_s:.2f} s with {queue_queued:,} queued, {queue_lost} lost, {queue_published_twice} published twice",
        met=lambda r: r["queue_serving_s"] <= 2 and not r["queue_lost"] and not r["queue_published_twice"],
    ),
    Bar(
        what="1,000 workers, 100,000 queued",
        target="≤ 500 MB, ≤ 1 core, dispatch p99 ≤ 10 ms",
        bench="scale",
        keys=("queued", "workers_joined", "queued_mb", "working_cores", "dispatch_p99_ms"),
        shown="{queued_mb:.0f} MB, {working_cores:.2f} cores, {dispatch_p99_ms:.1f} ms ({workers_joined:,} workers, {queued:,} queued)",
        met=lambda r: r["queued_mb"] <= 500 and r["working_cores"] <= 1 and r["dispatch_p99_ms"] <= 10,
    ),
    Bar(
        what="service over a bare diffusers loop, same prompts",
        target="≥ 1.15 × its throughput on a GPU, ≥ 1.0 × on a CPU",
        bench="engine",
        keys=("ratio", "service_per_s", "bare_per_s"),
        shown="{ratio:.2f} × ({service_per_s:.2f} over {bare_per_s:.2f} clips/s)",
        met=lambda r: r["ratio"] >= (1.15 if r.get("on_gpu") else 1.0),
    ),
    Bar(
        what="status reads over HTTP, one edge process, 16 connections",
        target="≥ 0.75 × a bare Starlette route",
        bench="http",
        keys=("status_per_s", "bare_per_s", "status_ratio"),
        shown="{status_ratio:.2f} ×: {status_per_s:,.0f}/s over {bare_per_s:,.0f}/s",
        met=lambda r: r["status_ratio"] >= 0.75,
    ),
    Bar(
        what="10 MB put into an edge's depot, flushed to its disk",
        target="≤ 2 s",
        bench="depot",
        keys=("put_p50_s", "put_worst_s"),
        shown="{put_worst_s:.2f} s at most, {put_p50_s:.2f} s p50",
        met=lambda r: r["put_worst_s"] <= 2.0,
    ),
    Bar(
        what="beside other queues, same recipe, same machine",
        target="≥ 2.5 × the fastest of like durability, ≥ 0.8 × the fastest of all",
        bench="peers",
        keys=("zoetrope_durable_per_s", "fastest", "fastest_ratio"),
        shown="{zoetrope_durable_per_s:,.0f} jobs/s: {fastest_ratio:.1f} x the fastest of all ({fastest})",
        met=lambda r: r["fastest_ratio"] >= 0.8 and (r.get("fastest_durable_ratio") or math.inf) >= 2.5,
        ceiling=_peer_ratios,
    ),
)


def table(found: All) -> str:
    """Markdown: every bar on a line."""
    lines = ["| bar | target | measured | beside its ceiling or peers | |", "|---|---|---|---|---|"]
    for bar in BARS:
        judged = judge(bar, found)
        verdict = {True: "met", False: "**missed**", None: "–"}[judged.met]
        lines.append(f"| {judged.what} | {judged.target} | {judged.measured} | {judged.ceiling or '–'} | {verdict} |")
    return "\n".join(lines)
