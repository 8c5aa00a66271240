"""Calls that one status read costs the edge, beside those of a bare Starlette route, and one event: no sockets, no waiting, one thread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.suites.footprint import CallCounter
from broker.testing import submit_message
from broker.wire.jobspec import JobSpec, encode_spec
from http_edge.api.openai.views import VIDEO_ORIGIN
from http_edge.app import build_app, build_edge
from http_edge.base.settings import EdgeSettings
from tests.testing.fake_broker import VIDEO, FakeBroker, worker

READS = 50
STREAMS, EVENTS = 20, 20
#: Of the event loop, from an event to the last stream's answer.
_TURNS = 4


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


async def _read(app: Starlette, path: str) -> None:
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(_scope(path), receive, send)
    assert statuses == [200]


async def _calls(app: Starlette, path: str) -> float:
    for _ in range(5):
        await _read(app, path)
    with CallCounter() as counter:
        for _ in range(READS):
            await _read(app, path)
    return counter.calls / READS


async def _event_calls(app: Starlette, broker: FakeBroker) -> float:
    """What one event costs one of many streams that tell it."""
    job_id = await _running_job(broker, "followed")
    events = 0

    async def send(message: Any) -> None:
        nonlocal events
        events += message.get("body", b"").count(b"data: ")

    async def receive() -> Any:
        await asyncio.Event().wait()

    streams = [asyncio.create_task(app(_scope(f"/v1/jobs/{job_id}/events"), receive, send)) for _ in range(STREAMS)]

    async def step(number: int) -> None:
        broker.step(job_id, number, 1_000)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    for number in range(5):
        await step(number)
    before = events
    with CallCounter() as counter:
        for number in range(5, 5 + EVENTS):
            await step(number)
    reported = events - before
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    assert reported == STREAMS * EVENTS
    return counter.calls / reported


async def _bare(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


async def _measure(start: Path) -> dict[str, float]:
    broker = FakeBroker(start / ".zoetrope" / "artefacts", worker("cpu-0", VIDEO))

    edge = build_edge(EdgeSettings(home=str(start / ".zoetrope")), start, broker.attach)
    app = build_app(edge)
    ours = await _calls(app, f"/v1/jobs/{await _finished_job(broker, 'counted')}")
    video = await _calls(app, f"/v1/videos/{await _finished_job(broker, 'video', VIDEO_ORIGIN)}")
    bare = await _calls(Starlette(routes=[Route("/status", _bare)]), "/status")
    return {
        "edge.status.calls": round(ours, 1),
        "edge.status.ratio": round(ours / bare, 3),
        "edge.video.calls": round(video, 1),
        "edge.event.calls": round(await _event_calls(app, broker), 1),
    }


async def _finished_job(broker: FakeBroker, job_id: str, origin: str = "") -> str:
    """A job that has ended: what is remembered of it does not age."""
    await _running_job(broker, job_id, origin)
    broker.succeed(job_id)
    return job_id


async def _running_job(broker: FakeBroker, job_id: str, origin: str = "") -> str:
    spec = JobSpec(
        model="demo", output="video", prompt="a red circle", width=64, height=64, num_inference_steps=8, seed=1
    )
    body = encode_spec(spec)
    await broker.submit(submit_message(job_id, body, origin=origin))
    broker.run(job_id)
    return job_id


def measure(start: Path) -> dict[str, float]:
    """Calls a status read, and their ratio to the bare route's."""
    return asyncio.run(_measure(start))
