"""The broker's core and real agent cores on one made-up clock, with a network that breaks, processes that die and engines that misbehave.

Everything is drawn from one seed, so a failing seed is a test. Connections are what ZeroMQ gives: in order and whole while they
last; what is under way when one breaks is lost without a trace; a new one has a new address and begins with a probe.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from broker.core import invariants as broker_invariants
from broker.core.effects import Effect, Moved, PeerGone, Send
from broker.core.jobs import Job, JobState
from broker.core.machine import Core, Policy
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, ModelCard, Result
from tests.support.memory_archive import MemoryArchive
from workers.agent import effects as fx
from workers.agent import invariants as agent_invariants
from workers.agent.core import AgentCore, Identity
from workers.agent.policy import AgentPolicy
from workers.ipc import JobCancelled, JobFailed, JobFinished, Progress, Ready, RunJob, Setup

EDGE = b"edge"
STEP_S = 0.1
CARD = ModelCard(name="demo", engine="fake", output="video")
SETUP = Setup(models=(CARD,), preload="demo", device="cpu")
STEPS = 12

#: What an engine does with a job, and how often.
BEHAVIOURS = {"finish": 12, "fail": 1, "fatal": 1, "die": 1, "hang": 1, "deaf": 2, "oom": 1}


class Engine:
    """One engine process."""

    def __init__(self, now: float) -> None:
        self.ready_at = now + 0.5
        self.ready = False
        self.dies_at = float("inf")
        self.job: RunJob | None = None
        self.behaviour = "finish"
        self.step = 0
        self.cancel = 0


class Link:
    """One connection of one agent: two queues of (arrival, frames)."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.to_broker: deque[tuple[float, list[bytes]]] = deque()
        self.to_agent: deque[tuple[float, list[bytes]]] = deque([(0.0, [b""])])


class Worker:
    """One agent, its engine and its link, over all their lives."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.boots = 0
        self.connections = 0
        self.link: Link | None = None
        self.reconnect_at = 0.0
        self.paused_until = 0.0
        self.engine: Engine | None = None
        self.start()

    def start(self) -> None:
        """A new agent process."""
        self.boots += 1
        self.engine = None
        self.link = None
        identity = Identity(
            name=self.name,
            boot=f"{self.name}-{self.boots}",
            info=m.WorkerInfo(models=(CARD,)),
            setup=SETUP,
            artefacts="/a",
        )
        self.core: AgentCore | None = AgentCore(identity, AgentPolicy(first_step_budget_s=30.0), self.world.now)
        self.apply(self.core.tick(self.world.now))

    def die(self) -> None:
        """`kill -9` of the agent: its engine goes with it, its files stay."""
        self.core, self.engine, self.link = None, None, None
        self.start_at = self.world.now + self.world.random.uniform(0.0, 8.0)

    def disconnect(self, back_s: float) -> None:
        self.link = None
        self.reconnect_at = self.world.now + back_s

    def step(self) -> None:
        world = self.world
        if self.core is None:
            if world.now >= self.start_at:
                self.start()
            return
        if world.now < self.paused_until:
            return
        if self.link is None and world.broker_up and world.now >= self.reconnect_at:
            self.connections += 1
            self.link = Link(f"{self.name}#{self.boots}.{self.connections}".encode())
        self._engine_step()
        while self.link is not None and self.link.to_agent and self.link.to_agent[0][0] <= world.now:
            _, frames = self.link.to_agent.popleft()
            message, body = codec.to_agent(frames) or (None, b"")
            self.apply(self.core.from_broker(message, body, world.now))
        self.apply(self.core.tick(world.now))
        agent_invariants.check(self.core)

    def _engine_step(self) -> None:
        core, engine, now = self.core, self.engine, self.world.now
        assert core is not None
        if engine is None:
            return
        if now >= engine.dies_at:
            self.engine = None
            self.apply(core.engine_exited("it died", now))
        elif not engine.ready and now >= engine.ready_at:
            engine.ready = True
            self.apply(core.from_engine(Ready(model="demo"), now))
        elif engine.job is not None:
            self._job_step(core, engine, engine.job, now)

    def _job_step(self, core: AgentCore, engine: Engine, job: RunJob, now: float) -> None:
        half = engine.step >= STEPS // 2
        if half and engine.behaviour == "hang":
            return
        if half and engine.behaviour == "die":
            engine.dies_at = now
            return
        engine.step += 1
        progress = Progress(fence=job.fence, phase="denoise", step=engine.step, total=STEPS, tick=engine.step)
        self.apply(core.progressed(progress, now))
        ending: Any = None
        if engine.cancel == job.fence and engine.behaviour != "deaf":
            ending = JobCancelled(fence=job.fence, model="demo")
        elif half and engine.behaviour in ("fail", "fatal", "oom"):
            kind: m.FailureKind = {"fail": "engine_error", "fatal": "engine_crashed", "oom": "out_of_memory"}[
                engine.behaviour
            ]  # type: ignore[assignment]
            ending = JobFailed(fence=job.fence, kind=kind, fatal=engine.behaviour == "fatal", model="demo")
            engine.dies_at = now + 0.2 if engine.behaviour == "fatal" else engine.dies_at
        elif engine.step >= (STEPS * 4 if engine.behaviour == "deaf" else STEPS):
            artefact = Artefact(name="video.mp4", media_type="video/mp4", size=1, sha256="0" * 64)
            ending = JobFinished(fence=job.fence, result=Result(artefacts=(artefact,)), run_s=1.0, model="demo")
        if ending is not None:
            engine.job = None
            self.apply(core.from_engine(ending, now))

    def apply(self, effects: list[fx.Effect]) -> None:
        world = self.world
        for effect in effects:
            match effect:
                case fx.SendBroker(message, body):
                    if self.link is not None:
                        self.link.to_broker.append((world.delay(), codec.encode(message, body)))
                case fx.StartEngine():
                    assert self.engine is None
                    self.engine = Engine(world.now)
                case fx.StartJob(job):
                    assert self.engine is not None
                    assert self.engine.ready
                    assert self.engine.job is None
                    self.engine.job, self.engine.step = job, 0
                    self.engine.behaviour = world.draw_behaviour()
                    world.begun.append(job.fence)
                    world.dirs.add((job.job_id, job.fence))
                case fx.SetCancelWord(fence):
                    if self.engine is not None:
                        self.engine.cancel = fence
                case fx.KillEngine():
                    assert self.engine is not None
                    self.engine.dies_at = world.now + 0.05
                case fx.RemoveDir(job_id, fence):
                    assert (job_id, fence) not in world.published, "a published file was removed"
                    world.dirs.discard((job_id, fence))
                case fx.Exit():
                    self.die()
                    return


class World:
    """All of it."""

    def __init__(self, seed: int, workers: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 1_000_000.0
        self.calm = False
        self.begun: list[int] = []
        self.dirs: set[tuple[str, int]] = set()
        self.published: dict[tuple[str, int], str] = {}
        self.finals: dict[str, JobState] = {}
        self.accepted: set[str] = set()
        self.cancel_accepted: set[str] = set()
        self.archive = MemoryArchive()
        self.broker = Core(1, self.archive, Policy(), self.now)
        self.broker_up = True
        self.broker_back_at = 0.0
        self.workers = [Worker(f"gpu-{index}", self) for index in range(workers)]
        self.jobs = 0

    def delay(self) -> float:
        return self.now + (0.0 if self.calm else self.random.choice((0.0, 0.0, 0.05, 0.3)))

    def draw_behaviour(self) -> str:
        if self.calm:
            return "finish"
        return self.random.choices([*BEHAVIOURS], [*BEHAVIOURS.values()])[0]

    # ------------------------------------------------------------ time

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            if not self.calm:
                self._trouble()
            if not self.broker_up and self.now >= self.broker_back_at:
                self._start_broker()
            for worker in self.random.sample(self.workers, len(self.workers)):
                worker.step()
            self._broker_step()

    def calm_down(self, limit_s: float = 150.0) -> None:
        """No more trouble, until everything has settled or the time is up."""
        self.calm = True
        for worker in self.workers:
            worker.reconnect_at = worker.paused_until = 0.0
        end = self.now + limit_s
        while self.now < end and not self.settled():
            self.run(5.0)

    def settled(self) -> bool:
        """Whether all jobs have ended and all workers are free."""
        free = all(
            worker.core is not None and (worker.core.free, worker.core.held()) == (1, ()) for worker in self.workers
        )
        return self.broker_up and free and set(self.finals) == self.accepted

    def _trouble(self) -> None:
        draw = self.random.random
        if draw() < 0.06:
            self.submit()
        if draw() < 0.02 and self.accepted:
            self.cancel(self.random.choice(sorted(self.accepted)))
        if draw() < 0.004 and self.broker_up:
            self.crash_broker()
        worker = self.random.choice(self.workers)
        if draw() < 0.006:
            worker.die()
        if draw() < 0.012:
            worker.disconnect(self.random.choice((0.1, 2.0, 9.0)))
        if draw() < 0.006:
            worker.paused_until = self.now + self.random.choice((1.0, 4.0, 9.0))
        if draw() < 0.006 and worker.engine is not None:
            worker.engine.dies_at = self.now

    # ------------------------------------------------------------ the broker

    def _broker_step(self) -> None:
        if not self.broker_up:
            return
        for worker in self.workers:
            link = worker.link
            while link is not None and worker.link is link and link.to_broker and link.to_broker[0][0] <= self.now:
                _, frames = link.to_broker.popleft()
                decoded = codec.from_agent(frames)
                assert decoded is not None
                self._carry_out(self.broker.receive(link.address, *decoded, self.now))
        self._carry_out(self.broker.tick(self.now))

    def _carry_out(self, effects: list[Effect]) -> None:
        self.archive.record(self.broker, effects)
        for effect in effects:
            if isinstance(effect, Moved):
                self._moved(effect)
        self.broker.committed()
        broker_invariants.check(self.broker.state)
        for effect in effects:
            if isinstance(effect, Send):
                self._deliver(effect)

    def _moved(self, moved: Moved) -> None:
        if moved.target in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            assert moved.job_id not in self.finals, f"{moved.job_id} ended twice"
            self.finals[moved.job_id] = moved.target
            job = self.broker.job(moved.job_id)
            assert job is not None
            if moved.target is JobState.SUCCEEDED:
                assert (job.id, job.fence) in self.dirs, "published without files"
                self.published[(job.id, job.fence)] = job.worker

    def _deliver(self, send: Send) -> None:
        if send.peer == EDGE:
            return
        worker = next((w for w in self.workers if w.link is not None and w.link.address == send.peer), None)
        if worker is None or worker.link is None:
            if self.random.random() < 0.9:  # the first send after a break is taken and lost
                self._carry_out(self.broker.receive(send.peer, PeerGone(), b"", self.now))
            return
        worker.link.to_agent.append((self.delay(), codec.encode(send.message, send.body)))

    def crash_broker(self) -> None:
        """`kill -9`: lazy rows and all connections are gone."""
        self.archive.crash()
        self.broker_up = False
        self.broker_back_at = self.now + self.random.choice((0.5, 3.0, 12.0))
        for worker in self.workers:
            worker.disconnect(0.0)

    def _start_broker(self) -> None:
        self.broker = Core(self.broker.state.epoch + 1, self.archive, Policy(), self.now)
        self.broker.restore(self.archive.live(), [], self.now)
        self.broker_up = True
        for worker in self.workers:
            worker.reconnect_at = self.now + self.random.uniform(0.1, 2.0)

    # ------------------------------------------------------------ the edge

    def submit(self) -> None:
        if not self.broker_up:
            return
        self.jobs += 1
        job_id = f"j{self.jobs}"
        self.accepted.add(job_id)
        self._carry_out(
            self.broker.receive(EDGE, m.Submit(req=self.jobs, job_id=job_id, model="demo", units=1.0), b"s", self.now)
        )

    def cancel(self, job_id: str) -> None:
        if not self.broker_up:
            return
        if job_id not in self.finals:
            self.cancel_accepted.add(job_id)
        self._carry_out(self.broker.receive(EDGE, m.CancelJob(req=0, job_id=job_id), b"", self.now))

    def job(self, job_id: str) -> Job:
        job = self.broker.job(job_id) or self.archive.find(job_id)
        assert job is not None
        return job
