"""The broker's own core with simulated workers on a made-up clock: the code that decides in production, without its sockets."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

from bench.harness.policies import Job
from broker.core.effects import Effect, Send
from broker.core.lookups import NOTHING
from broker.core.machine import Core, Policy
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result

EDGE = b"edge"
MODEL = "bench"
#: Measured between a worker's result and its next job, with the commit in between; charged to every job here.
HANDOVER_S = 0.0005

_RESULT = codec.encode_body(Result())


def worker_hello(number: int, *, resumes: bool = False, gpus: int = 1) -> m.Hello:
    """How a simulated worker introduces itself; `resumes`: its model's jobs go on from checkpoints."""
    card = ModelCard(name=MODEL, engine="fake", output="video", resumes=resumes)
    body = codec.encode_body(m.WorkerInfo(models=(card,), gpus=gpus))
    return m.Hello(name=f"worker-{number}", boot="1", seen=0, free=1, body=body)


class CorePool:
    """Drives one core through all jobs. `error`: standard deviation of the logarithm of predicted over true length."""

    def __init__(self, jobs: Sequence[Job], workers: int, error: float, seed: int) -> None:
        # Silence proves nothing here: heartbeats would only slow the simulation down.
        policy = Policy(queue_limit=10_000_000, suspect_after_s=1e9, lost_after_s=2e9)
        self._core = Core(1, policy, 0.0)
        self._jobs = jobs
        self._random = random.Random(seed)
        self._error = error
        #: (time, order, what): an arrival (job number) or a job's end (peer, run message).
        self._events: list[tuple[float, int, int | tuple[bytes, m.Run, float]]] = []
        self._order = 0
        self.starts = [0.0] * len(jobs)
        for number in range(workers):
            peer = f"worker-{number}".encode()
            self._carry_out(self._core.receive(peer, worker_hello(number), 0.0, NOTHING), 0.0)
            beat = m.Heartbeat(seen=0, free=1, model=MODEL)
            self._carry_out(self._core.receive(peer, beat, 0.0, NOTHING), 0.0)
        for number, job in enumerate(jobs):
            self._push(job.at_s, number)

    def run(self) -> list[float]:
        """Each job's start, in the order of the jobs."""
        while self._events:
            now, _, what = heapq.heappop(self._events)
            if isinstance(what, int):
                self._submit(what, now)
            else:
                self._end(*what, now)
        return self.starts

    def _push(self, at: float, what: int | tuple[bytes, m.Run, float]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, what))

    def _submit(self, number: int, now: float) -> None:
        # The cost features of a job give its length up to an error.
        # Steps x latent tokens of a large model are some ten thousand a second.
        units = 1e4 * self._jobs[number].length_s * self._random.lognormvariate(0.0, self._error)
        submit = m.Submit(req=number, job_id=f"j{number}", submission=m.Submission(model=MODEL, units=units), body=b"")
        self._carry_out(self._core.receive(EDGE, submit, now, NOTHING), now)

    def _end(self, peer: bytes, run: m.Run, length_s: float, now: float) -> None:
        finished = m.Finished(job_id=run.job_id, fence=run.fence, free=1, run_s=length_s, age_s=length_s, body=_RESULT)
        self._carry_out(self._core.receive(peer, finished, now, NOTHING), now)

    def _carry_out(self, effects: list[Effect], now: float) -> None:
        self._core.committed()
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, m.Run):
                run = effect.message
                number = int(run.job_id[1:])
                begun = now + HANDOVER_S
                self.starts[number] = begun
                length_s = self._jobs[number].length_s
                held = (m.Held(job_id=run.job_id, fence=run.fence),)
                beat = m.Heartbeat(seen=run.fence, free=0, held=held, model=MODEL)
                self._carry_out(self._core.receive(effect.peer, beat, now, NOTHING), now)
                self._push(begun + length_s, (effect.peer, run, length_s))
