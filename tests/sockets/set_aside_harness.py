"""A broker in which something raises over single jobs, with the side of an edge and of a worker."""

from __future__ import annotations

from broker.core import invariants
from broker.core.jobs import Cause
from broker.core.state import State
from broker.shell.recovery import Recovery
from broker.testing import submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from tests.sockets.router_bench import Bench

BAD = "bad"


class Planted(RuntimeError):
    """A bug of the core."""


class Harness:
    """A broker, one worker that does what it is told, and an edge that asks again until it is answered."""

    def __init__(self, home, **policy) -> None:
        self.home, self.policy = home, policy
        self.seen = 0
        self.running: dict[str, m.Run] = {}
        self.unacknowledged: dict[int, m.AgentResult] = {}
        self.slow: set[str] = set()
        self.failing: set[str] = set()
        self.mute = self.full = False
        self.now = 0.0
        self.start()

    def start(self) -> None:
        """A new broker process on the same home."""
        self.bench = Bench(self.home, **self.policy)
        self.bench.now = max(self.bench.now, self.now)
        self.recovery = Recovery(self.bench.core, self.bench.journal)
        self.bench.router._recovery = self.recovery
        self.recovery.load(self.bench.now)
        self.hello()
        self.turn(0.0)

    def restart(self) -> None:
        self.now = self.bench.now
        self.bench.journal.close()
        self.start()

    # the worker

    def held(self) -> tuple[m.Held, ...]:
        held = [m.Held(job_id=run.job_id, fence=run.fence, phase="denoise") for run in self.running.values()]
        held += [m.Held(job_id=r.job_id, fence=r.fence, phase="finished") for r in self.unacknowledged.values()]
        return tuple(held)

    @property
    def free(self) -> int:
        return 0 if self.running or self.full else 1

    def hello(self) -> None:
        fields = {"seen": self.seen, "free": self.free, "held": self.held(), "body": worker_info()}
        self.bench.agent(m.Hello(name="cpu-0", boot="b", **fields))

    def turn(self, seconds: float = 0.5, turns: int = 1) -> None:
        """Let everybody speak, and time pass."""
        for _ in range(turns):
            if not self.mute:
                self._speak()
            self.bench.run(seconds)
            while self.bench.run():
                pass
            invariants.check(self.bench.core.state)
            heard, self.bench.wires.deliveries = self.bench.wires.deliveries, []
            self.heard = [message for _, message in heard]
            for to, message in heard:
                if to.startswith(b"b") and not self.mute:
                    self._hear(message)

    def _speak(self) -> None:
        self.bench.agent(m.Heartbeat(seen=self.seen, free=self.free, held=self.held(), engine="ready"))
        for result in self.unacknowledged.values():
            self.bench.agent(result)

    def _hear(self, message: m.Message) -> None:
        match message:
            case m.Identify():
                self.hello()
            case m.Run(job_id=job_id, fence=fence) if fence > self.seen:
                self.seen = fence
                if job_id in self.slow:
                    self.running[job_id] = message
                elif job_id in self.failing:
                    self.unacknowledged[fence] = m.Failed(
                        job_id=job_id, fence=fence, kind="engine_error", message="no", free=1
                    )
                else:
                    self.unacknowledged[fence] = m.Finished(
                        job_id=job_id, fence=fence, free=1, run_s=1.0, body=codec.encode_body(Result())
                    )
            case m.Cancel(job_id=job_id, fence=fence) if job_id in self.running:
                del self.running[job_id]
                self.unacknowledged[fence] = m.Cancelled(job_id=job_id, fence=fence, free=1)
            case m.ResultAck(fence=fence):
                self.unacknowledged.pop(fence, None)

    # the edge

    def ask(self, message: m.Message, kind: type, tries: int = 8):
        """The answer of this kind; asked for until there is one."""
        for _ in range(tries):
            self.bench.edge(message)
            self.turn(0.1)
            for answer in self.heard:
                if isinstance(answer, kind):
                    return answer
        raise AssertionError(f"no answer to {message}")

    def submit(self, job_id: str, kind: type = m.Accepted, **fields):
        body = b"spec of " + job_id.encode()
        return self.ask(submit_message(job_id, body, 1, **fields), kind)

    def view(self, job_id: str) -> m.JobView:
        return codec.job_view(self.ask(m.GetJob(req=2, job_id=job_id), m.JobReply).body)

    def settle(self, action: str, job_id: str = BAD) -> str:
        return self.ask(m.SettleSetAside(req=3, job_id=job_id, action=action), m.SetAsideSettled).outcome

    def listed(self) -> list[m.JobView]:
        return codec.job_views(self.ask(m.ListSetAside(req=4), m.Jobs).body)


def plant(monkeypatch, cause: Cause, *, late: bool = False, job_id: str = BAD) -> None:
    """The core raises whenever this job is moved for this cause, before or after it has moved, be it by one move or by two at once."""
    move = State.move
    pairs = {
        "grant_new": (Cause.SUBMITTED, Cause.DISPATCHED),
        "start_and_finish": (Cause.STARTED, Cause.FINISHED),
    }

    def planted_pair(name):
        own = getattr(State, name)

        def moved(state, job, *times):
            hit = job.id == job_id and cause in pairs[name]
            if hit and not late:
                raise Planted(f"{cause} of {job_id}")
            own(state, job, *times)
            if hit:
                raise Planted(f"{cause} of {job_id}")

        return moved

    for name in pairs:
        monkeypatch.setattr(State, name, planted_pair(name))

    def planted(state, job, why, now, note=""):
        if job.id == job_id and why is cause and not late:
            raise Planted(f"{cause} of {job_id}")
        move(state, job, why, now, note)
        if job.id == job_id and why is cause:
            raise Planted(f"{cause} of {job_id}")

    monkeypatch.setattr(State, "move", planted)


def lead(harness: Harness, cause: Cause) -> None:
    """Bring the bad job to where it moves for this cause."""
    match cause:
        case Cause.RETRIED | Cause.DUE | Cause.FAILED:
            harness.failing.add(BAD)
            harness.submit(BAD)
        case Cause.EXPIRED:
            harness.submit(BAD, pinned="nobody", deadline_s=2.0)
        case Cause.CANCELLED:
            harness.submit(BAD, pinned="nobody")
            harness.turn()
            harness.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply)
        case Cause.STOP_REQUESTED | Cause.LOST:
            harness.slow.add(BAD)
            harness.submit(BAD)
            harness.turn(turns=3)
            if cause is Cause.LOST:
                harness.mute = True
                harness.turn(1.0, turns=8)
                harness.mute = False
            else:
                harness.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply)
        case Cause.DISPATCHED:
            harness.full = True
            harness.turn()
            harness.submit(BAD)
            harness.full = False
        case _:
            harness.submit(BAD)
