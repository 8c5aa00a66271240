"""A made-up broker, engine and file system around an agent's core, for events in any order: what must hold after every step."""

from __future__ import annotations

from typing import Literal

from hypothesis.stateful import RuleBasedStateMachine, invariant

from broker.wire import codec
from broker.wire import messages as m
from tests.agent.stage import EPOCH, IDENTITY
from workers.agent import effects as fx
from workers.agent import invariants
from workers.agent.core import AgentCore
from workers.agent.identity import Identity
from workers.agent.spooled_results import SpooledResult
from workers.ipc.messages import FromEngine, RunJob
from workers.ipc.shared import SLOTS, Progress
from workers.supervisor.agent_policy import AgentPolicy

RESULTS = (m.Finished, m.Failed, m.Cancelled)


class Job:
    """A job in the made-up engine."""

    def __init__(self, order: RunJob) -> None:
        self.fence = order.fence
        self.slot = order.slot
        self.alone = order.alone
        self.begun = False
        #: Its engine said that it crashed, as the first sign that its machines are gone.
        self.crashed = False
        #: It has asked for the next one, to prepare it beside its last steps.
        self.wanted = False
        self.postprocessing = False


def handed_back(effect: fx.Effect) -> int:
    """The fence of the attempt that this effect hands back; 0 when it does something else."""
    match effect:
        case fx.SendBroker(m.Refused(fence=fence)):
            return fence
    return 0


class Surroundings(RuleBasedStateMachine):
    """The engine process and its jobs, the directories, and every promise made to the broker."""

    identity = IDENTITY

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.take_place(self.identity)
        self.epoch = EPOCH
        self.counter = 0
        self.granted: dict[int, str] = {}
        self.alone: set[int] = set()
        # the engine
        self.process = False
        self.killed = False
        self.ready = False
        self.closed = False
        #: In the order in which they are drawn; what each slot's counters show.
        self.jobs: list[Job] = []
        self.words: dict[int, Progress] = {}
        self.ticks = 0
        #: What its end says of the jobs in it: it died by itself, was killed for one of them, or nobody wants them any more.
        self.fate: Literal["own", "replaced", "dropped"] = "own"
        # what was seen
        self.ran: list[int] = []
        self.dirs: set[int] = set()
        self.cancel_orders: set[int] = set()
        self.park_orders: set[int] = set()
        self.results: dict[int, m.Message] = {}
        self.beats: list[m.Heartbeat] = []
        self.acknowledged: set[int] = set()
        self.seen = 0
        self.exit: int | None = None
        self.goodbye = False
        self.gone_without_result: set[int] = set()
        #: What comes after the effect at hand, of one entrance into the core.
        self.follows: list[fx.Effect] = []
        self.accepted: set[int] = set()
        #: What was measured of the device: why it is broken.
        self.fault = ""

    def take_place(self, identity: Identity, left: tuple[SpooledResult, ...] = ()) -> None:
        """Be the agent of this name, after another that left these results."""
        self.core = AgentCore(identity, AgentPolicy(max_unacknowledged=3), self.now, left)

    def fence(self, counter: int) -> int:
        """A fence as the broker of now gives them."""
        return self.epoch << 32 | counter

    @property
    def front(self) -> Job | None:
        """The job that is drawn, or will be: one behind it is prepared, or waits."""
        return next((job for job in self.jobs if not job.postprocessing), None)

    @property
    def prepared(self) -> Job | None:
        """The job behind the one that is drawn."""
        return self.jobs[-1] if self.jobs and self.front not in (None, self.jobs[-1]) else None

    def room_is_reported(self) -> None:
        if self.exit is None and self.core.leaving is None and self.core.registration.registered:
            reported = any(beat.free for beat in self.beats)
            assert (
                reported or not self.has_room() or self.core.capacity.hands_back or len(self.core.unacked_results) >= 3
            ), "room is not reported"

    def has_room(self) -> bool:
        """Whether the engine would take another job."""
        lives = self.ready and not self.killed and not self.closed and not self.fault
        asked = all(job.wanted or job.postprocessing for job in self.jobs)
        return lives and asked and len(self.jobs) < SLOTS and not any(job.alone for job in self.jobs)

    # ------------------------------------------------------------ effects

    def do(self, effects: list[fx.Effect]) -> None:
        for index, effect in enumerate(effects):
            assert self.exit is None, f"{effect} after exit"
            self.follows = effects[index + 1 :]
            self.apply(effect)

    def apply(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SendBroker(message):
                self.said(message)
            case fx.StartEngine():
                assert not self.process, "two engines"
                assert not self.fault, "an engine on a broken device"
                assert not self.core.engine_slot.engine.life.waits_for, "an engine without its machines"
                assert not self.core.reporter.yields, "an engine of a worker whose name another process may bear"
                self.process, self.killed, self.ready, self.closed = True, False, False, False
                self.jobs, self.words, self.fate = [], {}, "own"
            case fx.StartJob(job):
                assert self.has_room(), "a job for an engine that has no room"
                assert job.slot not in {other.slot for other in self.jobs}, "two jobs in a slot"
                assert job.fence not in self.ran, "a fence ran twice"
                assert job.alone == (job.fence in self.alone), "alone, or not, and nobody said so"
                self.jobs.append(Job(job))
                self.ran.append(job.fence)
                self.dirs.add(job.fence)
            case fx.RequestCancel(slot, at):
                slots = {job.fence: job.slot for job in self.jobs}
                assert at in slots or self.closed, "a cancel word for a job that is not there"
                assert slots.get(at, slot) == slot, "a cancel word for another slot"
                assert at in self.cancel_orders, "a cancel that nobody ordered"
            case fx.RequestPark(slot, at):
                slots = {job.fence: job.slot for job in self.jobs}
                assert at in slots or self.closed, "a park word for a job that is not there"
                assert slots.get(at, slot) == slot, "a park word for another slot"
                assert at in self.park_orders or self.core.capacity.hands_back, "a park that nobody ordered"
            case fx.KillEngine(reason):
                assert self.process, "a kill without a process"
                if reason.startswith(("the cancel", "no sign of life")):
                    assert not self.killed, "killed twice for a job"
                    self.fate = "replaced"
                elif reason.startswith("the broker has been away"):
                    self.fate = "dropped"
                self.killed = True
            case fx.RemoveDir(_, at):
                assert not isinstance(self.results.get(at), m.Finished) or at not in self.accepted, (
                    "published files removed"
                )
                self.dirs.discard(at)
                kept = self.core.unacked_results.fences() | self.core.engine_slot.parked.fences()
                if at not in self.results and at not in kept:
                    self.gone_without_result.add(at)
            case fx.Exit(code):
                self.exit = code

    def said(self, message: m.Message) -> None:
        codec.from_agent(codec.encode(message))  # whatever is said can be read
        assert not self.goodbye, f"{message} after goodbye"
        if isinstance(message, (m.Hello, m.Heartbeat)):
            assert message.seen >= self.seen, "seen fell"
            self.seen = message.seen
            waiting = {at for at in self.results if at not in self.acknowledged}
            held = {item.fence for item in message.held}
            assert waiting <= held, "a result was forgotten before its acknowledgement"
            running = {attempt.fence for attempt in self.core.engine_slot.attempts}
            parked = self.core.engine_slot.parked.fences()
            back = {fence for later in self.follows if (fence := handed_back(later))}
            assert held == running | parked | self.core.unacked_results.fences() | (held & back), (
                "something is held that is neither running, nor parked, nor done, nor handed back after it"
            )
            assert message.free <= (1 if self.has_room() else 0), "room that is not there"
        if isinstance(message, m.Heartbeat):
            self.beats.append(message)
        if isinstance(message, RESULTS):
            assert message.fence in self.ran
            before = self.results.setdefault(message.fence, message)
            assert type(before) is type(message), "a result changed its mind"
            assert message.free <= (1 if self.has_room() else 0), "room that is not there"
        if isinstance(message, m.Goodbye):
            self.goodbye = True

    # ------------------------------------------------------------ what comes in

    def broker(self, message: m.ToAgent | None) -> None:
        if self.exit is None:
            self.do(self.core.from_broker(message, self.now))

    def engine(self, message: FromEngine) -> None:
        if self.exit is None:
            self.do(self.core.from_engine(message, self.now))

    def show(self, job: Job, phase: str, step: int) -> None:
        job.begun = True
        self.ticks += 1
        self.words[job.slot] = Progress(fence=job.fence, phase=phase, step=step, total=40, tick=self.ticks)
        if self.exit is None:
            self.do(self.core.progressed(self.words.values(), self.now))

    def judge(self, job: Job, fate: str, *, meant: bool, lost: bool = False) -> None:
        """The engine is gone and said nothing of this job: whether it counts as crashed, or as never begun."""
        pending = self.core.unacked_results.answer(self.granted[job.fence], job.fence, 0, self.now)
        kind = getattr(pending, "kind", "cancelled") if pending is not None else "handed back"
        allowed = {"engine_crashed"} if fate == "own" and job.begun else {"handed back"}
        if job.crashed:
            allowed = {"handed back" if lost else "engine_crashed"}
        elif lost:
            allowed = {"handed back"} | ({"cancelled"} if meant else set())
        elif meant:
            allowed = {"hung", "cancelled"} if fate == "replaced" else {"handed back"}
        assert kind in allowed, f"{kind}, though its engine was to end as {fate}"

    # ------------------------------------------------------------ rules

    @invariant()
    def state_is_whole(self) -> None:
        invariants.check(self.core)

    @invariant()
    def every_attempt_is_accounted_for(self) -> None:
        if self.exit is not None or self.core.leaving is not None:
            return
        held = {item.fence for item in self.core.capacity.held(self.now)}
        for at in self.ran:
            assert at in held or at in self.acknowledged or at in self.gone_without_result, f"attempt {at:x} vanished"

    @invariant()
    def directories_belong_to_someone(self) -> None:
        if self.exit is None and self.core.leaving is None:
            held = {item.fence for item in self.core.capacity.held(self.now)}
            assert self.dirs <= held | self.accepted, "garbage was left"
