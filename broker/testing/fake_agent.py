"""A worker's side of the wire on a real socket, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import zmq

from broker.testing.samples import RESULT, holding, worker_info
from broker.wire import codec
from broker.wire import messages as m

T = TypeVar("T", bound=m.Message)

#: Ends a wait that would hang; many times what a busy machine takes.
_LIMIT_S = 60.0
_PAUSE_S = 0.005


class FakeAgent:
    """A worker's side of the wire over a DEALER of its own; it sends what the test gives it and keeps every message it gets."""

    def __init__(self, endpoint: str, name: str = "cpu-0") -> None:
        self.name = name
        self.received: list[m.Message] = []
        self.probes = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Close the connection without a `Goodbye`."""
        self._socket.close(linger=0)
        self._context.term()

    def say(self, message: m.Message) -> None:
        """Send a message."""
        self.send([codec.encode(message)])

    def send(self, frames: list[bytes]) -> None:
        """Send frames as they are."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def listen(self) -> None:
        """Take what has come by now."""
        while self._socket.poll(0):
            for message in codec.to_agent(codec.single(self._socket.recv_multipart())):
                if message is None:
                    self.probes += 1
                else:
                    self.received.append(message)

    def all(self, kind: type[T]) -> list[T]:
        """Every message of this kind so far."""
        self.listen()
        return [message for message in self.received if isinstance(message, kind)]

    async def receive(self, kind: type[T], count: int = 1) -> T:
        """The `count`-th message of this kind, waiting for it."""
        await self._until(lambda: len(self.all(kind)) >= count, f"{kind.__name__} {count}")
        return self.all(kind)[count - 1]

    async def probed(self, count: int = 1) -> None:
        """Wait until the broker has greeted this many connections."""

        def enough() -> bool:
            self.listen()
            return self.probes >= count

        await self._until(enough, f"probe {count}")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                while not condition():  # noqa: ASYNC110 - a socket of another context is polled
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not get {what} within {_LIMIT_S:g} s") from None

    async def join(self, free: int = 1, **fields: Any) -> m.Welcome:
        """Wait for the broker's probe, then register."""
        await self.probed()
        return await self.hello(free=free, **fields)

    async def hello(self, free: int = 1, **fields: Any) -> m.Welcome:
        """Register; the answer."""
        welcomes = len(self.all(m.Welcome))
        fields = {"boot": "boot", "seen": 0, **fields}
        self.say(m.Hello(name=self.name, free=free, body=worker_info(), **fields))
        return await self.receive(m.Welcome, welcomes + 1)

    def start(self, run: m.Run, **fields: Any) -> None:
        """Report that this `Run` is in the engine; `fields` of its `Held`."""
        self.say(holding(run.job_id, run.fence, **fields))

    def finish(self, run: m.Run, free: int = 1) -> None:
        """Send a result for this `Run`."""
        self.say(m.Finished(job_id=run.job_id, fence=run.fence, free=free, run_s=0.5, body=RESULT))
