"""Open-loop load over HTTP: what a user of the native API waits for, how busy the workers are, what arrives in time although things die."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

import httpx
import msgspec

from bench.harness.faults import Faults, own_service
from bench.harness.procs import raise_file_limit
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Metric, Panel, Report, flush_of, progress
from bench.report.stats import Summary, summarise
from bench.suites.loadrun import BadAnswer, LoadPlan, Outcome, Runner, answer
from bench.suites.workload import Arrival, Shape, draw

__all__ = ["LoadPlan", "Outcome", "Runner", "Shape", "draw", "report_of", "run"]

#: Seconds for one answer; the server sends a keep-alive on an event stream more often than that.
_ANSWER_S = 60.0
#: A client later than this, at the worst percent of its requests, was too slow for the requested rate.
_LATE_S = 0.1


async def measure(
    plan: LoadPlan, arrivals: list[Arrival], url: str, faults: Faults | None
) -> tuple[list[Outcome], int]:
    """The outcomes, and how many workers the service had. Raises `BenchError`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_ANSWER_S, trust_env=False) as client:
        try:
            workers = answer(await client.get("/v1/workers"))
        except (httpx.HTTPError, BadAnswer) as error:
            raise BenchError(f"no service answers at {url}: {error}") from None
        count = len(workers.get("data") or ())
        progress(f"{len(arrivals)} jobs over about {arrivals[-1].at_s:.0f} s, then until the last has ended")
        async with contextlib.AsyncExitStack() as stack:
            if faults is not None:
                await stack.enter_async_context(faults)
            return await Runner(plan, client, arrivals).run(), count


def run(plan: LoadPlan) -> Report:
    """Send the load and report. Raises `BenchError`."""
    plan.check()
    arrivals = plan.arrivals()
    raise_file_limit()
    if not plan.own:
        outcomes, workers = asyncio.run(measure(plan, arrivals, plan.url, None))
        return report_of(plan, outcomes, workers)
    with own_service(plan.own, plan.gpus) as service:
        flush = flush_of(service.home)
        faults = Faults(service, plan.kill_every_s) if plan.kill_every_s else None
        outcomes, workers = asyncio.run(measure(plan, arrivals, service.url, faults))
        made = report_of(plan, outcomes, workers, faults.kills if faults else 0)
        return msgspec.structs.replace(made, metrics=made.metrics + flush.metrics())


def report_of(plan: LoadPlan, outcomes: list[Outcome], workers: int, kills: int = 0) -> Report:
    """Figures over all outcomes; latencies over those that succeeded."""
    good = [outcome for outcome in outcomes if outcome.status == "succeeded"]
    # What was given up counts up to then: a rate over the time of those that ended would flatter.
    duration = max((o.left or 0.0 if o.ended is None else o.ended) for o in outcomes)
    spread = {
        "wait": summarise(outcome.wait_s for outcome in good if outcome.wait_s is not None),
        "first_progress": summarise(o.progressed - o.arrival.at_s for o in good if o.progressed is not None),
        "end_to_end": summarise(outcome.latency for outcome in good if outcome.latency is not None),
        "accept": summarise(o.accepted - o.sent for o in outcomes if o.accepted is not None and o.sent is not None),
    }
    late = summarise(outcome.sent - outcome.arrival.at_s for outcome in outcomes if outcome.sent is not None)
    counts = Counter(outcome.status for outcome in outcomes)
    metrics = [
        *_totals(plan, outcomes, counts, duration, workers),
        *_goodput(plan, good, outcomes, duration, kills),
        *_latencies(spread),
    ]
    return Report(
        bench="load",
        title=f"load: {len(outcomes):,} jobs {_pace(plan)} on {plan.own or plan.url}",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=_panels(good, outcomes),
        warnings=_cautions(counts, outcomes, late, workers),
    )


def _totals(
    plan: LoadPlan, outcomes: list[Outcome], counts: Counter[str], duration: float, workers: int
) -> list[Metric]:
    span = outcomes[-1].arrival.at_s
    busy = sum(outcome.busy_s for outcome in outcomes)
    useful = sum(outcome.last_run_s or outcome.busy_s for outcome in outcomes if outcome.status == "succeeded")
    outputs = sum(outcome.outputs for outcome in outcomes)
    share = (covered_s(outcomes) or busy) / (workers * duration) * 100 if workers and duration else None
    return [
        Metric("duration_s", "duration, first arrival to last end", duration, "s", "or to where the rest was given up"),
        Metric("request_rate", "request rate", (len(outcomes) - 1) / span if span else None, "1/s", _request(plan)),
        *(Metric(status, status, counts[status]) for status in ("succeeded", "failed", "cancelled", "rejected")),
        Metric("errors", "errors", counts["error"]),
        Metric("unfinished", "unfinished", counts["unfinished"]),
        Metric("jobs_per_s", "throughput", counts["succeeded"] / duration if duration else None, "jobs/s"),
        Metric("outputs_per_s", "outputs", outputs / duration if duration else None, "1/s"),
        Metric("workers", "workers", workers),
        Metric("busy_share_pct", "workers busy", share, "%", "time with an attempt / (workers x duration)"),
        Metric(
            "lost_share_pct",
            "of it for nothing",
            (1 - useful / busy) * 100 if busy else None,
            "%",
            "died, failed, cancelled",
        ),
    ]


def covered_s(outcomes: Iterable[Outcome]) -> float:
    """Seconds in which the workers had an attempt; where two overlap in one worker, once."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        for worker, begun, ended in outcome.spans:
            spans.setdefault(worker, []).append((begun, ended))
    total = 0.0
    for of_one in spans.values():
        until = 0.0
        for begun, ended in sorted(of_one):
            total += max(0.0, ended - max(begun, until))
            until = max(until, ended)
    return total


def _pace(plan: LoadPlan) -> str:
    return f"of {plan.trace}" if plan.rate is None else f"at {plan.rate:g}/s"


def _request(plan: LoadPlan) -> str:
    return "" if plan.rate is None else f"asked {plan.rate:g}"


def _goodput(plan: LoadPlan, good: list[Outcome], outcomes: list[Outcome], duration: float, kills: int) -> list[Metric]:
    """Build the metrics of goodput: results in time, and work done again because a process died."""
    in_time = [o for o in good if o.latency is not None and (not plan.slo_s or o.latency <= plan.slo_s)]
    share = 100 * len(in_time) / len(outcomes) if outcomes else None
    slo = f"done within {plan.slo_s:g} s" if plan.slo_s else "no --slo: done at all"
    again = sum(outcome.attempts - 1 for outcome in outcomes)
    return [
        Metric("slo_attainment_pct", "jobs in time", share, "%", slo),
        Metric("goodput_per_s", "goodput", len(in_time) / duration if duration else None, "jobs/s", slo),
        Metric("kills", "processes killed meanwhile", kills),
        Metric("attempts_again", "attempts made again", again),
    ]


def _latencies(spread: dict[str, Summary | None]) -> list[Metric]:
    rows = (
        ("wait", "queue wait", ("mean", "p50", "p90", "p95", "p99")),
        ("first_progress", "time to first step", ("mean", "p50", "p90", "p95", "p99")),
        ("end_to_end", "end to end", ("mean", "p50", "p90", "p95", "p99")),
        ("accept", "submit to accepted", ("mean", "p50", "p99")),
    )
    metrics = []
    for key, label, parts in rows:
        summary = spread[key]
        for part in parts:
            value = None if summary is None else getattr(summary, part)
            metrics.append(Metric(f"{key}_{part}_s", f"{label}, {part}", value, "s"))
    return metrics


def _panels(good: list[Outcome], outcomes: list[Outcome]) -> list[Panel]:
    moves = [(outcome.arrival.at_s, 1.0) for outcome in outcomes if outcome.accepted is not None]
    moves += [(outcome.ended, -1.0) for outcome in outcomes if outcome.ended is not None]
    times, levels, level = [0.0], [0.0], 0.0
    for at, change in sorted(moves):
        level += change
        times.append(at)
        levels.append(level)
    return [
        plot.distribution(
            "waits",
            "seconds",
            {
                "queue wait": [outcome.wait_s for outcome in good if outcome.wait_s is not None],
                "end to end": [outcome.latency for outcome in good if outcome.latency is not None],
            },
        ),
        Panel(
            title="in the service", kind="steps", x_label="seconds", y_label="jobs", series={"jobs": (times, levels)}
        ),
    ]


def _cautions(counts: Counter[str], outcomes: list[Outcome], late: Summary | None, workers: int) -> list[str]:
    result = []
    if late is not None and late.p99 > _LATE_S:
        result.append(f"this client was {late.p99:.2f} s late at the worst 1 %: it was too slow for this rate")
    for status in ("failed", "error"):
        reasons = Counter(outcome.reason for outcome in outcomes if outcome.status == status)
        result += [f"{count} x {status}: {reason}" for reason, count in reasons.most_common(3)]
    if counts["unfinished"]:
        result.append(
            f"{counts['unfinished']} jobs had not ended when the time was up; latencies, attempts and busy time leave them out"
        )
    if not workers:
        result.append("the service had no workers")
    return result
