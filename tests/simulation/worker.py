"""One worker over all its lives: the real agent core and clock in a made-up process, its engine, its connection, its files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from msgspec import structs

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard
from tests.simulation.engine import Closed, Engine, Exited, PeerLimiter, Script, Word
from tests.simulation.facts import require, short
from tests.simulation.network import Cable, Connection
from tests.simulation.plan import LONG_UNITS, SHORT_UNITS
from tests.simulation.spool import Spool
from tests.simulation.timeline import Alarm
from workers.agent import effects as fx
from workers.agent import invariants
from workers.agent.clock import AwakeClock
from workers.agent.core import AgentCore
from workers.agent.identity import Identity
from workers.ipc.messages import NextRequested, PostprocessBegun, RunJob, Setup
from workers.ipc.shared import SLOTS
from workers.supervisor.agent_policy import AgentPolicy

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

    def __init__(self, world: World, name: str, random: Random, seed: int) -> None:
        self.world = world
        self.name = name
        self.random = random
        self.timeline = world.timeline
        self.spool = Spool(world, name, seed, self.kill)
        self.cable = Cable(world.network, b"b", self, world.broker)
        self.cable.used = False
        self.core: AgentCore | None = None
        self.engine: Engine | None = None
        #: Attempts that let another one in, as the agent has read of them; those of them in their tails.
        self._lets_in = set[int]()
        self._tails = set[int]()
        self.boots = 0
        self.gpus = 1
        #: Its machine is gone for good.
        self.lost = False
        self.paused_until = 0.0
        self._inbox: deque[bytes] = deque()
        #: Address of the newest connection over which more than the probe has come.
        self._answered_at = b""
        self._words: deque[Word] = deque()
        #: What the depot's threads have to tell.
        self._moved: deque[Callable[[AgentCore], list[fx.Effect]]] = deque()
        self._serve = Alarm(self.timeline, self._on_serve)
        self._restart = Alarm(self.timeline, self.start)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """A new agent process."""
        self.boots += 1
        resumes = self.world.plan.resumes
        cards = tuple(structs.replace(CARDS[name], resumes=resumes) for name in self.world.plan.models)
        identity = Identity(
            name=self.name,
            boot=f"{self.name}-{self.boots}",
            info=m.WorkerInfo(models=cards, gpus=self.gpus),
            setup=Setup(models=cards, preload=cards[0].name, device="cpu"),
            dirs=self.spool.dirs,
        )
        self.clock = AwakeClock(self.timeline.clock)
        self.core = AgentCore(identity, POLICY, self.clock.now(), self.spool.left())
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
        self.core, self.engine = None, None
        self._inbox.clear()
        self._words.clear()
        self._moved.clear()
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
            self.world.disturb(self.name, POLICY.stop_grace_s + 5.0)
            self._apply(self.core.stop("stopped by SIGTERM", self.clock.now()))

    def pause(self, seconds: float, *, engine_too: bool) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        if self.core is None:
            return
        self.world.disturb(self.name, seconds)
        if self._awake:
            self.clock.waiting()
            self._timeout_s = 0.05
        self.paused_until = max(self.paused_until, self.timeline.now + seconds)
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

    def received(self, connection: Connection, frame: bytes) -> None:
        """Its socket reads what came over connections before with the probe of this one: before any answer to what is said over it."""
        if self.core is not None and connection.owner == self.boots and connection.peer >= self._answered_at:
            if frame:
                self._answered_at = connection.peer
            self._inbox.append(frame)
            self._poke()

    def _say(self, engine: Engine, word: Word) -> None:
        if engine is self.engine:
            self._words.append(word)
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
        while self._moved and self.core is core:
            self._apply(self._moved.popleft()(core))
        while self._inbox and self.core is core:
            (message,) = codec.to_agent(self._inbox.popleft())
            self.world.trace(self.name, "hears", message)
            self._apply(core.from_broker(message, self.clock.now()))
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
                case PeerLimiter():
                    self._apply(core.engine_closed(now, "junk"))
                case Closed():
                    self._apply(core.engine_closed(now))
                case _:
                    effects = core.from_engine(word, now)
                    if isinstance(word, NextRequested | PostprocessBegun):
                        self._room_is_told(core, word, effects)
                    self._apply(effects)
        if self.core is core:
            self._show_progress(core, now)

    def _show_progress(self, core: AgentCore, now: float) -> None:
        engine = self.engine
        if engine is not None and core.engine_slot.attempts:
            self._apply(core.progressed([shown for shown in engine.shown if shown is not None], now))

    def _room_is_told(self, core: AgentCore, word: NextRequested | PostprocessBegun, effects: list[fx.Effect]) -> None:
        """The engine takes the next job: who may be given one says so, however lately it has said something else."""
        assert self.engine is not None
        # Who asked before has had its answer, or has lost its turn to this one.
        self._lets_in = {fence for fence in self._lets_in if fence in self._tails} | {word.fence}
        if isinstance(word, PostprocessBegun):
            self._tails.add(word.fence)
        may = (
            len(core.engine_slot.attempts) < SLOTS
            and all(attempt.fence in self._lets_in and not attempt.alone for attempt in core.engine_slot.attempts)
            and core.registration.registered
            and not core.capacity.draining
            and core.leaving is None
            and not self.engine.doomed
            and not core.engine_slot.attempts.fetching
        )
        if may and len(core.unacked_results) + len(core.engine_slot.parked) < POLICY.max_unacknowledged:
            beats = [effect.message for effect in effects if isinstance(effect, fx.SendBroker)]
            reported = any(isinstance(beat, m.Heartbeat) and beat.free == 1 for beat in beats)
            require(reported, "room beside a tail or last steps is reported at once", self.name)

    # ------------------------------------------------------------ effects

    def _apply(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.SendBroker(message):
                    self.world.checker.said(self.name, message)
                    self._handed_back_well(message)
                    self.world.trace(self.name, "says", message)
                    self.cable.send(codec.encode(message))
                case fx.StartEngine():
                    self._start_engine()
                case fx.StartJob(job):
                    self._start_job(job)
                case fx.RequestCancel(slot, fence):
                    if self.engine is not None:
                        self.engine.request_cancel(slot, fence)
                case fx.RequestPark(slot, fence):
                    if self.engine is not None:
                        self.engine.request_park(slot, fence)
                case fx.Note(action=action, detail=detail):
                    self.world.trace(self.name, "notes", f"{action}: {detail}")
                case fx.KillEngine(reason):
                    if self.engine is not None:
                        deaf = not reason.startswith("the cancel") or not self.engine.hears(POLICY.cancel_grace_s)
                        require(deaf, "an engine that hears is not killed", self.name, reason)
                        self.engine.kill(self.world.plan.kill_s(self.random))
                case fx.RemoveDir(job_id, fence):
                    if not self.spool.remove(fence):
                        self.world.checker.removed(job_id, fence)
                case fx.KeepResult(message, age_s):
                    self.spool.keep(message, age_s)
                case fx.PutFiles(job_id, fence):
                    self.spool.put(
                        effect, self._then(lambda core, at=(job_id, fence): core.files_put(*at, "", self.clock.now()))
                    )
                case fx.PutParked(job_id, fence):
                    self.spool.put_parked(
                        effect, self._then(lambda core, at=(job_id, fence): core.files_put(*at, "", self.clock.now()))
                    )
                case fx.FetchInputs(fence):
                    self.world.checker.fetches(fence)
                    self.spool.fetch(
                        effect, self._then(lambda core, at=fence: core.inputs_fetched(at, "", self.clock.now()))
                    )
                case fx.Revoke(fence):
                    self.spool.revoke(fence)
                case fx.Exit():
                    self.world.trace(self.name, "exits")
                    self._gone(self.random.choice((0.1, 1.0, 5.0)))
                    return

    def _then(self, action: Callable[[AgentCore], list[fx.Effect]]) -> Callable[[], bool]:
        """Tell the agent that lives now something later; False when it is gone by then."""
        core = self.core

        def tell() -> bool:
            if core is None or self.core is not core:
                return False
            self._moved.append(action)
            self._poke()
            return True

        return tell

    def _handed_back_well(self, message: m.Message) -> None:
        """A parked job is handed back when whoever is granted it finds what it goes on from, unless there is no time for that."""
        if not isinstance(message, m.Refused) or not message.kept or message.fence not in self.world.checker.parks:
            return
        if self.spool.remote and self.core is not None and self.core.leaving is None:
            waits = self.spool.waits(message.fence)
            require(
                not waits, "a parked job is handed back when its checkpoint is in the depot", message.job_id, self.name
            )

    def _start_engine(self) -> None:
        assert self.engine is None or not self.engine.alive, "two engines on one GPU"
        engine = Engine(
            self.world,
            self.random,
            lambda word: self._say(engine, word),
            lambda: self.timeline.after(0.02, self._poke),
            self.spool.checkpoints,
            self.spool.kept,
        )
        self.engine = engine

    def _start_job(self, job: RunJob) -> None:
        world, engine = self.world, self.engine
        assert engine is not None, "a job without an engine"
        world.checker.begun(self.name, job.job_id, job.fence)
        if world.plan.begin_fails(self.random):
            assert self.core is not None
            self._apply(self.core.begin_failed(job.fence, "no space left on device", self.clock.now()))
            return
        script = self._script(job)
        world.trace(self.name, "engine", f"{job.job_id} {short(job.fence)} in slot {job.slot}: {script}")

        def made() -> None:
            if not self.spool.remote:
                world.checker.made(job.job_id, job.fence)

        engine.run(job, script, made)

    def _script(self, job: RunJob) -> Script:
        """What a job will do."""
        plan, random = self.world.plan, self.random
        behaviour = self.world.behaviour(job.job_id, random)
        step_s = random.choice(plan.steps_s)
        steps = self.world.steps(job.job_id, random)
        errand = next((errand for errand in plan.errands if errand.job_id == job.job_id), None)
        if plan.policy.preempt and errand is not None and errand.units == LONG_UNITS:
            steps *= int(LONG_UNITS / SHORT_UNITS)
        attempts = self.core.engine_slot.attempts if self.core is not None else []
        predicted_s = next((attempt._pulse._predicted_s for attempt in attempts if attempt.fence == job.fence), 0.0)
        overlaps = plan.overlap > 0 and random.random() < plan.overlap
        return Script(
            behaviour=behaviour,
            steps=steps,
            tail=random.choice((1, 2, 5)) if overlaps else 1,
            step_s=step_s,
            predicted_step_s=predicted_s / steps,
            overlaps=overlaps,
            patient=(overlaps or plan.prepares > 0) and random.random() < 0.3,
            asks_before=random.choice((1, 1, 2)) if plan.prepares > 0 and random.random() < plan.prepares else 0,
            # Drawn by itself, so that all else is what it would be without.
            crowds=Random(f"crowds {job.job_id}").random() < 0.3,
            loras=next((errand.loras for errand in plan.errands if errand.job_id == job.job_id), ()),
        )

    @property
    def idle(self) -> bool:
        """Whether it waits for work and has said all that it had to say."""
        core = self.core
        return (
            core is not None
            and core.capacity.free == 1
            and not core.capacity.held(0.0)
            and core.registration.registered
        )
