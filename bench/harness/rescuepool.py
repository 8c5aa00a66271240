"""`promisepool` whose workers die at random: what is drawn again, with checkpoints on a disk that all workers share and without.

When a worker dies depends on the seed and its number alone, so that the same jobs meet the same deaths under every arrangement. The broker
notices when the worker's lease ends, and the worker comes back with nothing in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bench.harness.corepool import MODEL, worker_hello
from bench.harness.promisepool import Happening, Order, PoolAttempt, PromisePool
from broker.wire import messages as m

#: Silence after which a worker's job goes back to the queue, and seconds after which a worker that died is back.
LEASE_S, REPAIR_S = 6.0, 60.0


class Deaths(Struct):
    """Cost of the deaths of workers."""

    #: Deaths of workers, and of these, in the middle of a job.
    count: int = 0
    hit: int = 0
    #: Seconds of denoising that were done and in no checkpoint, in all and at one death.
    repeated_s: float = 0.0
    longest_s: float = 0.0
    #: Deaths that cost more than the time between two checkpoints, or one step where that is longer.
    over_interval: int = 0
    #: Jobs that failed, as they lost too many workers.
    given_up: int = 0


class RescuePool(PromisePool):
    """A pool in which each worker dies every `die_every_s` seconds on average (0: never)."""

    def __init__(
        self,
        orders: Sequence[Order],
        workers: int,
        noise: float,
        seed: int,
        *,
        taught: Sequence[float],
        confidence: float,
        die_every_s: float,
        checkpoint_s: float,
        preempt_delay: float = 0.0,
    ) -> None:
        """`checkpoint_s`: seconds of denoising between two checkpoints; 0: there are none, and no job makes room."""
        self.deaths = Deaths()
        self._checkpoint_s = checkpoint_s
        self._die_every_s = die_every_s
        #: Steps of each job that lie on the disk.
        self._on_disk = [0] * len(orders)
        #: Workers that are gone, each with the job that is lost with it (-1: none).
        self._gone: dict[bytes, int] = {}
        #: Which life of each worker this is.
        self._boots = [1] * workers
        self._draws = [random.Random(f"{seed} {number}") for number in range(workers)]
        super().__init__(
            orders,
            workers,
            noise,
            seed,
            confidence=confidence,
            taught=taught,
            preempt_delay=preempt_delay if checkpoint_s else 0.0,
            resumes=checkpoint_s > 0.0,
        )
        self._reports_steps = self._reports_steps or self._resumes
        for number in range(workers):
            self._dies_later(number, 0.0)

    def _happenings(self) -> dict[Happening, Callable[[Any, float], None]]:
        return {**super()._happenings(), "die": self._die, "silent": self._silent, "return": self._return}

    def _dies_later(self, number: int, now: float) -> None:
        if self._die_every_s:
            self._push(now + self._draws[number].expovariate(1.0 / self._die_every_s), "die", number)

    # ------------------------------------------------------------ checkpoints

    def _first(self, run: m.Run) -> int:
        # An engine looks into the directory of its job, whatever was reported to the broker.
        return max(run.kept, self._on_disk[int(run.job_id[1:])])

    def _kept(self, attempt: PoolAttempt, now: float) -> int:
        """Steps of its job on the disk: no more than an interval lies between two checkpoints, unless a step takes longer."""
        if not self._checkpoint_s:
            return 0
        apart = max(1, int(self._checkpoint_s / attempt.step_s))
        done = attempt.step(now)
        kept = done if done >= attempt.last else attempt.first + (done - attempt.first) // apart * apart
        number = int(attempt.run.job_id[1:])
        self._on_disk[number] = max(self._on_disk[number], kept)
        return self._on_disk[number]

    def _hand_back(self, about: tuple[bytes, PoolAttempt, int], now: float) -> None:
        peer, attempt, kept = about
        if self._attempts.get(peer) is attempt:
            number = int(attempt.run.job_id[1:])
            self._on_disk[number] = max(self._on_disk[number], kept)
            super()._hand_back(about, now)

    # ------------------------------------------------------------ deaths

    def _die(self, number: int, now: float) -> None:
        peer = f"worker-{number}".encode()
        self._gone[peer] = -1
        self.deaths.count += 1
        attempt = self._attempts.get(peer)
        if attempt is not None:
            self._note(attempt, now)
            self._gone[peer] = self._leave(peer, attempt, now)
        for outcome in self.outcomes:
            outcome.drawn_by -= {peer}
        self._push(now + LEASE_S, "silent", peer)
        self._push(now + REPAIR_S, "return", number)

    def _note(self, attempt: PoolAttempt, now: float) -> None:
        """Count what a death takes of this attempt."""
        deaths = self.deaths
        deaths.hit += 1
        done_s = max(0.0, min(now - attempt.draws_at, attempt.step_s * (attempt.last - attempt.first)))
        kept_s = max(0, self._kept(attempt, now) - attempt.first) * attempt.step_s
        lost_s = max(0.0, done_s - kept_s)
        deaths.repeated_s += lost_s
        deaths.longest_s = max(deaths.longest_s, lost_s)
        deaths.over_interval += bool(self._checkpoint_s) and lost_s > max(self._checkpoint_s, attempt.step_s) + 1e-6

    def _silent(self, peer: bytes, now: float) -> None:
        self._receive(peer, m.Goodbye(reason="silent"), now)
        number = self._gone[peer]
        job = self._core.job(f"j{number}")
        if job is not None and job.final:
            self.deaths.given_up += 1
            self.outcomes[number].end_s = now
            self._left -= 1

    def _return(self, number: int, now: float) -> None:
        peer = f"worker-{number}".encode()
        del self._gone[peer]
        self._boots[number] += 1
        # It reports its room when its model is loaded.
        hello = replace(worker_hello(number, resumes=self._resumes), boot=str(self._boots[number]), free=0)
        self._receive(peer, hello, now)
        self._receive(peer, m.Heartbeat(seen=0, free=1, model=MODEL, engine="ready"), now)
        self._dies_later(number, now)

    def _run(self, peer: bytes, run: m.Run, now: float) -> None:
        if peer in self._gone:  # what is sent to it is lost
            self._gone[peer] = int(run.job_id[1:])
        else:
            super()._run(peer, run, now)
