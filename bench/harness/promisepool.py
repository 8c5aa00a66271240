"""The broker's own core with promised and plain jobs of several tenants on a made-up clock: `corepool` with clients that request times.

Its workers denoise: they report their steps with each heartbeat, and hand a job back with a checkpoint at a `Park`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Literal

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
#: Denoising steps of a job, unless its order has others: that of a job of four minutes takes six seconds.
STEPS = 40


class Delays(Struct, frozen=True, kw_only=True):
    """What takes time on a worker beside steps, seconds."""

    #: From the end of a step to the worker's message that the job is out, and from its next start to its next step: a checkpoint of some
    #: ten megabytes is written and read in far less. An engine that has drawn the job before still has what its prompts gave
    #: (`workers.engine.prompts`); another one finds that in the checkpoint, and may have to fetch it first.
    checkpoint_s: float = 0.2
    resume_s: float = 0.2
    resume_elsewhere_s: float = 0.3
    #: Before the first step, and after the last, of every job.
    before_s: float = 0.0
    after_s: float = 0.0
    #: An agent reports a step when it reads it, but not sooner after its last report.
    seen_s: float = 0.05
    beat_gap_s: float = 0.25


class Group(Struct, frozen=True):
    """A worker: its GPUs, and how many times as fast as one it is."""

    gpus: int = 1
    speed: float = 1.0


class Order(Struct, frozen=True):
    """A job as its client orders it."""

    at_s: float
    #: What it would take by its size; what it does take is off by the noise.
    size_s: float
    length_s: float
    tenant: str = "default"
    #: Within how many seconds it is requested; 0: whenever.
    within_s: float = 0.0
    steps: int = STEPS


class Outcome(Struct):
    """What became of it."""

    #: It was taken, with its promise if it requested one; else what was offered instead, seconds.
    taken: bool = False
    offered_s: float = 0.0
    #: Its first start, and its end.
    start_s: float = -1.0
    end_s: float = 0.0
    #: The time that was promised; 0: none was.
    ready_by: float = 0.0
    #: When its promise was broken; 0: never.
    broken_at: float = 0.0
    #: How often it made room.
    parks: int = 0
    #: (start, end) of each time that it was in an engine.
    spans: list[tuple[float, float]] = []
    #: The workers that have drawn a part of it.
    drawn_by: frozenset[bytes] = frozenset()


class PoolAttempt(Struct):
    """The attempt that a worker is at."""

    run: m.Run
    begun_at: float
    #: From when on it denoises, its step then, its last one, and seconds of each step.
    draws_at: float
    first: int
    last: int
    step_s: float
    parking: bool = False

    def step(self, now: float) -> int:
        """Steps of the job that are done."""
        return min(self.last, self.first + max(0, int((now - self.draws_at) / self.step_s + 1e-9)))


#: What comes at its time. Workers die and return in `rescuepool` alone.
Happening = Literal["submit", "end", "back", "beat", "die", "silent", "return"]


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
        preempt_delay: float = 0.0,
        delays: Delays | None = None,
        resumes: bool = True,
        groups: Sequence[Group] = (),
    ) -> None:
        """`preempt_delay`: as in the broker's policy; 0: every job runs to its end. `resumes`: jobs go on from checkpoints.

        `groups`: what the first workers are; the others have one GPU.
        """
        policy = Policy(
            queue_limit=10_000_000,
            suspect_after_s=1e9,
            lost_after_s=2e9,
            preempt=preempt_delay > 0.0,
            preempt_delay=preempt_delay,
        )
        self._core = Core(1, policy, 0.0)
        rng = random.Random(seed)
        rates = [(MODEL, UNITS_A_SECOND * size, size * rng.lognormvariate(0.0, noise), 1) for size in taught]
        self._core.restore([], rates, 0.0)
        self._orders = orders
        self._confidence = confidence
        self._resumes = resumes
        #: Without either the progress of a job is not read.
        self._reports_steps = policy.preempt
        self._delays = delays or Delays()
        self._events: list[tuple[float, int, Happening, Any]] = []
        self._order = 0
        self._left = len(orders)
        self._attempts: dict[bytes, PoolAttempt] = {}
        self.outcomes = [Outcome() for _ in orders]
        self._speeds: dict[bytes, float] = {}
        for number in range(workers):
            peer = f"worker-{number}".encode()
            group = groups[number] if number < len(groups) else Group()
            self._speeds[peer] = group.speed
            self._receive(peer, worker_hello(number, resumes=resumes, gpus=group.gpus), 0.0)
            self._receive(peer, m.Heartbeat(seen=0, free=1, model=MODEL, engine="ready"), 0.0)
        for number, order in enumerate(orders):
            self._push(order.at_s, "submit", number)

    def run(self) -> list[Outcome]:
        """What became of each order, in their order."""
        happenings = self._happenings()
        while self._left:
            now, _, what, about = heapq.heappop(self._events)
            while (at := self._core.next_deadline()) is not None and at <= now:
                self._carry_out(self._core.tick(at), at)
            happenings[what](about, now)
        return self.outcomes

    def _happenings(self) -> dict[Happening, Callable[[Any, float], None]]:
        return {"submit": self._submit, "end": self._end, "back": self._hand_back, "beat": self._beat}

    def _push(self, at: float, what: Happening, about: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, what, about))

    def _receive(self, peer: bytes, message: m.Message, now: float) -> None:
        self._carry_out(self._core.receive(peer, message, now, NOTHING), now)

    # ------------------------------------------------------------ clients

    def _submit(self, number: int, now: float) -> None:
        order, outcome = self._orders[number], self.outcomes[number]
        fixed = m.Submission(model=MODEL, units=UNITS_A_SECOND * order.size_s, tenant=order.tenant, steps=order.steps)
        wish = m.PromiseWish(within_s=order.within_s, confidence=self._confidence) if order.within_s else None
        self._receive(EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, promise=wish, body=b""), now)
        if wish is not None and not outcome.taken and outcome.offered_s:
            wish = m.PromiseWish(within_s=outcome.offered_s * 1.001, confidence=self._confidence)
            self._receive(
                EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, promise=wish, body=b""), now
            )
        if not outcome.taken:
            self._receive(EDGE, m.Submit(req=number, job_id=f"j{number}", submission=fixed, body=b""), now)

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
            elif isinstance(message, m.Park):
                self._park(effect.peer, message, now)

    # ------------------------------------------------------------ workers

    def _run(self, peer: bytes, run: m.Run, now: float) -> None:
        number = int(run.job_id[1:])
        order, delays = self._orders[number], self._delays
        begun = now + HANDOVER_S
        outcome = self.outcomes[number]
        known = peer in outcome.drawn_by
        first = self._first(run)
        draws_at = begun + delays.before_s
        if first:
            draws_at = begun + (delays.resume_s if known else delays.resume_elsewhere_s)
        outcome.drawn_by |= {peer}
        step_s = (order.length_s - delays.before_s - delays.after_s) / order.steps / self._speeds[peer]
        if outcome.start_s < 0.0:
            outcome.start_s = begun
        self._attempts[peer] = attempt = PoolAttempt(run, begun, draws_at, first, order.steps, step_s)
        self._beat_of(peer, now)
        self._beat_later(peer, attempt, begun)
        self._push(draws_at + step_s * (order.steps - first) + delays.after_s, "end", (peer, attempt))

    def _first(self, run: m.Run) -> int:
        """The step from which on an attempt denoises."""
        return run.kept

    def _kept(self, attempt: PoolAttempt, now: float) -> int:
        """The steps that are in a checkpoint by its worker's report."""
        return 0

    def _beat_later(self, peer: bytes, attempt: PoolAttempt, now: float) -> None:
        if self._reports_steps:
            steps = max(1, ceil((now + self._delays.beat_gap_s - attempt.draws_at) / attempt.step_s))
            self._push(attempt.draws_at + steps * attempt.step_s + self._delays.seen_s, "beat", (peer, attempt))

    def _beat(self, about: tuple[bytes, PoolAttempt], now: float) -> None:
        peer, attempt = about
        if self._attempts.get(peer) is attempt:
            self._beat_of(peer, now)
            self._beat_later(peer, attempt, now)

    def _beat_of(self, peer: bytes, now: float) -> None:
        attempt = self._attempts[peer]
        shown: dict[str, Any] = {}
        if self._reports_steps:
            kept = self._kept(attempt, now)
            shown = {"phase": "denoise", "step": attempt.step(now), "total": attempt.last, "kept": kept}
        held = (m.Held(job_id=attempt.run.job_id, fence=attempt.run.fence, age_s=now - attempt.begun_at, **shown),)
        self._receive(peer, m.Heartbeat(seen=attempt.run.fence, free=0, held=held, model=MODEL, engine="busy"), now)

    def _park(self, peer: bytes, message: m.Park, now: float) -> None:
        attempt = self._attempts.get(peer)
        if attempt is None or attempt.run.fence != message.fence or attempt.parking:
            return
        # A job that is past its last step but one ends as usual.
        done = attempt.step(now) + 1
        if done < attempt.last:
            attempt.parking = True
            at = attempt.draws_at + (done - attempt.first) * attempt.step_s + self._delays.checkpoint_s
            self._push(at, "back", (peer, attempt, done))

    def _hand_back(self, about: tuple[bytes, PoolAttempt, int], now: float) -> None:
        peer, attempt, kept = about
        number = self._leave(peer, attempt, now)
        self.outcomes[number].parks += 1
        refusal = m.Refused(
            job_id=attempt.run.job_id,
            fence=attempt.run.fence,
            reason="parked",
            free=1,
            kept=kept,
            age_s=now - attempt.begun_at,
        )
        self._receive(peer, refusal, now)

    def _end(self, about: tuple[bytes, PoolAttempt], now: float) -> None:
        peer, attempt = about
        if self._attempts.get(peer) is not attempt or attempt.parking:
            return
        number = self._leave(peer, attempt, now)
        self._left -= 1
        outcome = self.outcomes[number]
        outcome.end_s = now
        run, length_s = attempt.run, self._orders[number].length_s / self._speeds[peer]
        finished = m.Finished(
            job_id=run.job_id, fence=run.fence, free=1, run_s=length_s, age_s=now - attempt.begun_at, body=_RESULT
        )
        job = self._core.job(run.job_id)
        self._receive(peer, finished, now)
        if job is not None and job.promise is not None:
            outcome.broken_at = job.promise.broken_at

    def _leave(self, peer: bytes, attempt: PoolAttempt, now: float) -> int:
        del self._attempts[peer]
        number = int(attempt.run.job_id[1:])
        outcome = self.outcomes[number]
        outcome.spans = [*outcome.spans, (attempt.begun_at, now)]
        return number


_RESULT = codec.encode_body(Result())
