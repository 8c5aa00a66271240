"""Any order of events: what broker, engine and time may do to an agent; what must hold is in `surroundings`."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from msgspec import structs

from broker.wire import messages as m
from broker.wire.device import DeviceHealth
from tests.agent.stage import EPOCH, RESULT
from tests.agent.surroundings import Job, Surroundings
from workers.agent import effects as fx
from workers.agent.spooled_results import SpooledResult
from workers.ipc.messages import (
    JobCancelled,
    JobFailed,
    JobFinished,
    JobParked,
    LoadFailed,
    NextRequested,
    PostprocessBegun,
    Ready,
)
from workers.ipc.shared import Progress


class World(Surroundings):
    """What broker, engine and time may do."""

    @initialize(
        scene=st.sampled_from(["new", "yields", "ready", "full", "tails", "prepared", "three"]),
        alone=st.booleans(),
        machines=st.sampled_from([1, 1, 2]),
        results=st.integers(0, 2),
    )
    def begin(self, scene: str, alone: bool, machines: int, results: int) -> None:
        """A worker that is new, or ready, or has two jobs, of which the second may be in its tail too, or prepared, or three.

        An agent before it may have left `results`.
        """
        identity = structs.replace(self.identity, yields=scene == "yields", machines=machines)
        self.take_place(identity, self.left_results(results))
        self.do(self.core.tick(self.now))
        if scene in ("new", "yields"):
            return
        self.welcome()
        self.engine_loads(works=True)
        if scene in ("full", "tails", "three"):
            self.next_job_comes_to_its_tail()
        if scene == "full":
            self.run_new(1, alone=alone)
        elif scene == "tails":
            self.next_job_comes_to_its_tail()
        elif scene in ("prepared", "three"):
            self.next_job_asks_for_another(alone=alone)

    def left_results(self, count: int) -> tuple[SpooledResult, ...]:
        """Results that an agent before this one left; none where there is no depot to put them into."""
        return ()

    # ------------------------------------------------------------ time

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.25, 1.0, 3.0, 31.0, 400.0, 1000.0]))
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

    @rule(message=st.sampled_from([None, m.Identify(), m.HeartbeatAck()]))
    def broker_speaks(self, message: m.ToAgent | None) -> None:
        self.broker(message)

    @rule(heartbeat_s=st.sampled_from([1.0, 1.0, 0.0, 1e9]), depot_key=st.sampled_from(["", "a key", "the next one"]))
    def welcome(self, heartbeat_s: float = 1.0, depot_key: str = "") -> None:
        self.broker(m.Welcome(epoch=self.epoch, heartbeat_s=heartbeat_s, depot_key=depot_key))

    @rule()
    def broker_starts_anew(self) -> None:
        """Its fences go on in the next epoch; it knows nothing of this connection."""
        self.epoch += 1
        self.broker(None)
        self.welcome()

    @rule(
        skip=st.integers(1, 2),
        alone=st.sampled_from([False, False, True]),
        kept=st.sampled_from([0, 0, 3]),
        park_at=st.sampled_from([0, 0, 0, 5]),
    )
    def run_new(self, skip: int, alone: bool, kept: int = 0, park_at: int = 0) -> None:
        self.counter += skip
        at, job_id = self.fence(self.counter), f"j{self.counter}"
        self.granted[at] = job_id
        self.alone |= {at} if alone else set()
        self.park_orders |= {at} if park_at else set()
        run = m.Run(job_id=job_id, fence=at, lease_s=6.0, predicted_s=40.0, alone=alone, body=b"spec")
        self.broker(structs.replace(run, kept=kept, park_at=park_at))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def run_again(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.granted)))
        self.broker(m.Run(job_id=self.granted[at], fence=at, lease_s=6.0, alone=at in self.alone, body=b"spec"))

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), grace=st.sampled_from([0.0, 0.5]))
    def cancel(self, data: st.DataObject, grace: float) -> None:
        at = data.draw(st.sampled_from(sorted(self.granted)))
        self.cancel_orders.add(at)
        self.broker(m.Cancel(job_id=self.granted[at], fence=at, grace_s=grace))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_current(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(self.jobs)).fence
        self.cancel_orders.add(at)
        self.broker(m.Cancel(job_id=self.granted[at], fence=at))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.granted)))
        self.park_orders.add(at)
        self.broker(m.Park(job_id=self.granted[at], fence=at))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_is_not_heard(self, data: st.DataObject) -> None:
        """What would seldom come about by single steps."""
        self.cancel_current(data)
        self.time_passes(5.0)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), other=st.sampled_from([-2, -1, 1, 2]))
    def cancel_under_another_name(self, data: st.DataObject, other: int) -> None:
        at = data.draw(st.sampled_from(self.jobs)).fence
        before = len(self.jobs)
        self.broker(m.Cancel(job_id=self.granted[at], fence=at + other))
        assert len(self.jobs) == before

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

    @precondition(lambda self: self.process and not self.ready and not self.closed)
    @rule(works=st.booleans())
    def engine_loads(self, works: bool) -> None:
        if works:
            self.ready = True
            self.engine(Ready(model="demo"))
        else:
            self.closed = True
            self.engine(LoadFailed(model="demo", message="?"))

    @precondition(lambda self: self.process and not self.ready)
    @rule(phase=st.sampled_from(["", "load", "warm_up"]), step=st.integers(0, 3))
    def engine_shows_its_loading(self, phase: str, step: int) -> None:
        if self.exit is None:
            shown = Progress(fence=0, phase=phase, step=step, total=3, tick=step)
            self.do(self.core.progressed((shown,), self.now))

    @precondition(lambda self: self.process and self.jobs)
    @rule(
        data=st.data(),
        phase=st.sampled_from(["load", "warm_up", "encode", "denoise", "decode", "save"]),
        step=st.integers(0, 40),
    )
    def engine_works(self, data: st.DataObject, phase: str, step: int) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if not (job.alone and job is not self.jobs[0]):  # it waits for the tail before it
            self.show(job, phase, step)

    @precondition(lambda self: self.front is not None and self.front.begun and not self.front.alone and not self.closed)
    @rule()
    def tail_begins(self) -> None:
        assert self.front is not None
        self.comes_to_its_tail(self.front)

    def comes_to_its_tail(self, job: Job) -> None:
        self.beats.clear()
        job.postprocessing = True
        self.engine(PostprocessBegun(fence=job.fence, model="demo"))
        self.room_is_reported()

    @precondition(lambda self: self.front is not None and self.front.begun and not self.front.alone and not self.closed)
    @rule()
    def next_is_wanted(self) -> None:
        """Perhaps not for the first time."""
        assert self.front is not None
        self.asks_for_next(self.front)

    @precondition(lambda self: self.front is not None and not self.front.alone and not self.closed)
    @rule(meanwhile=st.sampled_from(["drain", "undrain", "park", "cancel", "probe", "leave"]), shown=st.booleans())
    def next_is_wanted_meanwhile(self, meanwhile: str, shown: bool) -> None:
        """What would seldom come about by single steps: the question crosses an order. The words may be read later."""
        job = self.front
        assert job is not None
        if shown:
            self.show(job, "denoise", 3)
        order: m.ToAgent | None = None
        match meanwhile:
            case "drain" | "undrain":
                order = m.Drain()
            case "park":
                self.park_orders.add(job.fence)
                order = m.Park(job_id=self.granted[job.fence], fence=job.fence)
            case "cancel":
                self.cancel_orders.add(job.fence)
                order = m.Cancel(job_id=self.granted[job.fence], fence=job.fence)
        if meanwhile != "leave":
            self.broker(order)
        elif self.exit is None:
            self.do(self.core.leave("told to", self.now))
        self.asks_for_next(job)
        if meanwhile == "undrain":
            self.broker(m.Undrain())

    def asks_for_next(self, job: Job) -> None:
        first, job.wanted = not job.wanted, True
        if first:
            self.beats.clear()
        self.engine(NextRequested(fence=job.fence))
        if first:  # else it was reported then, or is with the next heartbeat
            self.room_is_reported()

    @precondition(
        lambda self: (
            not self.closed
            and self.front is not None
            and self.front.wanted
            and self.prepared is not None
            and self.prepared.begun
            and not self.prepared.alone
        )
    )
    @rule(comes_to_its_tail=st.booleans())
    def next_goes_on_first(self, comes_to_its_tail: bool) -> None:
        """The job before it has lost its turn without a word: it is about to be answered, or is drawn once more behind this one."""
        before, job = self.front, self.prepared
        assert before is not None
        assert job is not None
        before.wanted = False
        self.jobs = [*(other for other in self.jobs if other not in (before, job)), job, before]
        if comes_to_its_tail:
            self.comes_to_its_tail(job)
        else:
            self.asks_for_next(job)

    @precondition(lambda self: self.process and not self.closed)
    @rule(data=st.data(), unknown=st.sampled_from([1, 2, 1 << 40]))
    def next_is_wanted_beside_no_last_step(self, data: st.DataObject, unknown: int) -> None:
        """Of a job that has ended, is in its tail, was never given, or was another broker's."""
        drawn = {job.fence for job in self.jobs if not job.postprocessing}
        stray = sorted({*self.granted, self.fence(self.counter) + unknown} - drawn)
        free = self.core.capacity.free
        self.engine(NextRequested(fence=data.draw(st.sampled_from(stray))))
        assert self.core.capacity.free == free, "room that nobody has made"

    @precondition(lambda self: self.has_room())
    @rule()
    def next_job_comes_to_its_tail(self) -> None:
        """What would seldom come about by single steps."""
        self.run_new(1, alone=False)
        if (job := self.front) is not None:
            self.show(job, "denoise", 3)
            if not self.closed:
                self.tail_begins()

    @precondition(lambda self: self.has_room())
    @rule(alone=st.sampled_from([False, False, False, True]), shown=st.booleans())
    def next_job_asks_for_another(self, alone: bool, shown: bool = True) -> None:
        """What would seldom come about by single steps."""
        if self.front is None:
            self.run_new(1, alone=False)
        if (job := self.front) is not None and not job.alone:
            self.show(job, "denoise", 3)
            self.asks_for_next(job)
            self.run_new(1, alone=alone)
            if shown and not alone and (behind := self.prepared) is not None:
                self.show(behind, "encode", 0)

    @precondition(lambda self: self.process and self.jobs and not self.closed)
    @rule(data=st.data())
    def a_rank_is_gone(self, data: st.DataObject) -> None:
        """The engine reports it as a crash of the job: whose fault it is shows by the end of all ranks."""
        job = data.draw(st.sampled_from(self.jobs))
        alive = self.core.engine_slot.engine.life.state in ("idle", "busy") and self.core.leaving is None
        held = self.core.engine_slot.attempts.of(job.fence) is not None
        self.closed = True
        crash = JobFailed(fence=job.fence, kind="engine_crashed", message="rank 1 is gone", fatal=True)
        if self.core.engine_slot.spread and alive and held and self.exit is None:
            job.crashed = True
            before = self.core.capacity.held(self.now)
            self.engine(crash)
            assert self.core.capacity.held(self.now) == before, "judged before all ranks were gone"
        else:
            self.jobs.remove(job)
            self.engine(crash)

    @precondition(lambda self: self.process and self.jobs and not self.closed)
    @rule(data=st.data(), how=st.sampled_from(["finished", "finished", "failed", "fatal", "memory", "cancelled"]))
    def engine_ends_job(self, data: st.DataObject, how: str) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        at = job.fence
        waits = {other.fence for other in self.core.engine_slot.attempts} - {at}
        held = (
            self.core.engine_slot.attempts.find(self.granted[at], at) is not None
            and self.core.leaving is None
            and self.exit is None
        )
        self.jobs.remove(job)
        match how:
            case "finished":
                self.engine(JobFinished(fence=at, result=RESULT, run_s=1.0, model="demo"))
            case "failed" | "fatal":
                self.closed = how == "fatal"
                self.engine(JobFailed(fence=at, kind="engine_error", message="x" * 5000, fatal=self.closed))
            case "memory":
                self.engine(JobFailed(fence=at, kind="out_of_memory", message="no memory"))
            case _:
                self.engine(JobCancelled(fence=at, model="demo"))
        if held:
            assert at in self.core.unacked_results.fences(), "an end without a result"
            assert waits == {other.fence for other in self.core.engine_slot.attempts}, "another attempt went with it"

    def parking(self) -> list[Job]:
        return [job for job in self.jobs if not job.postprocessing and job.fence in self.park_orders]

    @precondition(lambda self: self.parking() and not self.closed)
    @rule(data=st.data(), kept=st.integers(0, 40))
    def engine_parks_job(self, data: st.DataObject, kept: int) -> None:
        job = data.draw(st.sampled_from(self.parking()))
        at = job.fence
        attempt = next((one for one in self.core.engine_slot.attempts if one.fence == at), None)
        held = attempt is not None and self.core.leaving is None and self.exit is None
        cancelled = attempt is not None and attempt.cancel_by is not None
        self.jobs.remove(job)
        self.engine(JobParked(fence=at, kept=kept, model="demo"))
        if held:
            assert self.core.engine_slot.attempts.of(at) is None, "parked, and still there"
            assert (at in self.core.unacked_results.fences()) == cancelled, "a cancel counts for more"
            if not cancelled:  # handed back, with its files: they show how far it is
                self.gone_without_result.add(at)
                self.dirs.discard(at)

    @precondition(lambda self: self.process)
    @rule()
    def engine_closes(self) -> None:
        self.closed = True
        if self.exit is None:
            self.do(self.core.engine_closed(self.now))

    @precondition(lambda self: self.process)
    @rule(lost=st.sampled_from(["", "", "host-b is gone: its connection is gone"]))
    def engine_exits(self, lost: str) -> None:
        self.process, self.ready = False, False
        jobs, fate, self.jobs = self.jobs, self.fate, []
        if self.exit is not None:
            return
        held = {attempt.fence: attempt for attempt in self.core.engine_slot.attempts}
        leaves = self.core.leaving is not None
        self.do(self.core.engine_exited("killed by SIGKILL" if self.killed else "exit code 1", self.now, lost))
        assert not self.core.engine_slot.attempts, "a job without an engine"
        for job in jobs:
            if job.fence in held and not leaves:
                self.judge(job, fate, meant=held[job.fence].ending is not None, lost=bool(lost))
            if lost and job.fence not in self.core.unacked_results.fences():  # handed back with its files
                self.gone_without_result.add(job.fence)
                self.dirs.discard(job.fence)

    @rule(reason=st.sampled_from(["host-b is being stopped: stopped by SIGTERM", ""]))
    def machine_stops(self, reason: str) -> None:
        if self.exit is None:
            slot = self.core.engine_slot
            in_engine = [attempt.fence for attempt in slot.attempts if attempt.fence in self.ran]
            self.do(self.core.machine_stops(reason, self.now))
            assert [attempt.fence for attempt in slot.attempts if attempt.fence in self.ran] == in_engine
            assert not (reason and self.core.leaving is None and self.core.capacity.free), (
                "room beside a machine that goes"
            )

    @rule(waits=st.booleans())
    def machines_come_and_go(self, waits: bool) -> None:
        self.core.engine_slot.engine.life.waits_for = "waiting for host-b" if waits else ""

    @precondition(lambda self: self.counter > 4)
    @rule(fault=st.sampled_from(["", "GPU 0 fell off the bus"]))
    def device_is_measured(self, fault: str) -> None:
        self.fault = self.fault or fault
        if self.exit is None:
            self.do(self.core.measured(fx.Stats(health=DeviceHealth(fault=fault)), self.now))

    @precondition(lambda self: self.process and not self.closed)
    @rule()
    def engine_babbles(self) -> None:
        self.closed = True
        if self.exit is None:
            self.do(self.core.engine_closed(self.now, "junk"))

    @precondition(
        lambda self: (
            self.jobs and not (self.jobs[-1].begun or self.jobs[-1].wanted) and not self.jobs[-1].postprocessing
        )
    )
    @rule()
    def directory_cannot_be_made(self) -> None:
        if self.exit is None and not self.killed and not self.closed:  # it is tried at once
            at = self.jobs.pop().fence
            self.do(self.core.begin_failed(at, "disk full", self.now))

    # ------------------------------------------------------------ leaving

    @precondition(lambda self: self.counter > 8)
    @rule(
        message=st.sampled_from(
            [
                m.Drain(),
                m.Drain(hand_back=True),
                m.Undrain(),
                m.WorkerRejected(),
                m.WorkerRejected(remedy="anew"),
                m.WorkerRejected(remedy="yield"),
                m.Welcome(epoch=EPOCH - 1),
            ]
        )
    )
    def is_told_to_leave(self, message: m.ToAgent) -> None:
        self.broker(message)

    @precondition(lambda self: self.counter > 3)
    @rule(again=st.sampled_from([False, False, True]))
    def sigterm(self, again: bool) -> None:
        if self.exit is None:
            second = self.core.stop_at is not None
            self.do(self.core.stop("SIGTERM", self.now))
            assert not self.core.capacity.free, "a worker that stops would take a job"
            assert not second or self.core.leaving is not None, "a second signal changes nothing"
        if again and self.exit is None:
            self.do(self.core.stop("SIGTERM", self.now))
            assert self.core.leaving is not None, "a second signal changes nothing"

    @precondition(lambda self: self.counter > 8)
    @rule()
    def supervisor_is_gone(self) -> None:
        if self.exit is None:
            self.do(self.core.leave("told to", self.now))


World.TestCase.settings = settings(max_examples=160, stateful_step_count=40, deadline=None)
TestAnyOrder = World.TestCase
