"""An edge over a made-up broker, listening: `python -m tests.edge.fuzz_target DIRECTORY` prints its port. Every job ends at once, well."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn
from msgspec import structs

from broker.wire import messages as m
from http_edge.app import build_app, build_edge
from http_edge.base import idempotency
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings
from tests.edge.small_media import picture
from tests.testing.fake_broker import ANIMATE, PICTURE, VIDEO, FakeBroker, worker

PNG = picture()


class QuickBroker(FakeBroker):
    """Runs what is handed in on the next turn of the loop, also under a name that was used before.

    The fuzzer repeats a task's id in many requests, of which all but the first would be refused before anything else was tried, and with a
    503, LightX2V's own answer.
    """

    async def submit(self, submit: m.Submit) -> tuple[m.JobView, bool]:
        answer = await super().submit(structs.replace(submit, alias_unique=False))
        asyncio.get_running_loop().call_soon(self._finish, submit.job_id)
        return answer

    def _finish(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.state == "queued":
            self.run(job_id)
            self.succeed(job_id, image_png=PNG)


_KEY = idempotency.HEADER.lower().encode()


class FreshKeys:
    """Gives requests new keys in place of those that came twice on their route.

    Nearly all that the fuzzer sends bears the key "0": from the second on they would be refused before anything else of them is read. One
    repetition of each key is left as it is, and what is no key, too.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._seen: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, self._fresh(scope, name, value)) for name, value in scope["headers"]]}
        await self._app(scope, receive, send)

    def _fresh(self, scope: Any, name: bytes, value: bytes) -> bytes:
        if name != _KEY:
            return value
        try:
            key = idempotency.read_key([value.decode("latin-1")])
        except EdgeError:
            return value
        used = scope["path"], key
        self._seen[used] += 1
        return value if self._seen[used] <= 2 else b"fresh-%d" % self._seen.total()


def main(home: Path) -> None:
    models = (VIDEO, ANIMATE, PICTURE)
    broker = QuickBroker(home / ".zoetrope" / "artefacts", worker("cpu-0", *models), worker("cpu-1", *models))

    edge = build_edge(EdgeSettings(home=str(home / ".zoetrope"), sync_timeout_s=2.0), home, broker.attach)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(FreshKeys(build_app(edge)), log_level="warning"))
        server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
