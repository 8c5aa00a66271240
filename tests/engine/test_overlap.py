"""Who may run beside whom: the planner's answers as tables, and its rules in any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.engine.overlap import Candidate, MemoryModel, OverlapPlanner, Where

#: Weights of 20, fronts and tails of 10 each: 40 of 92 % of 44 fit, of 43 they don't.
ROOM, NO_ROOM = 44.0, 43.0
#: 50 of 92 % of 55 fit, of 54 they don't.
THREE, NO_THREE = 55.0, 54.0
SMALL = Candidate(shape="small")


def planner(*measured: str, enabled: bool = True) -> OverlapPlanner:
    """A planner that has seen both halves of jobs of these shapes, alone."""
    made = OverlapPlanner(enabled=enabled)
    for shape in measured:
        job = Candidate(shape=shape)
        assert made.begin(job)
        made.measured(job, 10.0, 20.0)
        made.end()
        made.stage_ran_alone(job, "device", 10.0)
    return made


@pytest.mark.parametrize(
    ("measured", "where", "job", "limit_mb", "beside"),
    [
        (["small"], "device", SMALL, ROOM, True),
        (["small"], "device", SMALL, NO_ROOM, False),
        ([], "device", SMALL, 1e9, False),
        (["small"], "device", Candidate(shape="large"), 1e9, False),
        (["small"], "device", Candidate(shape="small", resident=False), ROOM, False),
        (["small"], "device", Candidate(shape="small", alone=True), ROOM, False),
        ([], "host", SMALL, NO_ROOM, True),
        ([], "host", Candidate(shape="small", resident=False), NO_ROOM, True),
        ([], "host", Candidate(shape="small", alone=True), ROOM, False),
    ],
)
def test_whether_a_front_may_begin_beside_a_tail(measured, where, job, limit_mb, beside):
    plan = planner(*measured)
    plan.enter_stage("small", where)
    assert plan.may_begin(job, limit_mb) is beside
    plan.end_postprocess()
    assert plan.may_begin(job, limit_mb)


@pytest.mark.parametrize(
    ("measured", "where", "job", "limit_mb", "enabled", "handed_over"),
    [
        (["small"], "device", SMALL, ROOM, True, True),
        (["small"], "device", SMALL, NO_ROOM, True, False),
        ([], "device", SMALL, 1e9, True, False),
        ([], "host", SMALL, NO_ROOM, True, True),
        (["small"], "whole", SMALL, 1e9, True, False),
        ([], "host", Candidate(shape="small", alone=True), ROOM, True, False),
        (["small"], "host", SMALL, ROOM, False, False),
    ],
)
def test_whether_a_tail_is_handed_over(measured, where, job, limit_mb, enabled, handed_over):
    assert planner(*measured, enabled=enabled).may_hand_over(job, where, limit_mb) is handed_over


@pytest.mark.parametrize(("where", "measured"), [("host", True), ("device", False)])
def test_what_a_front_takes_is_measured_with_nothing_beside_it_on_the_device(where, measured):
    plan = planner("small")
    plan.enter_stage("small", where)
    assert plan.begin(SMALL) is measured


def test_a_model_that_is_moved_is_not_measured():
    assert not planner().begin(Candidate(shape="small", resident=False))


def test_a_tail_that_comes_to_the_device_spoils_the_measurement():
    plan = planner()
    plan.stage_ran_alone(SMALL, "device", 10.0)
    plan.enter_stage("small", "host")
    assert plan.begin(SMALL)
    plan.enter_stage("small", "device")
    plan.measured(SMALL, 10.0, 20.0)
    plan.end()
    assert not plan.may_begin(SMALL, 1e9), "a front of this shape has not been seen yet"


def test_the_most_that_was_seen_counts():
    memory = MemoryModel()
    memory.denoise_took("a", 10.0, 20.0)
    memory.denoise_took("a", 5.0, 20.0)
    memory.postprocess_took("a", 10.0)
    memory.postprocess_took("a", 1.0)
    assert not memory.fit("a", "a", NO_ROOM)
    assert memory.fit("a", "a", ROOM)


def test_two_that_ran_out_are_not_tried_together_again():
    plan = planner("small")
    plan.enter_stage("small", "device")
    plan.begin(SMALL)
    assert plan.excuse()
    plan.end()
    assert not plan.may_begin(SMALL, 1e9)
    plan.end_postprocess()
    assert not plan.may_hand_over(SMALL, "device", 1e9)


def test_memory_that_runs_out_alone_is_the_jobs_own_failure():
    plan = planner("small")
    plan.enter_stage("small", "host")
    plan.begin(SMALL)
    assert not plan.excuse()
    plan.end()
    plan.end_postprocess()
    plan.enter_stage("small", "device")
    assert not plan.excuse_stage()


@pytest.mark.parametrize("front_ended", [False, True])
def test_a_stage_that_ran_out_beside_a_front_is_repeated_without_one(front_ended):
    other = Candidate(shape="other")
    plan = planner("small", "other")
    plan.enter_stage("small", "device")
    assert plan.may_begin(other, 1e9)
    plan.begin(SMALL)
    if front_ended:
        plan.end()
    assert plan.excuse_stage()
    assert plan.may_repeat() is front_ended
    plan.end()
    assert plan.may_repeat()
    assert not plan.may_begin(other, 1e9), "nothing begins while it is repeated"
    plan.end_postprocess()
    assert plan.may_begin(other, 1e9)
    assert not plan.may_hand_over(SMALL, "device", 1e9), "the two are not tried together again"


def test_there_is_one_tail_at_a_time():
    plan = planner("small")
    plan.enter_stage("small", "host")
    assert not plan.may_hand_over(SMALL, "host", ROOM)


@pytest.mark.parametrize(
    ("measured", "job", "other", "limit_mb", "prepares"),
    [
        (["small"], SMALL, SMALL, ROOM, True),
        (["small"], SMALL, SMALL, NO_ROOM, False),
        ([], SMALL, SMALL, 1e9, False),
        (["small"], SMALL, Candidate(shape="large"), 1e9, False),
        (["small"], SMALL, Candidate(shape="small", alone=True), ROOM, False),
        (["small"], Candidate(shape="small", alone=True), SMALL, ROOM, False),
        (["small"], SMALL, Candidate(shape="small", resident=False), ROOM, False),
    ],
)
def test_whether_a_job_may_be_prepared_beside_another(measured, job, other, limit_mb, prepares):
    plan = planner(*measured)
    assert not plan.may_prepare(other, limit_mb), "there is nothing beside which it is prepared"
    plan.begin(job)
    assert plan.may_prepare(other, limit_mb) is prepares


@pytest.mark.parametrize(
    ("where", "limit_mb", "prepares"),
    [("host", ROOM, True), ("device", ROOM, False), ("device", THREE, True), ("device", NO_THREE, False)],
)
def test_whether_a_job_may_be_prepared_beside_another_and_a_tail(where, limit_mb, prepares):
    plan = planner("small")
    plan.enter_stage("small", where)
    plan.begin(SMALL)
    assert plan.may_prepare(Candidate(shape="small"), limit_mb) is prepares


def test_a_tail_of_which_nothing_is_known_has_no_third_beside_it():
    plan = planner("small")
    plan.enter_stage("large", "device")
    plan.begin(SMALL)
    assert not plan.may_prepare(Candidate(shape="small"), 1e9)


def three() -> tuple[OverlapPlanner, Candidate]:
    """One in its tail, one that is denoised, and one that is prepared."""
    plan, third = planner("small"), Candidate(shape="small")
    plan.enter_stage("small", "device")
    plan.begin(SMALL)
    assert plan.may_prepare(third, THREE)
    plan.prepare(third)
    return plan, third


@pytest.mark.parametrize("which", ["tail", "denoised", "prepared"])
def test_three_of_which_one_ran_out_are_not_tried_together_again_and_two_of_them_are(which):
    plan, third = three()
    if which == "tail":
        assert plan.excuse_stage()
        assert not plan.may_prepare(Candidate(shape="small"), 1e9), "it is repeated with nothing beside it"
        plan.drop_prepared(third)
    elif which == "denoised":
        assert plan.excuse()
        plan.drop_prepared(third)
    else:
        assert plan.excuse_prepared(third)
    plan.end()
    plan.end_postprocess()
    assert plan.may_hand_over(SMALL, "device", 1e9), "two are another thing"
    plan.enter_stage("small", "device")
    assert plan.may_begin(SMALL, 1e9)
    plan.begin(SMALL)
    assert not plan.may_prepare(Candidate(shape="small"), 1e9)
    plan.end_postprocess()
    assert plan.may_prepare(Candidate(shape="small"), 1e9)


def test_a_stage_is_repeated_when_the_third_is_prepared_too_or_gone():
    plan, third = three()
    assert plan.excuse_stage()
    plan.end()
    assert not plan.may_begin(third, 1e9), "the stage is repeated first"
    assert not plan.may_repeat(), "it may be what took the memory"
    plan.prepared(third)
    assert plan.may_repeat()
    plan.end_postprocess()
    assert plan.may_begin(third, 1e9)


def test_a_prepared_job_begins_when_the_one_before_has_ended_and_before_all_others():
    plan = planner("small")
    plan.begin(SMALL)
    prepared, third = Candidate(shape="small"), Candidate(shape="small")
    plan.prepare(prepared)
    assert not plan.may_prepare(third, 1e9), "one at a time"
    assert not plan.may_begin(prepared, 1e9)
    plan.end()
    assert not plan.may_begin(third, 1e9)
    assert plan.may_begin(prepared, 1e9)
    assert not plan.begin(prepared), "the most may have been taken while it was prepared"
    plan.end()
    assert plan.may_begin(third, 1e9)


def test_what_a_stage_takes_beside_a_prepared_job_is_not_learned():
    plan = planner()
    plan.stage_ran_alone(SMALL, "device", 10.0)
    first = Candidate(shape="small")
    assert plan.begin(first)
    plan.prepare(Candidate(shape="small"))
    plan.measured(first, 10.0, 20.0)
    plan.end()
    assert not plan.may_hand_over(SMALL, "device", 1e9)


@pytest.mark.parametrize("which", ["the prepared one", "the other"])
def test_a_pair_of_which_one_ran_out_of_memory_is_not_prepared_again(which):
    plan = planner("small")
    prepared = Candidate(shape="small")
    plan.begin(SMALL)
    plan.prepare(prepared)
    if which == "the prepared one":
        assert plan.excuse_prepared(prepared)
        assert not plan.has_prepared
    else:
        assert plan.excuse()
        plan.drop_prepared(prepared)
    assert not plan.may_prepare(Candidate(shape="small"), 1e9)
    plan.end()
    assert plan.may_hand_over(SMALL, "device", 1e9), "decoding beside the next is another thing"


class AnyOrder(RuleBasedStateMachine):
    """A caller's thread and a tail's thread that make every legal call in any order, on a device that really runs out of memory."""

    WEIGHTS = 20.0
    #: What the halves of each shape take, and what the device has: some pairs fit, and some only seem to.
    TAKES = {"small": (10.0, 10.0), "large": (40.0, 30.0)}

    def __init__(self) -> None:
        super().__init__()
        self.plan = OverlapPlanner()
        self.limit = 100.0
        self.front: Candidate | None = None
        self.handing: Candidate | None = None
        self.tail: tuple[str, Where] | None = None
        self.prepared: Candidate | None = None
        self.waits_for_turn = False
        self.waits_to_repeat = False
        self.repeating = False
        self.excused: list[tuple[str, str]] = []

    def taken(self) -> float:
        front = self.TAKES[self.front.shape][0] if self.front else 0.0
        tail = self.TAKES[self.tail[0]][1] if self.tail and self.tail[1] == "device" else 0.0
        prepared = self.TAKES[str(self.prepared.shape)][0] if self.prepared else 0.0
        return self.WEIGHTS + front + tail + prepared

    @precondition(lambda self: self.prepared is None)
    @rule(shape=st.sampled_from(("small", "large")), alone=st.booleans(), resident=st.booleans())
    def prepare(self, shape: str, alone: bool, resident: bool) -> None:
        job = Candidate(shape=shape, alone=alone, resident=resident)
        if self.plan.may_prepare(job, self.limit):
            assert self.front is not None
            assert resident
            assert not alone
            assert not self.repeating
            assert not self.waits_to_repeat
            self.plan.prepare(job)
            self.prepared, self.waits_for_turn = job, False

    @precondition(lambda self: self.prepared is not None and not self.waits_for_turn)
    @rule()
    def prepared_waits(self) -> None:
        assert self.prepared is not None
        self.plan.prepared(self.prepared)
        self.waits_for_turn = True

    @precondition(lambda self: self.prepared is not None)
    @rule(how=st.sampled_from(("ends", "runs out")))
    def prepared_goes(self, how: str) -> None:
        assert self.prepared is not None
        if how == "ends":
            self.plan.drop_prepared(self.prepared)
        else:
            assert self.plan.excuse_prepared(self.prepared)
        self.prepared = None

    @precondition(lambda self: self.waits_for_turn and self.prepared and self.front is None and self.handing is None)
    @rule()
    def prepared_begins(self) -> None:
        assert self.prepared is not None
        if not self.plan.may_begin(self.prepared, self.limit):
            assert self.tail is not None
            return
        assert not self.repeating
        assert not self.plan.begin(self.prepared)
        self.front, self.prepared = self.prepared, None

    @precondition(lambda self: self.front is None and self.handing is None and self.prepared is None)
    @rule(shape=st.sampled_from(("small", "large")), alone=st.booleans(), resident=st.booleans())
    def begin(self, shape: str, alone: bool, resident: bool) -> None:
        job = Candidate(shape=shape, alone=alone, resident=resident)
        if not self.plan.may_begin(job, self.limit):
            assert self.tail is not None, "with nothing under way everybody may begin"
            return
        assert not self.repeating
        assert not (self.tail and alone)
        measured = self.plan.begin(job)
        self.front = job
        if measured:
            assert self.tail is None or self.tail[1] == "host"
            assert self.prepared is None
            self.plan.measured(job, self.TAKES[shape][0], self.WEIGHTS)
        elif self.tail and self.tail[1] == "device":
            assert resident
            assert (shape, self.tail[0]) not in self.excused

    @precondition(lambda self: self.front is not None)
    @rule(well=st.booleans())
    def end(self, well: bool) -> None:
        self.plan.end()
        self.front, self.handing = None, self.front if well else None

    @precondition(lambda self: self.front is not None and self.tail is not None and self.tail[1] == "device")
    @rule()
    def front_runs_out(self) -> None:
        assert self.front is not None
        assert self.tail is not None
        assert self.plan.excuse()
        self.excused.append((str(self.front.shape), self.tail[0]))
        self.plan.end()
        self.front = None

    @precondition(lambda self: self.handing is not None and self.tail is None)
    @rule(where=st.sampled_from(("host", "device", "whole")))
    def hand_over(self, where: Where) -> None:
        job, self.handing = self.handing, None
        assert job is not None
        if self.plan.may_hand_over(job, where, self.limit):
            assert not job.alone
            assert where != "whole"
            self.plan.enter_stage(job.shape, where)
            self.tail = (str(job.shape), where)
        else:
            self.plan.stage_ran_alone(job, where, self.TAKES[str(job.shape)][1])

    @precondition(lambda self: self.tail is not None and not self.waits_to_repeat)
    @rule()
    def tail_ends(self) -> None:
        self.plan.end_postprocess()
        self.tail, self.repeating = None, False

    @precondition(lambda self: self.tail is not None and not self.waits_to_repeat and self.tail[1] == "device")
    @rule()
    def tail_goes_on_to_the_host(self) -> None:
        assert self.tail is not None
        self.plan.enter_stage(self.tail[0], "host")
        self.tail, self.repeating = (self.tail[0], "host"), False

    @precondition(lambda self: self.tail is not None and self.tail[1] == "device" and not self.waits_to_repeat)
    @rule()
    def tail_runs_out(self) -> None:
        excused = self.plan.excuse_stage()
        if self.front is not None:
            assert excused, "a front is beside it"
        if self.repeating:
            assert not excused, "alone it is the job's own failure"
        if excused:
            self.waits_to_repeat = True

    @precondition(lambda self: self.waits_to_repeat)
    @rule()
    def tail_repeats(self) -> None:
        quiet = self.front is None and (self.prepared is None or self.waits_for_turn)
        assert self.plan.may_repeat() is quiet
        if quiet:
            self.waits_to_repeat, self.repeating = False, True

    @invariant()
    def what_runs_together_fits(self) -> None:
        assert self.taken() <= self.limit

    @invariant()
    def a_repeated_stage_is_alone(self) -> None:
        assert not (self.repeating and self.front)

    @invariant()
    def the_planner_knows_of_the_tail(self) -> None:
        assert self.plan.postprocess_under_way is (self.tail is not None)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
