"""The verdict on histories that are right, and on each way of being wrong."""

from __future__ import annotations

import msgspec
import pytest

from tests.chaos.checker import STALE_S, check
from tests.chaos.history import (
    Accepted,
    CancelAnswered,
    DiskFile,
    Evidence,
    Fact,
    Fetched,
    FileFact,
    JournalJob,
    Missing,
    Saved,
    Seen,
    Submitted,
    Undesigned,
)

FILE = FileFact("video.mp4", 100, "aa")
OTHER = FileFact("video.mp4", 100, "bb")
JOB = JournalJob(
    job_id="j", state="succeeded", fence=7, files=(FILE,), story=("queued", "assigned", "running", "succeeded")
)
DISK = DiskFile(job_id="j", fence=7, file=FILE)
SUBMITTED = Submitted(at=1, job_id="j")
ACCEPTED = Accepted(at=2, job_id="j", seed=5)
SEEN = Seen(at=4, job_id="j", state="succeeded", asked=3.9, files=(FILE,))


def kinds(*facts: Fact, job: JournalJob | None = JOB, disk: tuple[DiskFile, ...] = (DISK,)) -> list[str]:
    """What is wrong with one job's history."""
    return [violation.kind for violation in check(Evidence(facts=facts, journal=(job,) if job else (), disk=disk))]


def ended(state: str, *story: str, **changes: object) -> JournalJob:
    return msgspec.structs.replace(JOB, state=state, files=(), story=("queued", *(story or (state,))), **changes)


def test_a_whole_life_is_right():
    facts = (
        SUBMITTED,
        ACCEPTED,
        msgspec.structs.replace(ACCEPTED, at=2.5),
        Seen(at=3, job_id="j", state="running"),
        SEEN,
        Fetched(at=5, job_id="j", file=FILE),
        Saved(at=5, job_id="j", file=FileFact("mine.mp4", 100, "aa")),
        CancelAnswered(at=6, job_id="j", outcome="already_final"),
    )
    assert kinds(*facts) == []


def test_jobs_that_asked_for_the_same_picture_draw_the_same():
    def verdict(*pixels: str) -> list[str]:
        ids = [f"p{number}" for number in range(len(pixels))]
        facts = tuple(Submitted(at=1, job_id=job_id, drawing="a circle, seed 1") for job_id in ids)
        journal = tuple(msgspec.structs.replace(JOB, job_id=job_id) for job_id in ids)
        disk = tuple(
            msgspec.structs.replace(DISK, job_id=job_id, pixels=one) for job_id, one in zip(ids, pixels, strict=True)
        )
        return [f"{one.kind} {one.job_id}" for one in check(Evidence(facts=facts, journal=journal, disk=disk))]

    assert verdict("x", "x", "x") == []
    assert verdict("x", "y", "x") == ["pixels p1"]


def test_what_was_never_answered_may_exist_or_not():
    assert kinds(SUBMITTED) == []
    assert kinds(SUBMITTED, job=None, disk=()) == []


@pytest.mark.parametrize("reported", [ACCEPTED, SEEN])
def test_an_accepted_job_that_is_not_in_the_journal_is_lost(reported):
    assert kinds(SUBMITTED, reported, job=None, disk=()) == ["lost"]


def test_a_job_that_is_not_found_after_it_was_accepted_is_lost():
    assert kinds(SUBMITTED, ACCEPTED, Missing(at=3, job_id="j")) == ["lost"]
    assert kinds(SUBMITTED, Missing(at=1.5, job_id="j"), ACCEPTED) == []


def test_a_job_that_does_not_end_is_stuck():
    assert kinds(SUBMITTED, ACCEPTED, job=ended("queued"), disk=()) == ["stuck"]


def test_a_job_that_nobody_submitted_is_unaccepted():
    assert kinds() == ["unaccepted"]


@pytest.mark.parametrize(
    "story",
    [
        ("queued", "running", "succeeded", "succeeded"),
        ("queued", "running", "failed", "succeeded"),
        ("queued", "succeeded", "running"),
        ("queued", "running"),
    ],
)
def test_a_story_with_another_number_of_ends_than_one_is_twice(story):
    assert kinds(SUBMITTED, job=msgspec.structs.replace(JOB, story=story)) == ["twice"]


def test_one_id_that_begins_two_jobs_is_twice():
    assert kinds(SUBMITTED, ACCEPTED, Accepted(at=3, job_id="j", seed=6)) == ["twice"]


def test_two_sets_of_files_are_published_twice():
    second = msgspec.structs.replace(SEEN, at=5, files=(OTHER,))
    assert "twice" in kinds(SUBMITTED, ACCEPTED, SEEN, second)


@pytest.mark.parametrize("later", ["running", "queued", "cancelled", "failed"])
def test_a_final_state_that_is_left_is_changed(later):
    after = Seen(at=4.5, job_id="j", state=later, asked=4.2)
    assert "changed" in kinds(SUBMITTED, ACCEPTED, SEEN, after)


def test_an_answer_to_an_earlier_question_changes_nothing():
    crossed = Seen(at=4.5, job_id="j", state="running", asked=3.5)
    assert kinds(SUBMITTED, ACCEPTED, SEEN, crossed) == []
    assert "changed" in kinds(SUBMITTED, ACCEPTED, SEEN, msgspec.structs.replace(crossed, state="failed"))


def test_another_edge_may_answer_from_memory_for_a_moment_only():
    soon = Seen(at=4.6, job_id="j", state="running", asked=4 + STALE_S / 2, edge=1)
    assert kinds(SUBMITTED, ACCEPTED, SEEN, soon) == []
    assert kinds(SUBMITTED, ACCEPTED, SEEN, msgspec.structs.replace(soon, asked=4.01 + STALE_S)) == ["changed"]


def test_client_and_journal_must_agree_on_the_end():
    seen = Seen(at=4, job_id="j", state="cancelled")
    assert kinds(SUBMITTED, ACCEPTED, seen) == ["disagree"]


@pytest.mark.parametrize("outcome", ["cancelled", "requested"])
def test_a_cancel_that_was_taken_and_a_success_do_not_go_together(outcome):
    cancelled = CancelAnswered(at=3, job_id="j", outcome=outcome)
    assert kinds(SUBMITTED, ACCEPTED, cancelled) == ["cancel"]
    assert kinds(SUBMITTED, ACCEPTED, cancelled, job=ended("cancelled"), disk=()) == []


def test_a_job_that_did_not_succeed_publishes_nothing():
    job = msgspec.structs.replace(ended("cancelled"), files=(FILE,))
    assert kinds(SUBMITTED, job=job) == ["cancel"]


@pytest.mark.parametrize(
    "there", [(), (msgspec.structs.replace(DISK, file=OTHER),), (msgspec.structs.replace(DISK, fence=6),)]
)
def test_a_published_file_must_lie_on_the_disk_as_recorded(there):
    assert kinds(SUBMITTED, disk=there) == ["digest"]


@pytest.mark.parametrize(
    "fact",
    [
        Fetched(at=5, job_id="j", file=OTHER),
        Fetched(at=5, job_id="j", file=FileFact("unknown.mp4", 1, "cc")),
        Saved(at=5, job_id="j", file=OTHER),
        Saved(at=5, job_id="j", file=None),
        Seen(at=5, job_id="j", state="succeeded"),
    ],
)
def test_what_a_client_gets_must_be_what_was_recorded(fact):
    assert kinds(SUBMITTED, ACCEPTED, fact) == ["digest"]


def test_a_success_without_a_file_is_none():
    assert kinds(SUBMITTED, job=msgspec.structs.replace(JOB, files=())) == ["digest"]


def test_an_answer_that_is_not_documented_is_told():
    assert kinds(SUBMITTED, Undesigned(at=2, job_id="j", text="500")) == ["answer"]


def test_jobs_are_judged_apart():
    lost = (Submitted(at=1, job_id="k"), Accepted(at=2, job_id="k", seed=1))
    found = check(Evidence(facts=(SUBMITTED, ACCEPTED, SEEN, *lost), journal=(JOB,), disk=(DISK,)))
    assert [(violation.kind, violation.job_id) for violation in found] == [("lost", "k")]
