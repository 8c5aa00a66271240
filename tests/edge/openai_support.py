"""What the tests of the OpenAI family share: levers pulled while a request waits, small real media, clients that leave."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from broker.wire.jobspec import JobSpec, decode_spec
from broker.wire.messages import JobView
from tests.edge.conftest import World
from workers.engine.artefacts import Mp4Writer


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


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def clip(frames: int = 9, size: tuple[int, int] = (64, 48)) -> bytes:
    """An MP4 that goes from dark to bright, all frames of one grey."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with Mp4Writer(path, "video.mp4", 8.0) as writer:
            for number in range(frames):
                grey = 20 + 200 * number // max(1, frames - 1)
                writer.write(np.full((1, size[1], size[0], 3), grey, dtype=np.uint8))
            writer.finish()
        return (path / "video.mp4").read_bytes()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


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
