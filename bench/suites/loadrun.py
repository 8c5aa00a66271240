"""The client of a load run: sends every request at its time and follows each job to its end.

Every request leaves at its drawn time, whatever became of those before it, and every time a user feels is counted from that moment: a
client that falls behind would otherwise hide the very waits it is there to measure. Queue wait and busy time are the server's own figures,
from each job's history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from bench.report.errors import BadPlan
from bench.suites.workload import DEFAULT_PROMPTS, Arrival, Shape, draw, read_trace
from broker.wire.terms import FINAL_NAMES

#: States of the native API that nothing follows.
#: Seconds for one answer; the server sends a keep-alive on an event stream more often than that.
_ANSWER_S = 60.0
#: Times that an event stream may break before the job is given up.
_STREAMS = 20


class LoadPlan(Struct, frozen=True, kw_only=True):
    """What to send: a trace, or `jobs` Poisson arrivals of `rate` a second. No shapes or steps: the model's defaults.

    `timeout_s` counts from the last arrival. `own`: the model of a service that is started for this run; every `kill_every_s` an engine
    or an agent of it is killed.
    """

    url: str = ""
    rate: float | None = None
    jobs: int | None = None
    trace: str = ""
    slo_s: float = 0.0
    own: str = ""
    gpus: str = "cpu:1"
    kill_every_s: float = 0.0
    seed: int = 0
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    model: str = ""
    shapes: tuple[Shape, ...] = ()
    steps: tuple[int, ...] = ()
    timeout_s: float = 600.0

    def check(self) -> None:
        """Raises `BadPlan`."""
        if not self.own and not self.url.startswith(("http://", "https://")):
            raise BadPlan(f"--url: {self.url!r} must begin with http:// or https://")
        if self.trace and (self.rate is not None or self.jobs is not None):
            raise BadPlan("--trace: it says when requests leave, so --rate and --jobs must not")
        if not self.trace and (self.rate is None or self.jobs is None):
            raise BadPlan("--rate and --jobs, or --trace: one of the two must say what to send")
        if self.rate is not None and not 0 < self.rate <= 100_000:
            raise BadPlan(f"--rate: {self.rate:g} must be above 0 and at most 100,000")
        if self.jobs is not None and not 1 <= self.jobs <= 1_000_000:
            raise BadPlan(f"--jobs: {self.jobs} must be 1 to 1,000,000")
        if not self.slo_s >= 0:
            raise BadPlan(f"--slo: {self.slo_s:g} must be 0 or more")
        if self.kill_every_s < 0 or (self.kill_every_s and not self.own):
            raise BadPlan(
                "--kill-every: it must be 0 or more, and needs --own: no process of a service in use is killed"
            )
        if not self.timeout_s > 0:
            raise BadPlan(f"--timeout: {self.timeout_s:g} must be above 0")

    def arrivals(self) -> list[Arrival]:
        """Build the arrivals, in order. Raises `BadPlan`."""
        if self.trace:
            return read_trace(self.trace)
        assert self.rate is not None
        assert self.jobs is not None
        return draw(self.rate, self.jobs, self.seed, self.prompts, self.shapes, self.steps)


class Outcome(Struct):
    """Outcome of one request. Times in seconds since the run's start; None for what did not happen."""

    arrival: Arrival
    sent: float | None = None
    accepted: float | None = None
    progressed: float | None = None
    ended: float | None = None
    #: When the client let go of it, ended or not.
    left: float | None = None
    #: succeeded, failed, cancelled, rejected (the server was full), error (no usable answer), unfinished.
    status: str = "unfinished"
    reason: str = ""
    #: Of the job's history, all attempts together: seconds that it waited, that it kept a worker busy, and of these the last attempt's.
    wait_s: float | None = None
    busy_s: float = 0.0
    last_run_s: float = 0.0
    #: (worker, from, to) of each attempt, by the server's clock.
    spans: list[tuple[str, float, float]] = msgspec.field(default_factory=list)
    outputs: int = 0
    attempts: int = 1

    @property
    def latency(self) -> float | None:
        """Seconds from the moment it was due to its last event."""
        return None if self.ended is None else self.ended - self.arrival.at_s


class Runner:
    """Sends one run's requests over one HTTP client."""

    def __init__(self, plan: LoadPlan, client: httpx.AsyncClient, arrivals: list[Arrival] | None = None) -> None:
        self._plan = plan
        self._arrivals = plan.arrivals() if arrivals is None else arrivals
        self._client = client
        self._start = 0.0

    async def run(self) -> list[Outcome]:
        """Send the requests; return one outcome per arrival, in their order."""
        plan, arrivals = self._plan, self._arrivals
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
            await self._follow(job["id"], outcome)
            outcome.ended = self._now()
            # An event has no history.
            settle(outcome, answer(await self._client.get(f"/v1/jobs/{job['id']}")))
        except (httpx.HTTPError, BadAnswer) as error:
            outcome.status, outcome.reason = "error", f"{type(error).__name__}: {error}"
        finally:
            outcome.left = self._now()

    async def _follow(self, job_id: str, outcome: Outcome) -> None:
        """Return when the job is final; a broken stream is opened again. Raises `BadAnswer`."""
        for _ in range(_STREAMS):
            with contextlib.suppress(httpx.TransportError):
                async with self._client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
                    if stream.status_code == 204:
                        return
                    if stream.status_code != 200:
                        raise BadAnswer(f"events: status {stream.status_code}")
                    async for line in stream.aiter_lines():
                        if not line.startswith("data:"):
                            continue
                        job: dict[str, Any] = msgspec.json.decode(line[5:])
                        if outcome.progressed is None and job.get("step", 0) > 0:
                            outcome.progressed = self._now()
                        if job.get("state") in FINAL_NAMES:
                            return
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
    """Take the server's figures of a final job from its history."""
    outcome.status = job["state"]
    timings = job.get("timings") or {}
    history = job.get("history") or ()
    outcome.wait_s, outcome.busy_s, outcome.last_run_s = timings.get("queued_s"), timings.get("run_s") or 0.0, 0.0
    if history:
        outcome.wait_s = outcome.busy_s = 0.0
    for move, later in itertools.pairwise(history):
        span_s = max(0.0, later["at"] - move["at"])
        if move["to"] == "running":
            outcome.busy_s, outcome.last_run_s = outcome.busy_s + span_s, span_s
            if move.get("worker"):
                outcome.spans.append((move["worker"], move["at"], later["at"]))
        else:
            outcome.wait_s = (outcome.wait_s or 0.0) + span_s
    outcome.outputs = len(job.get("artefacts") or ())
    outcome.attempts = job.get("attempts") or 1
    outcome.reason = (job.get("error") or {}).get("message", "")
