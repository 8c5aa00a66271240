"""One worker over all its lives: the real agent core and clock in a made-up process, its engine, its connection, its files."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard
from tests.simulation.checker import short
from tests.simulation.engine import Closed, Engine, Exited, Junk, Word
from tests.simulation.network import Cable, Connection, Frames
from tests.simulation.timeline import Alarm
from workers.agent import effects as fx
from workers.agent import invariants
from workers.agent.clock import AwakeClock
from workers.agent.core import AgentCore, Identity
from workers.agent.policy import AgentPolicy
from workers.ipc import RunJob, Setup

if TYPE_CHECKING:
    from tests.simulation.world import World

POLICY = AgentPolicy(
    detached_s=60.0,
    load_budget_s=20.0,
    encode_budget_s=5.0,
    step_floor_s=4.0,
    first_step_budget_s=6.0,
    decode_budget_s=5.0,
    save_budget_s=5.0,
    unkillable_s=5.0,
    good_life_s=20.0,
    max_unacknowledged=3,
)

CARDS = {name: ModelCard(name=name, engine="fake", output="video") for name in ("demo", "wan")}


class WorkerProcess:
    """An agent under a supervisor that starts it again."""

    def __init__(self, world: World, name: str, random: Random) -> None:
        self.world = world
        self.name = name
        self.random = random
        self.timeline = world.timeline
        self.cable = Cable(world.network, b"b", self, world.broker)
        self.cable.used = False
        self.core: AgentCore | None = None
        self.engine: Engine | None = None
        self.boots = 0
        #: Its machine is gone for good.
        self.lost = False
        self.paused_until = 0.0
        self._inbox: deque[Frames] = deque()
        self._words: deque[Word] = deque()
        self._serve = Alarm(self.timeline, self._on_serve)
        self._restart = Alarm(self.timeline, self.start)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """A new agent process."""
        self.boots += 1
        cards = tuple(CARDS[name] for name in self.world.plan.models)
        identity = Identity(
            name=self.name,
            boot=f"{self.name}-{self.boots}",
            info=m.WorkerInfo(models=cards),
            setup=Setup(models=cards, preload=cards[0].name, device="cpu"),
            artefacts="/a",
        )
        self.clock = AwakeClock(self.timeline.clock)
        self.core = AgentCore(identity, POLICY, self.clock.now())
        self.clock.waiting()
        self._timeout_s = 0.0
        self.cable.used = True
        self.cable.connect()
        self._serve.set(self.timeline.now)
        self.world.trace(self.name, "start", identity.boot)

    def kill(self, back_s: float) -> None:
        """`kill -9` of the agent: its engine goes with it, its files stay."""
        if self.core is None:
            return
        self.world.trace(self.name, "killed")
        self.world.disturb(self.name)
        self._gone(back_s)

    def _gone(self, back_s: float) -> None:
        if self.engine is not None:
            self.engine.alive = False
            self.world.checker.engine_free(self.name, self.engine)
        self.core, self.engine = None, None
        self._inbox.clear()
        self._words.clear()
        self._serve.set(None)
        self.cable.used = False
        self.cable.cut(0.0)
        self._restart.set(None if self.lost else self.timeline.now + back_s)

    def lose(self) -> None:
        """Its machine is gone for good."""
        self.lost = True
        self.kill(0.0)
        self._restart.set(None)

    def leave(self) -> None:
        """SIGTERM."""
        if self.core is not None and self._awake:
            self.world.disturb(self.name, 5.0)
            self._apply(self.core.leave("stopped by SIGTERM", self.clock.now()))

    def pause(self, seconds: float, *, engine_too: bool) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        if self.core is None:
            return
        self.world.disturb(self.name, seconds)
        self.clock.waiting()
        self._timeout_s = 0.05
        self.paused_until = self.timeline.now + seconds
        if engine_too and self.engine is not None:
            self.engine.pause(seconds)
        self._serve.set(self.paused_until)

    @property
    def _awake(self) -> bool:
        return self.timeline.now >= self.paused_until

    # ------------------------------------------------------------ what wakes it

    def connected(self, connection: Connection) -> None:
        """It is about to hear the probe."""
        connection.owner = self.boots

    def received(self, connection: Connection, frames: Frames) -> None:
        if self.core is not None and connection.owner == self.boots:
            self._inbox.append(frames)
            self._poke()

    def _say(self, engine: Engine, word: Word) -> None:
        if engine is self.engine:
            self._words.append(word)
            if not engine.alive:
                self.world.checker.engine_free(self.name, engine)
            self._poke()

    def _poke(self) -> None:
        if self._awake:
            self._serve.set(self.timeline.now)

    # ------------------------------------------------------------ a turn of its loop

    def _on_serve(self) -> None:
        core = self.core
        if core is None:
            return
        if not self._awake:
            self._serve.set(self.paused_until)
            return
        if self.clock.woke(self._timeout_s):
            self.world.count("agent stalled")
        self._serve_engine(core)
        while self._inbox and self.core is core:
            decoded = codec.to_agent(self._inbox.popleft())
            message, body = decoded if decoded is not None else (None, b"")
            self.world.trace(self.name, "hears", message)
            self._apply(core.from_broker(message, body, self.clock.now()))
        if self.core is core:
            self._apply(core.tick(self.clock.now()))
        if self.core is not core:
            return
        invariants.check(core)
        self.clock.waiting()
        self._timeout_s = max(0.0, core.next_deadline() - self.clock.now())
        self._serve.set(self.timeline.now + self._timeout_s)

    def _serve_engine(self, core: AgentCore) -> None:
        now = self.clock.now()
        while self._words and self.core is core:
            word = self._words.popleft()
            match word:
                case Exited(how):
                    self._show_progress(core, now)
                    self.engine = None
                    self._apply(core.engine_exited(how, now))
                case Junk():
                    self._apply(core.engine_broken("junk", now))
                case Closed():
                    self._apply(core.engine_closed(now))
                case _:
                    self._apply(core.from_engine(word, now))
        if self.core is core:
            self._show_progress(core, now)

    def _show_progress(self, core: AgentCore, now: float) -> None:
        engine = self.engine
        if engine is not None and engine.progress is not None and core.slot.attempt is not None:
            self._apply(core.progressed(engine.progress, now))

    # ------------------------------------------------------------ effects

    def _apply(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.SendBroker(message, body):
                    self.world.checker.said(message)
                    self.world.trace(self.name, "says", message)
                    self.cable.send(codec.encode(message, body))
                case fx.StartEngine():
                    self._start_engine()
                case fx.StartJob(job):
                    self._start_job(job)
                case fx.SetCancelWord(fence):
                    if self.engine is not None:
                        self.engine.cancel = fence
                case fx.Note(action=action, detail=detail):
                    self.world.trace(self.name, "notes", f"{action}: {detail}")
                case fx.KillEngine():
                    if self.engine is not None:
                        self.engine.die("killed by SIGKILL", self.world.plan.kill_s(self.random))
                case fx.RemoveDir(job_id, fence):
                    self.world.checker.removed(job_id, fence)
                case fx.Exit():
                    self.world.trace(self.name, "exits")
                    self._gone(self.random.choice((0.1, 1.0, 5.0)))
                    return

    def _start_engine(self) -> None:
        assert self.engine is None or not self.engine.alive, "two engines on one GPU"
        engine = Engine(
            self.timeline,
            self.random,
            self.world.plan.models[0],
            lambda word: self._say(engine, word),
            lambda: self.timeline.after(0.02, self._poke),
        )
        self.engine = engine

    def _start_job(self, job: RunJob) -> None:
        world, engine = self.world, self.engine
        assert engine is not None, "a job without an engine"
        world.checker.begun(self.name, engine, job.job_id, job.fence)
        if world.plan.begin_fails(self.random):
            assert self.core is not None
            self._apply(self.core.begin_failed(job.fence, "no space left on device", self.clock.now()))
            return
        behaviour = world.behaviour(job.job_id, self.random)
        if behaviour == "die at once":
            world.disturb(self.name)
        step_s = self.random.choice(world.plan.steps_s)
        steps = self.random.randint(*world.plan.steps)
        attempt = self.core.slot.attempt if self.core is not None else None
        engine.predicted_step_s = attempt._predicted_s / steps if attempt is not None else 0.0
        world.trace(self.name, "engine", f"{job.job_id} {short(job.fence)}: {behaviour}, {steps} steps of {step_s} s")
        engine.run(job, behaviour, steps, step_s, lambda: world.checker.made(job.job_id, job.fence))

    @property
    def idle(self) -> bool:
        """Whether it waits for work and has said all that it had to say."""
        core = self.core
        return core is not None and core.free == 1 and not core.held() and core.presence.registered
