"""The broker's own core with promised and plain jobs of several tenants on a made-up clock: `corepool` with clients that ask for times."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from bench.harness.corepool import EDGE, HANDOVER_S, MODEL, worker_hello
from broker.core.effects import Effect, Send
from broker.core.lookups import NOTHING
from broker.core.machine import Core, Policy
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result

#: Units of one second of work: steps x latent tokens of a large model.
UNITS_A_SECOND = 1e4


class Order(Struct, frozen=True):
    """A job as its client orders it."""

    at_s: float
    #: What it would take by its size; what it does take is off by the noise.
    size_s: float
    length_s: float
    tenant: str = "default"
    #: Within how many seconds it is asked for; 0: whenever.
    within_s: float = 0.0


class Outcome(Struct):
    """What became of it."""

    #: It was taken, with its promise if it asked for one; else what was offered instead, seconds.
    taken: bool = False
    offered_s: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0
    #: The time that was promised; 0: none was.
    ready_by: float = 0.0
    #: When its client was told that it comes later; 0: never.
    told_at: float = 0.0


class PromisePool:
    """Drives one core through all orders. A client that is refused takes the time that it is offered."""

    def __init__(
        self,
        orders: Sequence[Order],
        workers: int,
        noise: float,
        seed: int,
        *,
        confidence: float,
        taught: Sequence[float],
    ) -> None:
        policy = Policy(queue_limit=10_000_000, suspect_after_s=1e9, lost_after_s=2e9)
        self._core = Core(1, policy, 0.0)
        rng = random.Random(seed)
        rates = [(MODEL, UNITS_A_SECOND * size, size * rng.lognormvariate(0.0, noise)) for size in taught]
        self._core.restore([], rates, 0.0)
        self._orders = orders
        self._confidence = confidence
        self._events: list[tuple[float, int, Any]] = []
        self._order = 0
        self.outcomes = [Outcome() for _ in orders]
        for number in range(workers):
            peer = f"worker-{number}".encode()
            self._hear(peer, worker_hello(number), 0.0)
            self._hear(peer, m.Heartbeat(seen=0, free=1, model=MODEL, engine="ready"), 0.0)
        for number, order in enumerate(orders):
            self._push(order.at_s, number)

    def run(self) -> list[Outcome]:
        """What became of each order, in their order."""
        while self._events:
            now, _, what = heapq.heappop(self._events)
            while (at := self._core.next_deadline()) is not None and at <= now:
                self._carry_out(self._core.tick(at), at)
            if isinstance(what, int):
                self._submit(what, now)
            else:
                peer, run, length_s = what
                self._end(peer, run, length_s, now)
        return self.outcomes

    def _push(self, at: float, what: int | tuple[bytes, m.Run, float]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, what))

    def _hear(self, peer: bytes, message: m.Message, now: float) -> None:
        self._carry_out(self._core.receive(peer, message, now, NOTHING), now)

    def _submit(self, number: int, now: float) -> None:
        order, outcome = self._orders[number], self.outcomes[number]
        fixed = m.Submission(model=MODEL, units=UNITS_A_SECOND * order.size_s, tenant=order.tenant)
        wish = m.PromiseWish(within_s=order.within_s, confidence=self._confidence) if order.within_s else None
        self._hear(EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, promise=wish, body=b""), now)
        if wish is not None and not outcome.taken and outcome.offered_s:
            wish = m.PromiseWish(within_s=outcome.offered_s * 1.001, confidence=self._confidence)
            self._hear(EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, promise=wish, body=b""), now)
        if not outcome.taken:
            self._hear(EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, body=b""), now)

    def _end(self, peer: bytes, run: m.Run, length_s: float, now: float) -> None:
        number = int(run.job_id[1:])
        self.outcomes[number].end_s = now
        finished = m.Finished(job_id=run.job_id, fence=run.fence, free=1, run_s=length_s, age_s=length_s, body=_RESULT)
        job = self._core.job(run.job_id)
        self._hear(peer, finished, now)
        if job is not None and job.promise is not None:
            self.outcomes[number].told_at = job.promise.broken_at

    def _carry_out(self, effects: list[Effect], now: float) -> None:
        self._core.committed()
        for effect in effects:
            if not isinstance(effect, Send):
                continue
            message = effect.message
            if isinstance(message, m.Accepted):
                outcome = self.outcomes[message.req]
                outcome.taken = True
                if message.admission is not None and message.admission.promise is not None:
                    outcome.ready_by = message.admission.promise.ready_by
            elif isinstance(message, m.Rejected):
                self.outcomes[message.req].offered_s = message.earliest_s
            elif isinstance(message, m.Run):
                self._run(effect.peer, message, now)

    def _run(self, peer: bytes, run: m.Run, now: float) -> None:
        number = int(run.job_id[1:])
        begun = now + HANDOVER_S
        self.outcomes[number].start_s = begun
        length_s = self._orders[number].length_s
        held = (m.Held(job_id=run.job_id, fence=run.fence),)
        self._hear(peer, m.Heartbeat(seen=run.fence, free=0, held=held, model=MODEL, engine="busy"), now)
        self._push(begun + length_s, (peer, run, length_s))


_RESULT = codec.encode_body(Result())
