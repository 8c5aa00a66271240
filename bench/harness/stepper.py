"""Simulated worker whose job takes a step on the bench's command, as a source of an edge's events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import zmq

from bench.harness.driver import padded_spec
from bench.harness.simworker import MODEL, SimWorker, dealer
from bench.report.errors import BenchError
from broker.runtime.settings import CommonSettings
from broker.wire import codec
from broker.wire import messages as m

_PATIENCE_S = 20.0


class Attempt(NamedTuple):
    """Attempt at a job that a simulated worker holds."""

    worker: str
    job_id: str
    fence: int


class _Worker(SimWorker):
    """Finishes the first job at once, holds the second."""

    held: m.Held | None = None

    def _work(self, run: m.Run) -> None:
        if run.job_id == "final":
            super()._work(run)
            return
        self._seen = max(self._seen, run.fence)
        self.held = m.Held(job_id=run.job_id, fence=run.fence, phase="denoise", step=0, total=1_000_000)
        self.beat_now()

    def _held(self) -> tuple[m.Held, ...]:
        return (*super()._held(), *((self.held,) if self.held else ()))

    @property
    def room(self) -> int:
        return 0 if self.held else 1

    def beat_now(self) -> None:
        """A heartbeat with what is held now."""
        self.next_beat = 0.0
        self.beat(time.monotonic())


class StepFeeder:
    """Three jobs: one waits, one runs step by step, one is done."""

    def __init__(self, settings: CommonSettings) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = dealer(self._context, settings.front_endpoint)
        self._worker = _Worker(dealer(self._context, settings.back_endpoint), "sim-0", 1, lambda _: None, self._on_end)
        self._accepted: set[int] = set()
        self._ended = False

    def begin(self) -> tuple[str, str, str]:
        """Ids of the waiting, the running and the finished job. Raises `BenchError`."""
        for req, job_id in enumerate(("final", "running", "waiting"), start=1):
            submit = m.Submit(
                req=req, job_id=job_id, submission=m.Submission(model=MODEL, units=1.0), body=padded_spec(600)
            )
            self._front.setsockopt(zmq.SNDTIMEO, int(_PATIENCE_S * 1000))
            self._front.send(codec.encode(submit))
            self._until(lambda: req in self._accepted)  # noqa: B023  # called at once
            if job_id == "final":
                self._until(lambda: self._ended)
            elif job_id == "running":
                self._until(lambda: self._worker.held is not None)
        return "waiting", "running", "final"

    @property
    def attempt(self) -> Attempt:
        """The attempt at the running job."""
        held = self._worker.held
        assert held is not None
        return Attempt(self._worker.name, held.job_id, held.fence)

    def step(self) -> None:
        """The running job is one step further."""
        held = self._worker.held
        assert held is not None
        self._worker.held = m.Held(
            job_id=held.job_id, fence=held.fence, phase="denoise", step=held.step + 1, total=held.total
        )
        self.beat()

    def beat(self) -> None:
        """Stay alive."""
        self._worker.handle()
        self._worker.beat_now()

    def close(self) -> None:
        for socket in (self._front, self._worker.socket):
            socket.close(linger=0)
        self._context.term()

    def _until(self, done: Callable[[], bool]) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not done():
            if time.monotonic() > give_up:
                raise BenchError(f"the broker has not served a simulated worker within {_PATIENCE_S:.0f} s")
            self._worker.handle()
            self._worker.beat(time.monotonic())
            self._read_front()
            time.sleep(0.002)

    def _read_front(self) -> None:
        while self._front.poll(0):
            for message in codec.to_edge(self._front.recv()):
                match message:
                    case m.Accepted(req=req):
                        self._accepted.add(req)
                    case m.Rejected(code=code, message=reason):
                        raise BenchError(f"the broker refused a job: {code}: {reason}")
                    case _:
                        pass

    def _on_end(self, job_id: str, accepted: bool) -> None:
        self._ended = True
