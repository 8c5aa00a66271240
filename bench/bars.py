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
    #: Why it is missed and what would move it: true of these results.
    reason: Callable[[Results], str]
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
        reason="" if met else bar.reason(results),
    )


def _latency_met(results: Results) -> bool:
    bound = max(3.0, 6 * float(results["fdatasync_p50_ms"]))
    return bool(results["submit_start_p50_ms"] <= 0.5 and results["submit_start_p99_ms"] <= bound)


def _router_ratio(results: Results) -> str:
    cpu_us = results.get("router_cpu_us")
    return f"{results['cpu_us_per_job'] / cpu_us:.1f} x a bare ROUTER echo's processor time" if cpu_us else ""


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


def _rate_missed(results: Results) -> str:
    cpu_us = results["cpu_us_per_job"]
    return (
        f"{cpu_us:.0f} µs of one Python thread a job let a core do {1e6 / cpu_us:,.0f} jobs/s at most; fewer calls a message move that"
        f" (where they are: below). {_WALL}"
    )


def _latency_missed(results: Results) -> str:
    share = min(1.0, results["fdatasync_p50_ms"] / results["submit_start_p50_ms"]) * 100
    return (
        f"a job is given out once it is on disk: {share:.0f} % of the p50 is one flush, which a faster disk moves; the rest is Python on"
        " both sides of the sockets and the waking of its processes"
    )


def _recover_missed(results: Results) -> str:
    if results["queue_lost"] or results["queue_published_twice"]:
        return "jobs were lost or published twice, which is a defect and no limit of the machine"
    return "starting Python and reading the journal back are all of it: a shorter queue or a faster core moves it"


def _status_missed(results: Results) -> str:
    own, bare = results.get("queued_cpu_us"), results.get("bare_cpu_us")
    if not own or not bare:
        return f"judge it by the ratio to the bare route of the same seconds. {_WALL}"
    return (
        f"a read takes {own:.0f} µs of one core, a bare route {bare:.0f} µs: this machine's limits are {1e6 / own:,.0f} and"
        f" {1e6 / bare:,.0f} reads/s a process; less Python a request, or a second edge process, moves it. {_WALL}"
    )


_WALL = "Rates by the clock fall with whatever else runs on the machine: read them beside its load and the flush of the moment"

BARS = (
    Bar(
        what="durable no-op jobs, window 256, one core",
        target="≥ 20,000 jobs/s on a quiet machine, ≤ 60 µs CPU a job",
        bench="broker",
        keys=("jobs_per_s", "cpu_us_per_job"),
        shown="{jobs_per_s:,.0f} jobs/s, {cpu_us_per_job:.0f} µs",
        met=lambda r: r["jobs_per_s"] >= 20_000 and r["cpu_us_per_job"] <= 60,
        reason=_rate_missed,
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
        reason=_latency_missed,
        ceiling=lambda r: f"p50 is {r['submit_start_p50_ms'] / r['fdatasync_p50_ms']:.1f} x one flush",
    ),
    Bar(
        what="GPU idle between two queued jobs; decode and save overlap the next job",
        target="≤ 1 ms of broker time; tail overlapped",
        bench="engine",
        keys=("gap_p50_ms", "hidden_pct"),
        shown="{gap_p50_ms:.2f} ms; {hidden_pct:.0f} % of decoding and saving hidden",
        met=lambda r: r["gap_p50_ms"] <= 1.0 and r["hidden_pct"] > 0,
        reason=lambda r: (
            "a job that is not overlapped waits for the commit of the result before it and the way from engine to agent to"
            " engine; a GPU with room for both moves that: on a CPU all phases share the cores"
        ),
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
        reason=lambda r: (
            "a cancel is heard at the next block of the model; the rest is commits and the scheduling of a busy machine, and a"
            " quiet one moves it"
        ),
    ),
    Bar(
        what="pool makespan on mixed lengths, 8 workers",
        target="≤ 1.05 × max(total/8, longest job)",
        bench="pool",
        keys=("makespan_ours", "makespan_ours_more"),
        shown="{makespan_ours:.3f} × with 1,000 jobs (worst draw), {makespan_ours_more:.3f} × with 5,000",
        met=lambda r: r["makespan_ours"] <= 1.05,
        reason=lambda r: (
            "short jobs go first, which keeps waits low; only where the backlog ends do the longest, and what was predicted of"
            " them is off by 30 %. More jobs in it make that end weigh less"
        ),
    ),
    Bar(
        what="broker `kill -9` with 10,000 queued",
        target="serving again ≤ 2 s, 0 lost, 0 published twice",
        bench="recover",
        keys=("queue_queued", "queue_serving_s", "queue_lost", "queue_published_twice"),
        shown="{queue_serving_s:.2f} s with {queue_queued:,} queued, {queue_lost} lost, {queue_published_twice} published twice",
        met=lambda r: r["queue_serving_s"] <= 2 and not r["queue_lost"] and not r["queue_published_twice"],
        reason=_recover_missed,
    ),
    Bar(
        what="1,000 workers, 100,000 queued",
        target="≤ 500 MB, ≤ 1 core, dispatch p99 ≤ 10 ms",
        bench="scale",
        keys=("queued", "workers_joined", "queued_mb", "working_cores", "dispatch_p99_ms"),
        shown="{queued_mb:.0f} MB, {working_cores:.2f} cores, {dispatch_p99_ms:.1f} ms ({workers_joined:,} workers, {queued:,} queued)",
        met=lambda r: r["queued_mb"] <= 500 and r["working_cores"] <= 1 and r["dispatch_p99_ms"] <= 10,
        reason=lambda r: (
            "a dispatch waits for the commit of the result before it, and its time has the delays of the driver in it, one Python"
            " thread for all workers: a faster disk and a quiet machine move it"
        ),
    ),
    Bar(
        what="service over a bare diffusers loop, same prompts",
        target="≥ 1.0 × its throughput",
        bench="engine",
        keys=("ratio", "service_per_s", "bare_per_s"),
        shown="{ratio:.2f} × ({service_per_s:.2f} over {bare_per_s:.2f} clips/s)",
        met=lambda r: r["ratio"] >= 1.0,
        reason=lambda r: (
            "hooks that make a cancel heard inside a block, hashing and flushing of files, and three more processes on the same"
            " cores weigh most on a model as small as the demo one; a larger model, and a GPU to overlap on, move it"
        ),
    ),
    Bar(
        what="status reads over HTTP, one edge process, 16 connections",
        target="≥ 12,000/s (a bare Starlette route: 36,700/s)",
        bench="http",
        keys=("status_per_s", "bare_per_s", "status_ratio"),
        shown="{status_per_s:,.0f}/s",
        met=lambda r: r["status_per_s"] >= 12_000,
        reason=_status_missed,
        ceiling=lambda r: f"{r['status_ratio']:.2f} x a bare Starlette route ({r['bare_per_s']:,.0f}/s)",
    ),
    Bar(
        what="beside other queues, same recipe, same machine",
        target="≥ 3 × the fastest",
        bench="peers",
        keys=("zoetrope_durable_per_s", "fastest", "fastest_ratio"),
        shown="{zoetrope_durable_per_s:,.0f} jobs/s: {fastest_ratio:.1f} x the fastest of all ({fastest})",
        met=lambda r: r["fastest_ratio"] >= 3,
        reason=lambda r: (
            "with four workers of credit 1 a pass of the broker has two or three jobs in it: the loop stands still while they are"
            " flushed, and Python takes most of the rest, six messages a job. JetStream's server is"
            " compiled and its workers await no acknowledgement of a result; the default modes await no flush at all. More workers,"
            " or more credit a worker, share a commit and move it (windows and worker counts: under broker)"
        ),
        ceiling=_peer_ratios,
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
