"""Calls that one status read costs the edge, beside those of a bare Starlette route: no sockets, no waiting, one thread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.footprint import CallCounter
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, encode_spec
from http_edge.app import build_app, build_edge
from http_edge.hub import Hub
from http_edge.settings import EdgeSettings
from tests.edge.fakes import VIDEO, FakeBroker, worker

READS = 50


async def _read(app: Starlette, path: str) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    assert statuses == [200]


async def _calls(app: Starlette, path: str) -> float:
    for _ in range(5):
        await _read(app, path)
    with CallCounter() as counter:
        for _ in range(READS):
            await _read(app, path)
    return counter.calls / READS


async def _bare(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


async def _measure(start: Path) -> dict[str, float]:
    broker = FakeBroker(start / ".zoetrope" / "artefacts", worker("cpu-0", VIDEO))

    def connect(hub: Hub) -> Any:
        broker.on_event, broker.on_gap, broker.on_gone = hub.on_event, hub.on_gap, hub.on_gone
        return broker

    edge = build_edge(EdgeSettings(home=str(start / ".zoetrope")), start, connect)
    job_id = await _finished_job(broker)
    ours = await _calls(build_app(edge), f"/v1/jobs/{job_id}")
    bare = await _calls(Starlette(routes=[Route("/status", _bare)]), "/status")
    return {"edge.status.calls": round(ours, 1), "edge.status.ratio": round(ours / bare, 3)}


async def _finished_job(broker: FakeBroker) -> str:
    """A job that has ended: what is remembered of it does not age."""
    spec = JobSpec(
        model="demo", output="video", prompt="a red circle", width=64, height=64, num_inference_steps=8, seed=1
    )
    await broker.submit(m.Submit(req=0, job_id="counted", model="demo", units=1.0), encode_spec(spec))
    broker.run("counted")
    broker.succeed("counted")
    return "counted"


def measure(start: Path) -> dict[str, float]:
    """Calls a status read, and their ratio to the bare route's."""
    return asyncio.run(_measure(start))
