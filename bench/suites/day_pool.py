"""The workers and clients of a simulated day: each is a few numbers, and sends the broker what a real one would.

Machines die without a message and come back with nothing in memory. After a broker was killed, each worker reports what it holds and
repeats what was not acknowledged; clients send again what was not answered. A worker that died reports that itself, when its lease ends.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from bench.suites.day_broker import Clock, DayBroker, Outcome, job_id, number_of
from broker.core.effects import Send
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, ModelCard, Result, encode_spec

#: How long a killed broker is away, and within how long its workers are connected again, seconds.
AWAY_S, RECONNECT_S = 2.0, 2.0
#: Silence after which a worker's jobs go back to the queue; seconds after which a machine that died is back; workers of a machine.
LEASE_S, REPAIR_S, MACHINE = 6.0, 600.0, 8
#: Seconds of loading a model in place of another, until an engine that crashed is back, and of a step, after which a cancel is obeyed.
LOAD_S, RESPAWN_S, STEP_S = 30.0, 20.0, 1.0

EDGE = b"edge"
_RESULT = codec.encode_body(Result())
#: Steps x latent tokens of a large model are some ten thousand a second.
_UNITS_A_SECOND = 1e4


class DayJob(Struct, frozen=True):
    """A job as it comes: when, of which model, how long it takes, by what factor its prediction is off."""

    at_s: float
    model: str
    length_s: float
    error: float = 1.0
    tenant: str = "default"
    #: Seconds after which its client cancels it if it is not over; 0: never.
    cancel_after_s: float = 0.0
    #: Its first attempt takes the engine down half-way.
    crashes: bool = False


class Clients:
    """Submit and cancel jobs, each once, and again until there is an answer."""

    def __init__(self, clock: Clock, broker: DayBroker, jobs: Sequence[DayJob], rng: random.Random) -> None:
        self._clock = clock
        self._broker = broker
        self._jobs = jobs
        self._rng = rng
        self._specs = {model: encode_spec(_spec(model)) for model in {job.model for job in jobs}}
        self._coming = deque(sorted(range(len(jobs)), key=lambda number: jobs[number].at_s))
        #: What is not answered, by its number.
        self._unanswered: dict[int, m.Submit | m.CancelJob] = {}
        self._next_arrival()

    def receive(self, message: m.Message) -> None:
        """Take an answer."""
        if isinstance(message, m.Accepted | m.Rejected | m.CancelReply):
            self._unanswered.pop(message.req, None)

    def repeat(self, message: m.Message, back_at: float) -> None:
        """Send again what was lost with a broker, once the next one is there."""
        if isinstance(message, m.Submit | m.CancelJob):
            self._clock.at(back_at + self._rng.uniform(0.05, 1.0), self._send_again, message.req)

    def _next_arrival(self) -> None:
        if self._coming:
            number = self._coming.popleft()
            self._clock.at(self._jobs[number].at_s, self._arrive, number)

    def _arrive(self, number: int, now: float) -> None:
        job = self._jobs[number]
        submission = m.Submission(model=job.model, units=_UNITS_A_SECOND * job.length_s * job.error, tenant=job.tenant)
        body = self._specs[job.model]
        self._send(m.Submit(req=number, job_id=job_id(number), submission=submission, fresh=True, body=body), now)
        if job.cancel_after_s:
            self._clock.at(now + job.cancel_after_s, self._cancel, number)
        self._next_arrival()

    def _cancel(self, number: int, now: float) -> None:
        self._send(m.CancelJob(req=len(self._jobs) + number, job_id=job_id(number)), now)

    def _send(self, message: m.Submit | m.CancelJob, now: float) -> None:
        self._unanswered[message.req] = message
        if self._broker.up:
            self._broker.receive(EDGE, message, now)
        else:
            self._clock.at(now + 0.5, self._send_again, message.req)

    def _send_again(self, req: int, now: float) -> None:
        message = self._unanswered.get(req)
        if isinstance(message, m.Submit):
            # It may have been taken.
            message = replace(message, fresh=False)
        if message is not None:
            self._send(message, now)


class _Attempt(Struct):
    run: m.Run
    begun_at: float
    stopping: bool = False


class _Worker(Struct):
    """A worker's state."""

    name: str
    peer: bytes
    #: How often its machine has died.
    boot: int = 0
    alive: bool = True
    model: str = ""
    #: Its engine starts again.
    respawning: bool = False
    seen: int = 0
    attempt: _Attempt | None = None
    #: Results that are not acknowledged, by (job, fence).
    unacked: dict[tuple[str, int], m.Message] = field(default_factory=dict)


class Workers:
    """The workers, `MACHINE` to a machine."""

    def __init__(
        self, clock: Clock, broker: DayBroker, jobs: Sequence[DayJob], count: int, rng: random.Random, outcome: Outcome
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._jobs = jobs
        self._rng = rng
        self._outcome = outcome
        models = sorted({job.model for job in jobs})
        cards = tuple(ModelCard(name=model, engine="fake", output="video") for model in models)
        self._info = codec.encode_body(m.WorkerInfo(models=cards))
        self._workers = [_Worker(f"gpu-{n}", f"gpu-{n}".encode()) for n in range(count)]
        self._by_peer = {worker.peer: worker for worker in self._workers}
        for worker in self._workers:
            clock.at(0.0, self._hello, worker)

    def receive(self, send: Send, now: float) -> None:
        """Take a message of the broker to one of them."""
        worker, message = self._by_peer[send.peer], send.message
        if not worker.alive:
            return
        if isinstance(message, m.Run):
            self._take(worker, message, now)
        elif isinstance(message, m.ResultAck):
            worker.unacked.pop((message.job_id, message.fence), None)
        elif isinstance(message, m.Cancel):
            attempt = worker.attempt
            if attempt is not None and attempt.run.fence == message.fence and not attempt.stopping:
                attempt.stopping = True
                self._clock.at(now + STEP_S, self._stopped, worker, attempt)
        elif isinstance(message, m.Identify):
            self._clock.at(now, self._hello, worker)

    def reconnect(self, back_at: float) -> None:
        """They find the broker that is there from then on."""
        for worker in self._workers:
            self._clock.at(back_at + self._rng.uniform(0.05, RECONNECT_S), self._hello, worker)

    def die(self, machine: int, now: float) -> None:
        """A machine is gone with all its workers. The broker notices when their leases end."""
        for worker in self._workers[machine * MACHINE : (machine + 1) * MACHINE]:
            if not worker.alive:
                continue
            if worker.attempt is not None:
                self._outcome.wasted_s += now - worker.attempt.begun_at
                self._outcome.lost_attempts += 1
            worker.alive, worker.attempt, worker.model, worker.respawning = False, None, "", False
            worker.unacked.clear()
            self._clock.at(now + LEASE_S, self._silent, worker)
            self._clock.at(now + REPAIR_S, self._back, worker)

    def _silent(self, worker: _Worker, now: float) -> None:
        self._broker.receive(worker.peer, m.Goodbye(reason="silent"), now)

    def _back(self, worker: _Worker, now: float) -> None:
        worker.alive, worker.boot, worker.seen = True, worker.boot + 1, 0
        self._hello(worker, now)

    def _hello(self, worker: _Worker, now: float) -> None:
        """Register with a broker, with what it holds and what was not acknowledged."""
        if not worker.alive:
            return
        holding, boot = self._holding(worker, now), f"b{worker.boot}"
        self._broker.receive(worker.peer, m.Hello(name=worker.name, boot=boot, body=self._info, **holding), now)
        for message in worker.unacked.values():
            self._broker.receive(worker.peer, message, now)
        self._beat(worker, now)

    def _beat(self, worker: _Worker, now: float) -> None:
        self._broker.receive(worker.peer, m.Heartbeat(model=worker.model, **self._holding(worker, now)), now)

    @staticmethod
    def _holding(worker: _Worker, now: float) -> dict[str, Any]:
        attempt = worker.attempt
        held = () if attempt is None else (m.Held(**_key(attempt), age_s=now - attempt.begun_at),)
        return {"seen": worker.seen, "free": 0 if held or worker.respawning else 1, "held": held}

    def _take(self, worker: _Worker, run: m.Run, now: float) -> None:
        worker.seen = max(worker.seen, run.fence)
        number = number_of(run.job_id)
        job = self._jobs[number]
        length_s = job.length_s + (LOAD_S if worker.model != job.model else 0.0)
        worker.model = job.model
        worker.attempt = attempt = _Attempt(run, now)
        if self._outcome.starts[number] < 0.0:
            self._outcome.starts[number] = now
        self._clock.at(now, self._started, worker, attempt)
        crashes = job.crashes and run.attempt == 1
        ends = self._crash if crashes else self._finish
        self._clock.at(now + length_s * (0.5 if crashes else 1.0), ends, worker, attempt)

    def _started(self, worker: _Worker, attempt: _Attempt, now: float) -> None:
        if worker.attempt is attempt:
            self._beat(worker, now)

    def _finish(self, worker: _Worker, attempt: _Attempt, now: float) -> None:
        if worker.attempt is attempt and not attempt.stopping:
            took_s = now - attempt.begun_at
            message = m.Finished(**_key(attempt), free=1, run_s=took_s, age_s=took_s, body=_RESULT)
            self._report(worker, message, now)

    def _stopped(self, worker: _Worker, attempt: _Attempt, now: float) -> None:
        if worker.attempt is attempt:
            self._outcome.wasted_s += now - attempt.begun_at
            self._report(worker, m.Cancelled(**_key(attempt), free=1, age_s=now - attempt.begun_at), now)

    def _crash(self, worker: _Worker, attempt: _Attempt, now: float) -> None:
        if worker.attempt is not attempt or attempt.stopping:
            return
        self._outcome.wasted_s += now - attempt.begun_at
        worker.model, worker.respawning = "", True
        age_s = now - attempt.begun_at
        message = m.Failed(**_key(attempt), kind=FailureKind.ENGINE_CRASHED, message="killed", free=0, age_s=age_s)
        self._report(worker, message, now)
        self._clock.at(now + RESPAWN_S, self._respawned, worker, worker.boot)

    def _respawned(self, worker: _Worker, boot: int, now: float) -> None:
        if worker.alive and worker.boot == boot:
            worker.respawning = False
            self._beat(worker, now)

    def _report(self, worker: _Worker, message: m.Finished | m.Failed | m.Cancelled, now: float) -> None:
        """Report the end of its attempt, until it is acknowledged."""
        worker.attempt = None
        worker.unacked[message.job_id, message.fence] = message
        self._broker.receive(worker.peer, message, now)


def _spec(model: str) -> JobSpec:
    return JobSpec(model=model, output="video", prompt="x" * 400, width=832, height=480, num_inference_steps=40, seed=1)


def _key(attempt: _Attempt) -> dict[str, Any]:
    return {"job_id": attempt.run.job_id, "fence": attempt.run.fence}
