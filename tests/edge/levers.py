"""Levers of a request that is waited for: what happens to its job meanwhile, and a client that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from broker.wire.jobspec import JobSpec, decode_spec
from broker.wire.messages import JobView
from tests.edge.conftest import World


def then(world: World, *levers: Callable[[str], Any]) -> None:
    """Let these happen to every job as soon as it is accepted."""
    accept = world.fake.submit

    async def submit(message: Any) -> Any:
        answer = await accept(message)
        for lever in levers:
            asyncio.get_running_loop().call_soon(lever, message.job_id)
        return answer

    world.fake.submit = submit  # type: ignore[method-assign]


def draws(world: World, **files: bytes) -> None:
    """Let every job run and make these files (`image_png=b"..."`)."""
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, **files))


def only_job(world: World) -> JobView:
    (job,) = world.fake.jobs.values()
    return job


def only_spec(world: World) -> JobSpec:
    return decode_spec(only_job(world).body)


def leave(world: World, path: str, body: bytes) -> int:
    """Send a JSON request as the server would, and leave once its job is taken and runs; the status that nobody sees."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "app": world.http.app,
    }
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        message = next(parts, None)
        if message is None:
            world.fake.run(only_job(world).id)
            return {"type": "http.disconnect"}
        return message

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    assert world.http.portal is not None
    world.http.portal.call(world.http.app, scope, receive, send)
    world.do(lambda: None)
    return int(sent[0]["status"])
