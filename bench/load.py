"""Open-loop load on a running service over HTTP: what a user of the native API waits for, and how busy the workers are.

Every request leaves at its drawn time, whatever became of those before it, and every time a user feels is counted from that moment:
a client that falls behind would otherwise hide the very waits it is there to measure. Queue wait and run time are the server's own figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections import Counter
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from bench import plot
from bench.errors import BadPlan, BenchError
from bench.report import Metric, Panel, Report, progress
from bench.stats import Summary, summarise
from bench.workload import DEFAULT_PROMPTS, Arrival, Shape, draw

#: States of the native API that nothing follows.
FINAL = frozenset(("succeeded", "failed", "cancelled"))
#: Seconds for one answer; the server sends a keep-alive on an event stream more often than that.
_ANSWER_S = 60.0
#: Times that an event stream may break before the job is given up.
_STREAMS = 20
#: A client later than this, at the worst percent of its requests, was too slow for the rate it was asked for.
_LATE_S = 0.1


class LoadPlan(Struct, frozen=True, kw_only=True):
    """What to send. No shapes or steps: the model's defaults. `timeout_s` counts from the last arrival."""

    url: str
    rate: float
    jobs: int
    seed: int = 0
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    model: str = ""
    shapes: tuple[Shape, ...] = ()
    steps: tuple[int, ...] = ()
    timeout_s: float = 600.0

    def check(self) -> None:
        """Raises `BadPlan`."""
        if not self.url.startswith(("http://", "https://")):
            raise BadPlan(f"--url: {self.url!r} must begin with http:// or https://")
        if not 0 < self.rate <= 100_000:
            raise BadPlan(f"--rate: {self.rate:g} must be above 0 and at most 100,000")
        if not 1 <= self.jobs <= 1_000_000:
            raise BadPlan(f"--jobs: {self.jobs} must be 1 to 1,000,000")
        if not self.timeout_s > 0:
            raise BadPlan(f"--timeout: {self.timeout_s:g} must be above 0")


class Outcome(Struct):
    """What became of one request. Times in seconds since the run's start; None for what did not happen."""

    arrival: Arrival
    sent: float | None = None
    accepted: float | None = None
    progressed: float | None = None
    ended: float | None = None
    #: succeeded, failed, cancelled, rejected (the server was full), error (no usable answer), unfinished.
    status: str = "unfinished"
    reason: str = ""
    wait_s: float | None = None
    run_s: float = 0.0
    outputs: int = 0

    @property
    def latency(self) -> float | None:
        """From the moment it was due to its last event."""
        return None if self.ended is None else self.ended - self.arrival.at_s


class Runner:
    """Sends one run's requests over one HTTP client."""

    def __init__(self, plan: LoadPlan, client: httpx.AsyncClient) -> None:
        self._plan = plan
        self._client = client
        self._start = 0.0

    async def run(self) -> list[Outcome]:
        """One outcome per arrival, in their order."""
        plan = self._plan
        arrivals = draw(plan.rate, plan.jobs, plan.seed, plan.prompts, plan.shapes, plan.steps)
        outcomes = [Outcome(arrival) for arrival in arrivals]
        self._start = time.monotonic()
        tasks = [asyncio.create_task(self._one(outcome)) for outcome in outcomes]
        _, late = await asyncio.wait(tasks, timeout=arrivals[-1].at_s + plan.timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return outcomes

    def _now(self) -> float:
        return time.monotonic() - self._start

    async def _one(self, outcome: Outcome) -> None:
        await asyncio.sleep(max(0.0, outcome.arrival.at_s - self._now()))
        outcome.sent = self._now()
        try:
            response = await self._client.post("/v1/jobs", json=request_body(outcome.arrival, self._plan.model))
            if response.status_code in (429, 503):
                outcome.status = "rejected"
                return
            job = answer(response)
            outcome.accepted = self._now()
            last = await self._follow(job["id"], outcome)
            outcome.ended = self._now()
            settle(outcome, last or answer(await self._client.get(f"/v1/jobs/{job['id']}")))
        except (httpx.HTTPError, BadAnswer) as error:
            outcome.status, outcome.reason = "error", f"{type(error).__name__}: {error}"

    async def _follow(self, job_id: str, outcome: Outcome) -> dict[str, Any] | None:
        """The final job, None if it was final before we looked; a broken stream is opened again."""
        for _ in range(_STREAMS):
            with contextlib.suppress(httpx.TransportError):
                async with self._client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
                    if stream.status_code == 204:
                        return None
                    if stream.status_code != 200:
                        raise BadAnswer(f"events: status {stream.status_code}")
                    async for line in stream.aiter_lines():
                        if not line.startswith("data:"):
                            continue
                        job: dict[str, Any] = msgspec.json.decode(line[5:])
                        if outcome.progressed is None and job.get("step", 0) > 0:
                            outcome.progressed = self._now()
                        if job.get("state") in FINAL:
                            return job
            await asyncio.sleep(0.2)
        raise BadAnswer(f"the event stream of job {job_id} ended {_STREAMS} times before the job did")


class BadAnswer(Exception):
    """The server answered what this client cannot use."""


def answer(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a good answer. Raises `BadAnswer`."""
    if response.status_code != 200:
        raise BadAnswer(f"status {response.status_code}: {response.text[:200]}")
    try:
        body = msgspec.json.decode(response.content)
    except msgspec.DecodeError as error:
        raise BadAnswer(f"no JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadAnswer(f"a JSON {type(body).__name__}")
    return body


def request_body(arrival: Arrival, model: str) -> dict[str, Any]:
    """The native API's request."""
    body: dict[str, Any] = {"prompt": arrival.prompt, "seed": arrival.seed}
    if model:
        body["model"] = model
    if arrival.shape is not None:
        body |= {"width": arrival.shape.width, "height": arrival.shape.height}
        if arrival.shape.num_frames:
            body["num_frames"] = arrival.shape.num_frames
    if arrival.steps:
        body["num_inference_steps"] = arrival.steps
    return body


def settle(outcome: Outcome, job: dict[str, Any]) -> None:
    """Take the server's figures of a final job."""
    outcome.status = job["state"]
    timings = job.get("timings") or {}
    outcome.wait_s = timings.get("queued_s")
    outcome.run_s = timings.get("run_s") or 0.0
    outcome.outputs = len(job.get("artefacts") or ())
    outcome.reason = (job.get("error") or {}).get("message", "")


async def measure(plan: LoadPlan) -> tuple[list[Outcome], int]:
    """The outcomes, and how many workers the service had. Raises `BenchError`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=plan.url, limits=limits, timeout=_ANSWER_S, trust_env=False) as client:
        try:
            workers = answer(await client.get("/v1/workers"))
        except (httpx.HTTPError, BadAnswer) as error:
            raise BenchError(f"no service answers at {plan.url}: {error}") from None
        count = len(workers.get("data") or ())
        progress(f"{plan.jobs} jobs over about {plan.jobs / plan.rate:.0f} s, then until the last has ended")
        return await Runner(plan, client).run(), count


def run(plan: LoadPlan) -> Report:
    """Send the load and report. Raises `BenchError`."""
    plan.check()
    _raise_file_limit()
    outcomes, workers = asyncio.run(measure(plan))
    return report_of(plan, outcomes, workers)


def _raise_file_limit() -> None:
    """Each job in flight holds a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def report_of(plan: LoadPlan, outcomes: list[Outcome], workers: int) -> Report:
    """Figures over all outcomes; latencies over those that succeeded."""
    good = [outcome for outcome in outcomes if outcome.status == "succeeded"]
    ends = [outcome.ended for outcome in outcomes if outcome.ended is not None]
    duration = max(ends, default=0.0)
    spread = {
        "wait": summarise(outcome.wait_s for outcome in good if outcome.wait_s is not None),
        "first_progress": summarise(o.progressed - o.arrival.at_s for o in good if o.progressed is not None),
        "end_to_end": summarise(outcome.latency for outcome in good if outcome.latency is not None),
        "accept": summarise(o.accepted - o.sent for o in outcomes if o.accepted is not None and o.sent is not None),
    }
    late = summarise(outcome.sent - outcome.arrival.at_s for outcome in outcomes if outcome.sent is not None)
    counts = Counter(outcome.status for outcome in outcomes)
    metrics = [*_totals(plan, outcomes, counts, duration, workers), *_latencies(spread)]
    return Report(
        bench="load",
        title=f"load: {plan.jobs:,} jobs at {plan.rate:g}/s on {plan.url}",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=_panels(good, outcomes),
        warnings=_cautions(counts, outcomes, late, workers),
    )


def _totals(
    plan: LoadPlan, outcomes: list[Outcome], counts: Counter[str], duration: float, workers: int
) -> list[Metric]:
    span = outcomes[-1].arrival.at_s
    busy = sum(outcome.run_s for outcome in outcomes)
    outputs = sum(outcome.outputs for outcome in outcomes)
    share = busy / (workers * duration) * 100 if workers and duration else None
    return [
        Metric("duration_s", "duration, first arrival to last end", duration, "s"),
        Metric("request_rate", "request rate", (plan.jobs - 1) / span if span else None, "1/s", f"asked {plan.rate:g}"),
        *(Metric(status, status, counts[status]) for status in ("succeeded", "failed", "cancelled", "rejected")),
        Metric("errors", "errors", counts["error"]),
        Metric("unfinished", "unfinished", counts["unfinished"]),
        Metric("jobs_per_s", "throughput", counts["succeeded"] / duration if duration else None, "jobs/s"),
        Metric("outputs_per_s", "outputs", outputs / duration if duration else None, "1/s"),
        Metric("workers", "workers", workers),
        Metric("busy_share_pct", "workers busy", share, "%", "run time / (workers x duration)"),
    ]


def _latencies(spread: dict[str, Summary | None]) -> list[Metric]:
    rows = (
        ("wait", "queue wait", ("mean", "p50", "p95", "p99")),
        ("first_progress", "time to first step", ("mean", "p50", "p95", "p99")),
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
        result.append(f"{counts['unfinished']} jobs had not ended when the time was up; latencies leave them out")
    if not workers:
        result.append("the service had no workers")
    return result
