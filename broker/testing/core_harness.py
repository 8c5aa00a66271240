"""A core driven by hand: messages in, effects out, on a clock that only the test moves."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, TypeVar

from msgspec.structs import replace

from broker.core import invariants
from broker.core.effects import DeliveryChanged, Effect, Marked, PeerGone, RecordDeleted, Send, SendRun, Transition
from broker.core.jobs import Cause, Job
from broker.core.lookups import NOTHING
from broker.core.machine import Core, Policy
from broker.shell.executor import Executor
from broker.shell.journal.journal import Journal
from broker.shell.lookups import Archive, look_up, with_spec
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.testing.memory_archive import MemoryArchive
from broker.testing.samples import EDGE, RESULT, UNIT, peer_of, submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m

T = TypeVar("T", bound=m.Message)

#: What the harness' clock begins at.
START = 1_000_000.0


def feed(core: Core, archive: Archive, peer: bytes, message: m.Message | PeerGone, now: float) -> list[Effect]:
    """Give the core a message with what it needs from the archive; its effects."""
    lookup = None if isinstance(message, PeerGone) else core.needs(peer, message)
    return core.receive(peer, message, now, NOTHING if lookup is None else look_up(archive, lookup, now))


def quiet_executor(journal: Journal) -> Executor:
    """Executor of effects as in the service, with metrics of its own and no log."""
    executor = Executor(journal, Metrics(PeerLimiter()))
    executor.log_transitions = False
    return executor


class CoreHarness:
    """A core, its archive and a clock that tests move: messages in, effects out, invariants checked after each."""

    def __init__(self, policy: Policy | None = None, archive: MemoryArchive | None = None, epoch: int = 1) -> None:
        self.policy = policy or Policy()
        self.archive = archive or MemoryArchive(epoch)
        self.now = START
        self.core = Core(self.archive.epoch, self.policy, self.now)
        self.effects: list[Effect] = []
        self.req = 0

    # feeding

    def feed(self, peer: bytes, message: m.Message | PeerGone) -> list[Effect]:
        """The effects of one message."""
        return self.apply(feed(self.core, self.archive, peer, message, self.now))

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        """Let time pass, waking the core at each of its deadlines; the effects of all of them."""
        end = self.now + seconds
        effects: list[Effect] = []
        while (at := self.core.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            effects += self.apply(self.core.tick(self.now))
        self.now = end
        return effects

    def apply(self, effects: list[Effect]) -> list[Effect]:
        """Do with the archive what the router does with the journal at the end of a pass; the effects, their specs filled in, and what
        watchers are sent."""
        effects = [*effects, *self.core.notify_watchers()]
        effects = [self._with_spec(effect) if isinstance(effect, SendRun) else effect for effect in effects]
        durable = False
        for effect in effects:
            if isinstance(effect, Transition):
                self.archive.stage(effect.job, lazy=not effect.durable)
                durable |= effect.durable
            elif isinstance(effect, RecordDeleted):
                self.archive.forget(effect.job_id)
                durable = True
            elif isinstance(effect, Marked):
                self.archive.mark(effect.job, effect.mark)
                durable = True
            elif isinstance(effect, DeliveryChanged):
                self.archive.deliveries.stage(effect.delivery)
                durable = True
        if durable:
            self.archive.commit(lazy=False)
        self.core.committed()
        invariants.check(self.core.state, self.archive.deliveries.of_job)
        self.effects = effects
        return effects

    def _with_spec(self, effect: SendRun) -> Send:
        return Send(effect.peer, with_spec(self.archive, effect.message), effect.early)

    def restart(self) -> None:
        """Kill the broker, with what it had not committed, and start another over its archive."""
        self.archive.discard()
        self.core = Core(self.archive.epoch, self.policy, self.now)
        self.core.restore(self.archive.live(), [], self.now)
        self.apply(self.core.tick(self.now))

    # edges

    def submit(self, job_id: str, body: bytes = b"spec", **fields: Any) -> m.Message:
        """Submit and return the answer."""
        self.req += 1
        effects = self.feed(EDGE, submit_message(job_id, body, self.req, **{"units": UNIT, **fields}))
        return next(
            e.message for e in effects if isinstance(e, Send) and isinstance(e.message, m.Accepted | m.Rejected)
        )

    def cancel(self, job_id: str) -> str:
        """Cancel and return the outcome."""
        return self.ask(m.CancelJob(req=0, job_id=job_id), m.CancelReply).outcome

    def control(self, job_id: str, action: m.JobAction) -> str:
        """Pause, resume or commit, and return the outcome."""
        return self.ask(m.ControlJob(req=0, job_id=job_id, action=action), m.ControlReply).outcome

    def ask(self, message: m.Message, kind: type[T]) -> T:
        """The answer to an edge's message."""
        return sent(self.feed(EDGE, message), kind)[0]

    def view(self, job_id: str) -> m.JobView:
        """The job's view, as edges get it."""
        view: m.JobView = codec.job_view(self.ask(m.GetJob(req=0, job_id=job_id), m.JobReply).body)
        return view

    # agents

    def hello(
        self, name: str, *held: m.Held, boot: str = "b1", seen: int = 0, free: int = 1, **options: Any
    ) -> list[Effect]:
        """Register a worker."""
        body = options.pop("body", None) or worker_info()
        peer = options.pop("peer", peer_of(name))
        return self.feed(peer, m.Hello(name=name, boot=boot, seen=seen, free=free, held=held, body=body))

    def beat(self, name: str, *held: m.Held, seen: int = 0, free: int = 0, **fields: Any) -> list[Effect]:
        """Send a worker's heartbeat."""
        return self.feed(peer_of(name), m.Heartbeat(seen=seen, free=free, held=held, **fields))

    def start(self, name: str, job_id: str) -> list[Effect]:
        """Send the worker's next heartbeat with the job's current attempt, beside those that run there."""
        worker, job = self.core.state.pool.workers.get(name), self.job(job_id)
        assert worker is not None, f"no worker {name}"
        running = [self.job(other) for other in worker.held if other != job_id and self.state(other) == "running"]
        held = tuple(
            m.Held(job_id=one.id, fence=one.fence, phase=one.phase, step=one.step, total=one.total)
            for one in [*running, job]
        )
        taken = bisect_right(worker.unseen, job.fence)
        fields = {"seen": max(worker.seen, job.fence), "free": max(0, worker.free - taken), "held": held}
        return self.feed(peer_of(name), replace(worker.stats, **fields))

    def hand_back(self, name: str, job_id: str, kept: int = 0, free: int = 1) -> list[Effect]:
        """Bring a job back that was begun, with so many steps of it in a checkpoint."""
        message = m.Refused(job_id=job_id, fence=self.job(job_id).fence, free=free, age_s=1.0, kept=kept)
        return self.feed(peer_of(name), message)

    def finish(self, name: str, job_id: str, fence: int | None = None, free: int = 1) -> list[Effect]:
        """Bring a result, of the current attempt unless another fence is given."""
        fence = self.job(job_id).fence if fence is None else fence
        return self.feed(peer_of(name), m.Finished(job_id=job_id, fence=fence, free=free, run_s=2.0, body=RESULT))

    def fail(self, name: str, job_id: str, kind: str, free: int = 1) -> list[Effect]:
        """Let the current attempt fail."""
        fence = self.job(job_id).fence
        return self.feed(
            peer_of(name), m.Failed(job_id=job_id, fence=fence, kind=m.FailureKind(kind), message="why", free=free)
        )

    def running(self, job_id: str, worker: str = "w1", **fields: Any) -> int:
        """Bring a job to `running` on a worker; its fence."""
        self.hello(worker)
        self.submit(job_id, **fields)
        self.start(worker, job_id)
        assert self.job(job_id).state == "running"
        return self.job(job_id).fence

    # looking

    def job(self, job_id: str) -> Job:
        """The job, from memory or from the archive."""
        job = self.core.job(job_id) or self.archive.find(job_id)
        assert job is not None, f"no job {job_id}"
        return job

    def state(self, job_id: str) -> str:
        """The name of the job's state."""
        return self.job(job_id).state.value


def sent(effects: list[Effect], kind: type[T], peer: bytes | None = None) -> list[T]:
    """Messages of a kind among the effects (to a peer, if given)."""
    return [
        e.message
        for e in effects
        if isinstance(e, Send) and isinstance(e.message, kind) and (peer is None or e.peer == peer)
    ]


def causes(effects: list[Effect]) -> list[Cause]:
    """The causes of the transitions among the effects."""
    return [step.cause for effect in effects if isinstance(effect, Transition) for step in effect.steps()]
