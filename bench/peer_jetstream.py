"""NATS JetStream as a work queue: retention workqueue, pull consumers that fetch one, explicit acknowledgement.

`python -m bench.peer_jetstream` is a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import RetentionPolicy, StreamConfig

from bench.peerkit import (
    DONE_VARIABLE,
    PAYLOAD_BYTES,
    SERVER_VARIABLE,
    Done,
    Teller,
    Unavailable,
    await_port,
    driver_cores,
    started,
    workers,
)
from bench.service import free_port

MODES = {
    "default": "acknowledged before fsync; flushed every two minutes",
    "durable": "sync_interval: always",
}
_SUBJECT, _STREAM, _CONSUMER = "bench.jobs", "BENCH", "workers"
_WINDOW = 256


class JetStreamClient:
    """Publishes with up to `_WINDOW` acknowledgements awaited at once."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._payload = b"x" * PAYLOAD_BYTES
        self._loop.run_until_complete(self._connect(url))

    async def _connect(self, url: str) -> None:
        self._nats: Any = await nats.connect(url)
        self._stream: Any = self._nats.jetstream()
        config = StreamConfig(name=_STREAM, subjects=[_SUBJECT], retention=RetentionPolicy.WORK_QUEUE)
        await self._stream.add_stream(config)

    def submit(self, number: int) -> None:
        self._loop.run_until_complete(self._publish(number))

    def submit_all(self, numbers: Sequence[int]) -> None:
        self._loop.run_until_complete(self._publish_all(numbers))

    async def _publish(self, number: int) -> None:
        await self._stream.publish(_SUBJECT, number.to_bytes(8, "big") + self._payload, timeout=60)

    async def _publish_all(self, numbers: Sequence[int]) -> None:
        room = asyncio.Semaphore(_WINDOW)

        async def one(number: int) -> None:
            async with room:
                await self._publish(number)

        await asyncio.gather(*(one(number) for number in numbers))

    def close(self) -> None:
        self._loop.run_until_complete(self._nats.close())
        self._loop.close()


@contextlib.contextmanager
def opened(mode: str, home: Path, done: Done) -> Iterator[JetStreamClient]:
    """Server, workers and client. Raises `Unavailable`."""
    server = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if server is None:
        raise Unavailable("nats-server is not installed (Debian: apt-get install nats-server)")
    port = free_port()
    sync = "  sync_interval: always\n" if mode == "durable" else ""
    config = home / "nats.conf"
    config.write_text(f'port: {port}\nhost: 127.0.0.1\njetstream {{\n  store_dir: "{home}/store"\n{sync}}}\n')
    url = f"nats://127.0.0.1:{port}"
    with started([server, "-c", str(config)], home, driver_cores(), {}) as process:
        await_port(port, process, home)
        client = JetStreamClient(url)
        environ = {SERVER_VARIABLE: url, DONE_VARIABLE: str(done.path)}
        with contextlib.closing(client), workers("bench.peer_jetstream", home, environ):
            yield client


async def work() -> None:
    """Fetch, tell, acknowledge, until killed."""
    teller = Teller()
    connection: Any = await nats.connect(os.environ[SERVER_VARIABLE])
    jobs = await connection.jetstream().pull_subscribe(_SUBJECT, durable=_CONSUMER, stream=_STREAM)
    while True:
        try:
            messages = await jobs.fetch(1, timeout=5)
        except NatsTimeout:
            continue
        for message in messages:
            teller.done(int.from_bytes(message.data[:8], "big"))
            await message.ack()


if __name__ == "__main__":
    sys.exit(asyncio.run(work()))
