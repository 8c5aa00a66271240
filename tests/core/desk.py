"""A desk at which tests feed the core by hand: messages in, effects out, invariants checked after each."""

from __future__ import annotations

from typing import Any, TypeVar

from broker.core import invariants
from broker.core.effects import Effect, PeerGone, Send, Transition
from broker.core.jobs import Cause, Job
from broker.core.machine import Core, Policy
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result
from tests.support.memory_archive import MemoryArchive

T = TypeVar("T", bound=m.Message)

EDGE = b"f-edge"
#: Work of a job that takes seconds: much more than what a start-up could explain.
UNIT = 1e5
START = 1_000_000.0
RESULT = codec.encode_body(Result(seed=7))


def info(*models: str, gpus: int = 1) -> bytes:
    """The body of a `Hello`."""
    cards = tuple(ModelCard(name=name, engine="fake", output="video") for name in models or ("demo",))
    return codec.encode_body(m.WorkerInfo(host="here", pid=1, device="cpu", gpus=gpus, models=cards))


class Desk:
    """A core, its archive and a clock that tests move."""

    def __init__(self, policy: Policy | None = None, archive: MemoryArchive | None = None, epoch: int = 1) -> None:
        self.policy = policy or Policy()
        self.archive = archive or MemoryArchive()
        self.now = START
        self.core = Core(epoch, self.archive, self.policy, self.now)
        self.effects: list[Effect] = []
        self.req = 0

    # feeding

    def feed(self, peer: bytes, message: m.Message | PeerGone, body: bytes = b"") -> list[Effect]:
        return self._keep(self.core.receive(peer, message, body, self.now))

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        """Let time pass, waking the core whenever it wants to be woken."""
        end = self.now + seconds
        effects: list[Effect] = []
        while (at := self.core.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            effects += self._keep(self.core.tick(self.now))
        self.now = end
        return effects

    def _keep(self, effects: list[Effect]) -> list[Effect]:
        self.archive.record(self.core, effects)
        self.core.committed()
        invariants.check(self.core.state)
        self.effects = effects
        return effects

    def restart(self) -> None:
        """The broker dies (uncommitted rows are lost) and starts again from its archive."""
        self.archive.crash()
        self.core = Core(self.core.state.epoch + 1, self.archive, self.policy, self.now)
        self.core.restore(self.archive.live(), [], self.now)
        self._keep(self.core.tick(self.now))

    # edges

    def submit(self, job_id: str, body: bytes = b"spec", **fields: Any) -> m.Message:
        """Submit and return the answer."""
        fields = {"model": "demo", "units": UNIT, **fields}
        self.req += 1
        effects = self.feed(EDGE, m.Submit(req=self.req, job_id=job_id, **fields), body)
        return next(
            e.message for e in effects if isinstance(e, Send) and isinstance(e.message, m.Accepted | m.Rejected)
        )

    def cancel(self, job_id: str) -> str:
        """Cancel and return the outcome."""
        return self.ask(m.CancelJob(req=0, job_id=job_id), m.CancelReply).outcome

    def ask(self, message: m.Message, kind: type[T]) -> T:
        return sent(self.feed(EDGE, message), kind)[0]

    def view(self, job_id: str) -> m.JobView:
        effects = self.feed(EDGE, m.GetJob(req=0, job_id=job_id))
        reply = next(e for e in effects if isinstance(e, Send) and isinstance(e.message, m.JobReply))
        view: m.JobView = codec.job_view(reply.body or b"")
        return view

    # agents

    def hello(
        self, name: str, *held: m.Held, boot: str = "b1", seen: int = 0, free: int = 1, **kw: Any
    ) -> list[Effect]:
        body = kw.pop("body", None) or info()
        peer = kw.pop("peer", peer_of(name))
        return self.feed(peer, m.Hello(name=name, boot=boot, seen=seen, free=free, held=held), body)

    def beat(self, name: str, *held: m.Held, seen: int = 0, free: int = 0, **kw: Any) -> list[Effect]:
        return self.feed(peer_of(name), m.Heartbeat(seen=seen, free=free, held=held, **kw))

    def start(self, name: str, job_id: str) -> list[Effect]:
        return self.feed(peer_of(name), m.Started(job_id=job_id, fence=self.job(job_id).fence))

    def finish(self, name: str, job_id: str, fence: int | None = None, free: int = 1) -> list[Effect]:
        fence = self.job(job_id).fence if fence is None else fence
        return self.feed(peer_of(name), m.Finished(job_id=job_id, fence=fence, free=free, run_s=2.0), RESULT)

    def fail(self, name: str, job_id: str, kind: m.FailureKind, free: int = 1) -> list[Effect]:
        fence = self.job(job_id).fence
        return self.feed(peer_of(name), m.Failed(job_id=job_id, fence=fence, kind=kind, message="why", free=free))

    def running(self, job_id: str, worker: str = "w1", **fields: Any) -> int:
        """Bring a job to `running` on a worker; its fence."""
        self.hello(worker)
        self.submit(job_id, **fields)
        self.start(worker, job_id)
        assert self.job(job_id).state == "running"
        return self.job(job_id).fence

    # looking

    def job(self, job_id: str) -> Job:
        job = self.core.job(job_id) or self.archive.find(job_id)
        assert job is not None, f"no job {job_id}"
        return job

    def state(self, job_id: str) -> str:
        return self.job(job_id).state.value


def peer_of(name: str) -> bytes:
    return b"b-" + name.encode()


def sent(effects: list[Effect], kind: type[T], peer: bytes | None = None) -> list[T]:
    """Messages of a kind among the effects (to a peer, if given)."""
    return [
        e.message
        for e in effects
        if isinstance(e, Send) and isinstance(e.message, kind) and (peer is None or e.peer == peer)
    ]


def causes(effects: list[Effect]) -> list[Cause]:
    return [effect.cause for effect in effects if isinstance(effect, Transition)]
