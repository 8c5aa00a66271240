"""Any order of events: a made-up broker, engine and file system around the core, and what must hold after every step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.wire import codec
from broker.wire import messages as m
from tests.agent.stage import EPOCH, IDENTITY, RESULT, fence
from workers.agent import effects as fx
from workers.agent import invariants
from workers.agent.core import AgentCore
from workers.agent.policy import AgentPolicy
from workers.ipc import FromEngine, JobCancelled, JobFailed, JobFinished, LoadFailed, Progress, Ready

RESULTS = (m.Finished, m.Failed, m.Cancelled)


class World(RuleBasedStateMachine):
    """The engine process and its job, the directories, and every promise made to the broker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = AgentCore(IDENTITY, AgentPolicy(max_unacknowledged=3), self.now)
        self.counter = 0
        self.granted: dict[int, str] = {}
        # the engine
        self.process = False
        self.killed = False
        self.ready = False
        self.closed = False
        self.job: int | None = None
        self.begun = False
        self.ticks = 0
        # what was seen
        self.ran: list[int] = []
        self.dirs: set[int] = set()
        self.cancel_orders: set[int] = set()
        self.results: dict[int, m.Message] = {}
        self.acknowledged: set[int] = set()
        self.seen = 0
        self.exit: int | None = None
        self.goodbye = False
        self.gone_without_result: set[int] = set()
        self.accepted: set[int] = set()
        self.do(self.core.tick(self.now))

    @initialize(started=st.booleans())
    def begin(self, started: bool) -> None:
        """Half of the histories begin with a worker that is ready."""
        if started:
            self.broker(m.Welcome(epoch=EPOCH))
            self.engine_loads(works=True)

    # ------------------------------------------------------------ effects

    def do(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            assert self.exit is None, f"{effect} after exit"
            match effect:
                case fx.SendBroker(message, body):
                    self.said(message, body)
                case fx.StartEngine():
                    assert not self.process, "two engines"
                    self.process, self.killed, self.ready, self.closed, self.job = True, False, False, False, None
                case fx.StartJob(job):
                    assert self.ready, "a job for an engine that is not ready"
                    assert self.job is None, "two jobs in the engine"
                    assert job.fence not in self.ran, "a fence ran twice"
                    self.job, self.begun = job.fence, False
                    self.ran.append(job.fence)
                    self.dirs.add(job.fence)
                case fx.SetCancelWord(at):
                    assert at == self.job or self.closed, "a cancel word for another job"
                    assert at in self.cancel_orders, "a cancel that nobody ordered"
                case fx.KillEngine():
                    assert self.process, "a kill without a process"
                    self.killed = True
                case fx.RemoveDir(_, at):
                    assert not isinstance(self.results.get(at), m.Finished) or at not in self.accepted, (
                        "published files removed"
                    )
                    self.dirs.discard(at)
                    if at not in self.results:
                        self.gone_without_result.add(at)
                case fx.Exit(code):
                    self.exit = code

    def said(self, message: m.Message, body: bytes | None) -> None:
        codec.from_agent(codec.encode(message, body))  # whatever is said can be read
        assert not self.goodbye, f"{message} after goodbye"
        if isinstance(message, (m.Hello, m.Heartbeat)):
            assert message.seen >= self.seen, "seen fell"
            self.seen = message.seen
            waiting = {at for at in self.results if at not in self.acknowledged}
            held = {item.fence for item in message.held}
            assert waiting <= held, "a result was forgotten before its acknowledgement"
            running = {self.core.slot.attempt.fence} if self.core.slot.attempt else set()
            assert held == running | self.core.outbox.fences(), "something is held that is neither running nor done"
            assert message.free <= (1 if self.ready and not self.killed and self.job is None else 0)
        if isinstance(message, RESULTS):
            assert message.fence in self.ran
            before = self.results.setdefault(message.fence, message)
            assert type(before) is type(message), "a result changed its mind"
        if isinstance(message, m.Goodbye):
            self.goodbye = True

    # ------------------------------------------------------------ time

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.25, 1.0, 3.0, 31.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.exit is None:
            self.do(self.core.tick(self.now))
            assert self.exit is not None or self.core.next_deadline() > self.now, "a deadline that is never met"

    @precondition(lambda self: self.exit is None)
    @rule()
    def next_deadline_comes(self) -> None:
        self.now = max(self.now, self.core.next_deadline())
        self.do(self.core.tick(self.now))

    # ------------------------------------------------------------ the broker

    def broker(self, message: m.ToAgent | None) -> None:
        if self.exit is None:
            self.do(self.core.from_broker(message, b"spec", self.now))

    @rule(message=st.sampled_from([None, m.Who(), m.Welcome(epoch=EPOCH), m.HeartbeatAck()]))
    def broker_speaks(self, message: m.ToAgent | None) -> None:
        self.broker(message)

    @rule(skip=st.integers(1, 2))
    def run_new(self, skip: int) -> None:
        self.counter += skip
        self.granted[fence(self.counter)] = f"j{self.counter}"
        self.broker(m.Run(job_id=f"j{self.counter}", fence=fence(self.counter), lease_s=6.0, predicted_s=40.0))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def run_again(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.granted)))
        self.broker(m.Run(job_id=self.granted[at], fence=at, lease_s=6.0))

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), grace=st.sampled_from([0.0, 0.5]))
    def cancel(self, data: st.DataObject, grace: float) -> None:
        at = data.draw(st.sampled_from(sorted(self.granted)))
        self.cancel_orders.add(at)
        self.broker(m.Cancel(job_id=self.granted[at], fence=at, grace_s=grace))

    @precondition(lambda self: self.job is not None and self.job in self.granted)
    @rule()
    def cancel_current(self) -> None:
        assert self.job is not None
        self.cancel_orders.add(self.job)
        self.broker(m.Cancel(job_id=self.granted[self.job], fence=self.job))

    @precondition(lambda self: self.job is not None)
    @rule(other=st.sampled_from([-2, -1, 1, 2]))
    def cancel_a_neighbour(self, other: int) -> None:
        assert self.job is not None
        self.cancel_orders.add(self.job + other)
        self.broker(m.Cancel(job_id=self.granted[self.job], fence=self.job + other))

    @precondition(lambda self: self.results)
    @rule(data=st.data(), accepted=st.booleans())
    def acknowledge(self, data: st.DataObject, accepted: bool) -> None:
        at = data.draw(st.sampled_from(sorted(self.results)))
        if at in self.acknowledged:
            accepted = at in self.accepted
        self.acknowledged.add(at)
        if accepted:
            self.accepted.add(at)
        self.broker(m.ResultAck(job_id=self.granted[at], fence=at, accepted=accepted))

    # ------------------------------------------------------------ the engine

    def engine(self, message: FromEngine) -> None:
        if self.exit is None:
            self.do(self.core.from_engine(message, self.now))

    @precondition(lambda self: self.process and not self.ready and not self.closed)
    @rule(works=st.booleans())
    def engine_loads(self, works: bool) -> None:
        if works:
            self.ready = True
            self.engine(Ready(model="demo"))
        else:
            self.closed = True
            self.engine(LoadFailed(model="demo", message="?"))

    @precondition(lambda self: self.process and self.job is not None)
    @rule(phase=st.sampled_from(["load", "encode", "denoise", "decode", "save"]), step=st.integers(0, 40))
    def engine_works(self, phase: str, step: int) -> None:
        assert self.job is not None
        self.begun = True
        self.ticks += 1
        if self.exit is None:
            progress = Progress(fence=self.job, phase=phase, step=step, total=40, tick=self.ticks)
            self.do(self.core.progressed(progress, self.now))

    @precondition(lambda self: self.process and self.job is not None and not self.closed)
    @rule(how=st.sampled_from(["finished", "failed", "fatal", "cancelled"]))
    def engine_ends_job(self, how: str) -> None:
        assert self.job is not None
        at, self.job = self.job, None
        match how:
            case "finished":
                self.engine(JobFinished(fence=at, result=RESULT, run_s=1.0, model="demo"))
            case "failed" | "fatal":
                self.closed = how == "fatal"
                self.engine(JobFailed(fence=at, kind="engine_error", message="x" * 5000, fatal=self.closed))
            case _:
                self.engine(JobCancelled(fence=at, model="demo"))

    @precondition(lambda self: self.process)
    @rule()
    def engine_closes(self) -> None:
        self.closed = True
        if self.exit is None:
            self.do(self.core.engine_closed(self.now))

    @precondition(lambda self: self.process)
    @rule()
    def engine_exits(self) -> None:
        self.process, self.ready, self.job = False, False, None
        if self.exit is None:
            self.do(self.core.engine_exited("killed by SIGKILL" if self.killed else "exit code 1", self.now))

    @precondition(lambda self: self.process and not self.closed)
    @rule()
    def engine_babbles(self) -> None:
        self.closed = True
        if self.exit is None:
            self.do(self.core.engine_broken("junk", self.now))

    @precondition(lambda self: self.job is not None)
    @rule()
    def directory_cannot_be_made(self) -> None:
        at = self.job
        if self.exit is None and at is not None and not self.begun:
            self.job = None
            self.do(self.core.begin_failed(at, "disk full", self.now))

    # ------------------------------------------------------------ leaving

    @precondition(lambda self: self.counter > 8)
    @rule(how=st.sampled_from(["drain", "leave", "bye"]))
    def leave(self, how: str) -> None:
        if how == "drain":
            self.broker(m.Drain())
        elif how == "bye":
            self.broker(m.Bye())
        elif self.exit is None:
            self.do(self.core.leave("told to", self.now))

    # ------------------------------------------------------------ rules

    @invariant()
    def state_is_whole(self) -> None:
        invariants.check(self.core)

    @invariant()
    def every_attempt_is_accounted_for(self) -> None:
        if self.exit is not None or self.core.leaving is not None:
            return
        held = {item.fence for item in self.core.held()}
        for at in self.ran:
            assert at in held or at in self.acknowledged or at in self.gone_without_result, f"attempt {at:x} vanished"

    @invariant()
    def directories_belong_to_someone(self) -> None:
        if self.exit is None and self.core.leaving is None:
            held = {item.fence for item in self.core.held()}
            assert self.dirs <= held | self.accepted, "garbage was left"


World.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestAnyOrder = World.TestCase
