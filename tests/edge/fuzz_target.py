"""An edge over a made-up broker, listening: `python -m tests.edge.fuzz_target DIRECTORY` prints its port. Every job ends at once, well."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from broker.wire import messages as m
from http_edge.app import build_app, build_edge
from http_edge.base.settings import EdgeSettings
from tests.edge.openai_support import picture
from tests.testing.fake_broker import ANIMATE, PICTURE, VIDEO, FakeBroker, worker

PNG = picture()


class QuickBroker(FakeBroker):
    """Runs what is handed in on the next turn of the loop."""

    async def submit(self, submit: m.Submit) -> tuple[m.JobView, bool]:
        answer = await super().submit(submit)
        asyncio.get_running_loop().call_soon(self._finish, submit.job_id)
        return answer

    def _finish(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.state == "queued":
            self.run(job_id)
            self.succeed(job_id, image_png=PNG)


def main(home: Path) -> None:
    models = (VIDEO, ANIMATE, PICTURE)
    broker = QuickBroker(home / ".zoetrope" / "artefacts", worker("cpu-0", *models), worker("cpu-1", *models))

    def connect(hub):
        broker.on_event, broker.on_gap, broker.on_gone = hub.on_event, hub.on_gap, hub.on_gone
        return broker

    edge = build_edge(EdgeSettings(home=str(home / ".zoetrope"), sync_timeout_s=2.0), home, connect)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(build_app(edge), log_level="warning"))
        server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
