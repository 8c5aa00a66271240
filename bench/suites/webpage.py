"""The web page in a browser: its weight, its first paint, its frames while it scrolls and while it watches a busy queue, what it keeps.

A real service with the fake engine. What is measured runs in a child (`scripts/page_watch.py`), which is a browser; this file keeps the
queue busy meanwhile. Where the browser draws without a GPU, frames are the processor's, of which the service takes its share: then the work
of the page's own thread is the more telling figure.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import Meta, Struct

from bench.harness.process import run_child
from bench.harness.procs import temporary_home
from bench.harness.service import READY_S, Service
from bench.report.errors import BenchError
from bench.report.report import Grid, Metric, Report, progress
from bench.suites import lists

#: A twelfth of a second a step: a queue in which something changes all the time.
_BUSY = {"fake": "slow", "fake_step_s": 0.08}
_BUSY_STEPS = 25
_WAITING = 30
_ANSWER_S = 60.0

#: A page of the gallery.
_PAGE = {"state": "succeeded", "limit": "60"}


class PagePlan(Struct, frozen=True, kw_only=True):
    """How much there is to be seen, and for how long it is watched."""

    tiles: Annotated[int, Meta(description="finished pictures in the gallery", ge=20, le=10_000)] = 200
    history: Annotated[int, Meta(description="finished jobs before them, in the journal alone", ge=0, le=600_000)] = (
        300_000
    )
    loads: Annotated[
        int, Meta(description="loads of the page, each by a browser that has kept nothing", ge=1, le=100)
    ] = 7
    frames_s: Annotated[float, Meta(description="seconds of frames, still and again scrolling", ge=0.5, le=60)] = 5.0
    watch_s: Annotated[float, Meta(description="seconds for which a busy queue is watched", ge=1, le=86_400)] = 120.0
    idle_s: Annotated[
        float, Meta(description="seconds for which requests of an idle page are counted", ge=1, le=3_600)
    ] = 30.0
    directory: Annotated[str, Meta(description="where the service's home is put")] = ""


class Order(Struct, frozen=True, kw_only=True):
    """What the child is to measure: the page at an address while the service is idle, or while it is busy."""

    url: str
    busy: bool
    loads: int = 1
    frames_s: float = 1.0
    watch_s: float = 1.0
    idle_s: float = 1.0


class Frames(Struct, frozen=True, kw_only=True):
    """Frames of some seconds. `own_share`: of the time, that which the page's own thread worked; long tasks take 50 ms and more."""

    per_s: float
    p95_ms: float
    long_tasks: int
    longest_task_ms: float
    own_share: float
    layouts_per_s: float


class Kept(Struct, frozen=True, kw_only=True):
    """What the page holds after a collection: of heap, MB; nodes of the document and outside it; listeners."""

    heap_mb: float
    nodes: int
    listeners: int


class Seen(Struct, frozen=True, kw_only=True):
    """What the child has measured; of an idle service the first three, of a busy one the others."""

    #: Bytes of the page as they were sent, and unpacked.
    sent: int = 0
    bytes: int = 0
    #: Milliseconds to the first paint, and until the form can be used, of each load.
    paints_ms: list[float] = msgspec.field(default_factory=list)
    usable_ms: list[float] = msgspec.field(default_factory=list)
    #: Requests a minute by view.
    requests: dict[str, float] = msgspec.field(default_factory=dict)
    still: Frames | None = None
    scrolling: Frames | None = None
    #: Most elements of the gallery's document at once.
    elements: int = 0
    before: Kept | None = None
    after: Kept | None = None


def run(plan: PagePlan) -> Report:
    """Measure the page, idle and busy. Raises `BenchError`."""
    with temporary_home(plan.directory) as home:
        service = Service(home, gpus="cpu:2")
        if plan.history:
            progress(f"writing {plan.history:,} jobs")
            directory = Path(service.settings.home)
            directory.mkdir(mode=0o700)
            lists.fill(directory / "jobs.sqlite", plan.history, time.time() - plan.history)
        try:
            service.start("broker", "workers", "edge")
            with httpx.Client(base_url=service.url, timeout=_ANSWER_S, trust_env=False) as http:
                asyncio.run(service.answers())
                progress(f"drawing {plan.tiles} pictures")
                _fill(http, plan.tiles)
                progress("what the gallery asks for")
                answers = _measure(http, plan.history)
                progress("the page of an idle service")
                idle = _watched(Order(url=service.url, busy=False, loads=plan.loads, idle_s=plan.idle_s))
                progress("the page of a busy service")
                with _busy(http):
                    busy = _watched(Order(url=service.url, busy=True, frames_s=plan.frames_s, watch_s=plan.watch_s))
        finally:
            service.stop()
    return _report(plan, idle, busy, answers)


def _measure(http: httpx.Client, history: int) -> dict[str, float]:
    """Milliseconds of the answers to what the gallery requests, each the median of three."""
    now = time.time()
    queries = {
        "the newest": {},
        "behind the first page": {"after": http.get("/v1/jobs", params=_PAGE).json()["last_id"]},
        "failed ones": {"state": "failed"},
        "a word of most prompts": {"prompt": "X"},
        "a word of no prompt, as far as one request looks": {"prompt": "nosuch"},
        "a model of no job, as far": {"model": "nosuch"},
        "an hour in the middle": {"since": str(now - history / 2), "until": str(now - history / 2 + 3600)},
    }
    found = {}
    for what, query in queries.items():
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            answer = http.get("/v1/jobs", params=_PAGE | query)
            took.append(1e3 * (time.perf_counter() - begun))
            if answer.status_code != 200:
                raise BenchError(f"{what}: {answer.text[:200]}")
        found[what] = _median(took)
    return found


def _post(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/v1/jobs", json=fields)
    if answer.status_code >= 300:
        raise BenchError(f"a job was refused: {answer.text[:200]}")
    return str(answer.json()["id"])


def _fill(http: httpx.Client, tiles: int) -> None:
    """Draw so many pictures."""
    last = [_post(http, prompt=f"tile {number}", output="image", seed=number) for number in range(tiles)][-20:]
    give_up = time.monotonic() + READY_S + tiles
    while any(http.get(f"/v1/jobs/{job}").json()["state"] != "succeeded" for job in last):
        if time.monotonic() > give_up:
            raise BenchError(f"{tiles} pictures were not drawn in time")
        time.sleep(0.2)


@contextmanager
def _busy(http: httpx.Client) -> Iterator[None]:
    """Keep both workers at work, and some jobs behind them."""
    done = threading.Event()
    failed: list[str] = []

    def feed() -> None:
        try:
            while not done.is_set():
                live = http.get("/v1/jobs", params={"state": "queued,running", "limit": 100}).json()["data"]
                for number in range(_WAITING - len(live)):
                    _post(
                        http,
                        prompt=f"busy {number}",
                        extra=_BUSY,
                        num_inference_steps=_BUSY_STEPS,
                        previews=4,
                        width=64,
                        height=64,
                    )
                done.wait(0.5)
        except (httpx.HTTPError, BenchError, KeyError) as error:
            failed.append(str(error))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise BenchError(f"the queue was not kept busy: {failed[0]}")


def _watched(order: Order) -> Seen:
    answer = run_child("scripts.page_watch", order, takes_s=order.watch_s)
    if answer is None:
        raise BenchError("the page could not be measured; why is said above")
    return msgspec.json.decode(answer, type=Seen)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _report(plan: PagePlan, idle: Seen, busy: Seen, answers: dict[str, float]) -> Report:
    assert busy.still is not None
    assert busy.scrolling is not None
    assert busy.before is not None
    assert busy.after is not None
    metrics = [
        Metric("sent_kb", "weight of the page as it is sent, its own files", idle.sent / 1024, "KB"),
        Metric("unpacked_kb", "unpacked, at most 150 KB", idle.bytes / 1024, "KB"),
        Metric("first_paint_ms", "first paint, median of the loads, at most 500 ms", _median(idle.paints_ms), "ms"),
        Metric("first_paint_worst_ms", "the slowest load", max(idle.paints_ms), "ms"),
        Metric("usable_ms", "until the form knows its model, median", _median(idle.usable_ms), "ms"),
        *(
            Metric(f"idle_{view}_per_min", f"requests a minute while nothing happens: {view}", value, "")
            for view, value in idle.requests.items()
        ),
        *_frames("still", "gallery at rest, busy queue", busy.still),
        *_frames("scrolling", "gallery scrolling, busy queue", busy.scrolling),
        Metric("elements", f"most elements in the document with {plan.tiles} tiles", busy.elements),
        Metric("heap_before_mb", "heap before a busy queue is watched", busy.before.heap_mb, "MB"),
        Metric("heap_after_mb", f"heap after {plan.watch_s:g} s of it", busy.after.heap_mb, "MB"),
        Metric("nodes_before", "nodes of documents, before", busy.before.nodes),
        Metric("nodes_after", "nodes, after", busy.after.nodes),
        Metric("listeners_before", "listeners, before", busy.before.listeners),
        Metric("listeners_after", "listeners, after", busy.after.listeners),
    ]
    return Report(
        bench="page",
        title="The web page in a browser",
        settings=msgspec.structs.asdict(plan),
        metrics=metrics,
        grid=Grid(
            head=[f"the gallery asks, over {plan.history:,} jobs", "answer, ms"],
            rows=[[what, f"{took:.0f}"] for what, took in answers.items()],
        ),
    )


def _frames(key: str, what: str, frames: Frames) -> list[Metric]:
    return [
        Metric(f"{key}_fps", f"{what}: frames a second", frames.per_s),
        Metric(f"{key}_p95_ms", f"{what}: from frame to frame, p95", frames.p95_ms, "ms"),
        Metric(f"{key}_own_percent", f"{what}: of the time, the page's thread at work", 100 * frames.own_share, "%"),
        Metric(f"{key}_layouts_per_s", f"{what}: layouts a second", frames.layouts_per_s),
        Metric(f"{key}_long_tasks", f"{what}: tasks of 50 ms and more", frames.long_tasks),
        Metric(f"{key}_longest_ms", f"{what}: the longest task", frames.longest_task_ms, "ms"),
    ]
