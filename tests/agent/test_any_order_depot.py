"""Any order of events for an agent whose files go into a depot: as `test_any_order`, and what the depot may do."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec import structs

from broker.wire import messages as m
from tests.agent.stage import FAR, IDENTITY, RESULT, RESULT_BODY, WITH_INPUT
from tests.agent.test_any_order import World
from workers.agent import effects as fx
from workers.agent.spooled_results import SpooledResult
from workers.ipc.messages import JobFinished, JobParked


class FarWorld(World):
    """What broker, engine, depot and time may do; some of the jobs have inputs in the depot."""

    identity = structs.replace(IDENTITY, dirs=FAR)

    def __init__(self) -> None:
        #: Attempts whose files are on their way, those whose inputs are, and those whose checkpoints are.
        self.puts: set[int] = set()
        self.fetches: set[int] = set()
        self.parks: set[int] = set()
        #: Attempts of an agent before, whose files are put once the broker has given the key.
        self.left: set[int] = set()
        super().__init__()

    def left_results(self, count: int) -> tuple[SpooledResult, ...]:
        left = []
        for self.counter in range(1, count + 1):
            at, job_id = self.fence(self.counter), f"j{self.counter}"
            self.granted[at] = job_id
            self.ran.append(at)
            self.dirs.add(at)
            self.left.add(at)
            message = m.Finished(job_id=job_id, fence=at, run_s=1.0, body=RESULT_BODY)
            left.append(SpooledResult(message=message, age_s=5.0, files=RESULT.artefacts))
        return tuple(left)

    def has_room(self) -> bool:
        return super().has_room() and not self.fetches

    def apply(self, effect: fx.Effect) -> None:
        match effect:
            case fx.PutFiles(_, at, _):
                assert at in self.ran
                self.puts.add(at)
                self.left.discard(at)
            case fx.PutParked(_, at):
                assert at in self.ran
                self.parks.add(at)
            case fx.FetchInputs(at, _):
                assert at not in self.ran
                self.fetches.add(at)
            case fx.Revoke(at):
                leaves = self.core.leaving is not None  # it forgets all results, those too whose files are there
                assert leaves or at in self.puts | self.fetches | self.parks | self.left, "nothing to revoke"
                for on_their_way in (self.puts, self.fetches, self.parks, self.left):
                    on_their_way.discard(at)
            case fx.DiscardFiles(_, at):
                assert at not in self.accepted, "published files removed"
            case fx.StartJob(job):
                assert job.fence not in self.fetches, "the engine has a job whose inputs are not there"
            case fx.RemoveDir(_, at) if at in self.accepted:
                self.dirs.discard(at)
                return
        super().apply(effect)

    def said(self, message: m.Message) -> None:
        if isinstance(message, m.Finished):
            assert message.fence not in self.puts, "told before its files are there"
        if isinstance(message, m.Cancelled | m.Failed) and message.fence not in self.ran:
            self.ran.append(message.fence)  # it ended while its inputs were on their way
        super().said(message)

    @rule()
    def run_with_inputs(self) -> None:
        self.counter += 1
        at, job_id = self.fence(self.counter), f"j{self.counter}"
        self.granted[at] = job_id
        self.broker(m.Run(job_id=job_id, fence=at, lease_s=6.0, predicted_s=40.0, body=WITH_INPUT))

    @precondition(lambda self: self.has_room())
    @rule(puts=st.booleans())
    def next_job_is_drawn(self, puts: bool) -> None:
        """What would seldom come about by single steps."""
        self.next_job_comes_to_its_tail()
        if self.jobs and self.jobs[-1].postprocessing and not self.closed:
            at = self.jobs.pop().fence
            self.engine(JobFinished(fence=at, result=RESULT, run_s=1.0, model="demo"))
            if puts and at in self.puts and self.exit is None:
                self.puts.discard(at)
                self.do(self.core.files_put(self.granted[at], at, "", self.now))

    @precondition(lambda self: self.puts)
    @rule(data=st.data(), fault=st.sampled_from(["", "", "the edge is full"]))
    def files_are_put(self, data: st.DataObject, fault: str) -> None:
        at = data.draw(st.sampled_from(sorted(self.puts)))
        if self.exit is None:
            if not fault:
                self.puts.discard(at)
            self.do(self.core.files_put(self.granted[at], at, fault, self.now))
        self.puts.discard(at)

    @precondition(lambda self: self.has_room())
    @rule(then=st.sampled_from(["", "cancel", "park", "run", "welcome", "time"]))
    def next_job_is_parked(self, then: str) -> None:
        """What would seldom come about by single steps."""
        self.run_new(1, alone=False)
        job = self.front
        if job is None or self.closed:
            return
        self.show(job, "denoise", 3)
        at, job_id = job.fence, self.granted[job.fence]
        self.park_orders.add(at)
        self.broker(m.Park(job_id=job_id, fence=at))
        self.jobs.remove(job)
        self.engine(JobParked(fence=at, kept=3, model="demo"))
        self.gone_without_result.add(at)
        self.dirs.discard(at)
        match then:
            case "cancel":
                self.cancel_orders.add(at)
                self.broker(m.Cancel(job_id=job_id, fence=at))
            case "park":
                self.broker(m.Park(job_id=job_id, fence=at))
            case "run":
                self.broker(m.Run(job_id=job_id, fence=at, lease_s=6.0, body=b"spec"))
            case "welcome":
                self.welcome()
            case "time":
                self.time_passes(31.0)

    @precondition(lambda self: self.parks)
    @rule(data=st.data(), fault=st.sampled_from(["", "the edge is away"]))
    def checkpoints_are_put(self, data: st.DataObject, fault: str) -> None:
        """They are there, or could not be put in time: the agent may have handed the attempt back meanwhile."""
        at = data.draw(st.sampled_from(sorted(self.parks)))
        self.parks.discard(at)
        if self.exit is None:
            self.do(self.core.files_put(self.granted[at], at, fault, self.now))
            assert at not in self.core.engine_slot.parked.fences()

    @precondition(lambda self: self.puts or self.fetches)
    @rule(data=st.data(), fault=st.sampled_from(["the edge is away", "x" * 5000]))
    def the_depot_does_not_answer(self, data: st.DataObject, fault: str) -> None:
        at = data.draw(st.sampled_from(sorted(self.puts | self.fetches)))
        if self.exit is None:
            self.do(self.core.depot_failed(at, fault, self.now))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), fault=st.sampled_from(["", "", "the edge is away"]), gone=st.booleans())
    def inputs_are_fetched(self, data: st.DataObject, fault: str, gone: bool) -> None:
        at = data.draw(st.sampled_from(sorted(self.fetches)))
        self.fetches.discard(at)
        if self.exit is None:
            self.do(self.core.inputs_fetched(at, fault, self.now, gone=gone))


FarWorld.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAnyOrderWithDepot = FarWorld.TestCase
