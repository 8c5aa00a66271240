"""A simulated worker: runs the agent's side of the protocol over one DEALER and finishes every job at once.

It keeps the agent's rules: `Hello` after each probe and `Identify`, a heartbeat each second with the absolute room and all it holds,
results resent until acknowledged. Runs in its driver's thread; the driver polls `socket` and calls `handle`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable

import zmq

from broker.runtime.dealer import open_dealer
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result

MODEL = "bench"
BEAT_S = 1.0
#: Resend a result that was not acknowledged for so long.
RESEND_S = 2.0

_INFO = codec.encode_body(
    m.WorkerInfo(
        host="bench",
        pid=os.getpid(),
        device="simulated",
        models=(ModelCard(name=MODEL, engine="fake", output="image"),),
    )
)
_RESULT = codec.encode_body(Result())


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """A connected DEALER with the service's own options."""
    return open_dealer(context, endpoint, codec.MAX_REPLY_FRAME)


class SimWorker:
    """Simulated worker. `on_start(job_id)` is called as a job arrives, `on_end(job_id, accepted)` once its result is committed."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        name: str,
        credit: int,
        on_start: Callable[[str], None],
        on_end: Callable[[str, bool], None],
    ) -> None:
        self.socket = socket
        self.name = name
        self.welcome = False
        #: Messages sent and received, heartbeats among them.
        self.messages = 0
        #: Heartbeats that the broker has answered.
        self.answered_beats = 0
        self._credit = credit
        self._on_start = on_start
        self._on_end = on_end
        self._boot = secrets.token_hex(8)
        self._seen = 0
        #: Results not yet acknowledged: job id -> (result, when it was sent).
        self._unacked: dict[str, tuple[m.Finished, float]] = {}
        #: When the next heartbeat is due, monotonic. Its place in the second stays: the simulator of many draws it, as agents do.
        self.next_beat = 0.0

    @property
    def room(self) -> int:
        """Jobs it could take now, beside those it holds: all are done as soon as they come."""
        return self._credit

    def handle(self) -> None:
        """Read all that has come, answer it."""
        runs: list[m.Run] = []
        while True:
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self.messages += 1
            (message,) = codec.to_agent(frame)
            match message:
                case m.Run() as run:
                    self._on_start(run.job_id)
                    runs.append(run)
                case m.ResultAck(job_id=job_id, accepted=accepted):
                    if self._unacked.pop(job_id, None) is not None:
                        self._on_end(job_id, accepted)
                case m.HeartbeatAck():
                    self.answered_beats += 1
                case m.Welcome():
                    self.welcome = True
                case None | m.Identify():
                    self._hello()
                case _:
                    pass
        for run in runs:
            self._work(run)

    def beat(self, now: float) -> None:
        """Heartbeat and resend when it is time; `now` is monotonic."""
        if now < self.next_beat or not self.welcome:
            return
        # From when it was due, not from now: else every delay of the driver would make the rate less than one a second, and beats that were
        # late together would be due together from then on.
        self.next_beat = now - (now - self.next_beat) % BEAT_S + BEAT_S
        self._send(m.Heartbeat(seen=self._seen, free=self.room, held=self._held(), model=MODEL))
        for job_id, (result, sent) in list(self._unacked.items()):
            if now - sent > RESEND_S:
                self._unacked[job_id] = (result, now)
                self._send(result)

    def leave(self) -> None:
        """Send a `Goodbye`: else the broker would give this worker jobs until its silence is noticed, seconds later."""
        self._send(m.Goodbye())

    def _work(self, run: m.Run) -> None:
        self._seen = max(self._seen, run.fence)
        # All room: of what it had received up to this fence, nothing is left to do. Later grants the broker subtracts.
        finished = m.Finished(job_id=run.job_id, fence=run.fence, free=self._credit, body=_RESULT)
        self._unacked[run.job_id] = (finished, time.monotonic())
        self._send(finished)

    def _hello(self) -> None:
        held = self._held()
        self._send(m.Hello(name=self.name, boot=self._boot, seen=self._seen, free=self.room, held=held, body=_INFO))

    def _held(self) -> tuple[m.Held, ...]:
        return tuple(m.Held(job_id=key, fence=kept.fence, phase="finished") for key, (kept, _) in self._unacked.items())

    def _send(self, message: m.Message) -> None:
        try:
            self.socket.send(codec.encode(message), zmq.NOBLOCK)
            self.messages += 1
        except zmq.Again:
            # No connection, or a full one: the next heartbeat repeats all of it.
            pass
