"""What was committed is found again, whole; nothing goes backwards; what is staged is seen."""

from __future__ import annotations

import copy

import msgspec
import pytest

from broker.core.jobs import Cause, Job
from broker.runtime.errors import IdTaken, JournalConflict
from broker.shell.journal import epochs
from broker.wire import messages as m
from broker.wire.terms import JobState
from tests.journal.jobs import RESULT, fail, finish, give, new_job, put

NOT_JOURNALED = {
    "evicted",
    "held_gpus",
    "phase",
    "step",
    "total",
    "cost",
    "skipped_s",
    "granted_at",
    "resends",
    "holder",
    "begun",
    "goes_on_from",
    "stepped_at",
    "yields_to",
    "set_aside",
    "damaged",
}


def journaled(job: Job) -> dict[str, object]:
    return {
        field.name: getattr(job, field.name) for field in msgspec.structs.fields(Job) if field.name not in NOT_JOURNALED
    }


def full_job() -> Job:
    """Every journaled field set to something that is not its default."""
    job = new_job("full", model="wan", tenant="studio", priority=9, gpus=4, units=1e6, deadline_at=500.0)
    job.submission = msgspec.structs.replace(
        job.submission,
        origin="lightx2v",
        alias="春天\n'; DROP TABLE job",
        pinned="gpu-7",
        webhook="https://client.example/hook",
        webhook_events=("completed", "failed"),
        max_running=3,
    )
    job.body = bytes(range(256)) * 2000
    give(job, (3 << 32) + 9)
    job.revision = (3 << 32) + 77
    job.crashes, job.losses, job.errors = 2, 3, 1
    job.stop, job.profile, job.excluded = "cancel", "offload", ("gpu-1", "gpu-2")
    job.not_before, job.run_s, job.result = 150.0, 12.5, RESULT
    job.promise = m.Promise(ready_by=400.0, confidence=0.9, first_ready_by=300.0, broken_at=250.0, breaks=1)
    job.failure = m.Failure("hung", "no step for 30 s")
    job.kept, job.park, job.committed, job.draft_fence = 12, "pause", True, (3 << 32) + 8
    job.parked_at, job.preemptions, job.preempted_s = 140.0, 2, 7.5
    job.kept_host = "node-7"
    job.drawn = (3, 20)
    job.move(Cause.CANCELLED, 103.0, "a note")
    return job


def test_every_field_comes_back(journal, open_journal):
    job = full_job()
    defaults = {field.name: field.default for field in msgspec.structs.fields(Job)}
    assert not [name for name, value in journaled(job).items() if value == defaults[name]], "set these too"
    put(journal, job)
    journal.close()
    found = open_journal().find("full")
    assert found is not job
    assert journaled(found) == journaled(job)
    assert isinstance(found.state, JobState)


def test_an_unknown_job_is_not_found(journal):
    assert journal.find("nobody") is None
    assert journal.find_alias("native", "nobody") is None


def test_a_restart_brings_back_what_is_not_final_in_order(journal, open_journal):
    jobs = [new_job(f"job-{n}", at=100.0) for n in range(20)]
    put(journal, *jobs)
    finish(give(jobs[3], 5))
    fail(jobs[4])
    jobs[5].move(Cause.CANCELLED, 101.0)
    jobs[6].not_before = 130.0
    jobs[6].move(Cause.RETRIED, 101.0)
    give(jobs[7], 6)
    put(journal, *jobs[3:8])
    journal.close()
    live = open_journal().live()
    assert [job.id for job in live] == [f"job-{n}" for n in range(20) if n not in (3, 4, 5)]
    assert {job.id: job.state for job in live if job.state is not JobState.QUEUED} == {
        "job-6": JobState.DELAYED,
        "job-7": JobState.RUNNING,
    }


def test_jobs_brought_back_move_on_and_new_ones_come_behind_them(journal, open_journal):
    put(journal, new_job("old"))
    journal.close()
    second = open_journal()
    (old,) = second.live()
    put(second, finish(give(old, 5)), new_job("new", at=1.0))
    found, more, *_ = second.page(m.ListJobs(req=1, newest_first=False))
    assert [(job.id, job.state) for job in found] == [("old", "succeeded"), ("new", "queued")]
    assert not more


def test_what_was_not_committed_is_gone_after_a_crash(journal, open_journal):
    job = new_job("job-1")
    put(journal, job)
    journal.stage(give(job, 5))
    journal.stage(new_job("job-2"))
    journal.flush()
    journal.close()
    after = open_journal()
    assert [(job.id, job.state, job.fence) for job in after.live()] == [("job-1", "queued", 0)]


def test_the_epoch_grows_with_every_opening(journal, open_journal):
    epochs = [journal.epoch]
    for _ in range(3):
        journal.close()
        journal = open_journal()
        epochs.append(journal.epoch)
    assert epochs == [1, 2, 3, 4]


def test_one_commit_covers_everything_staged(journal):
    jobs = [new_job(f"job-{n}") for n in range(100)]
    for job in jobs:
        journal.stage(job)
    for job in jobs[:50]:
        journal.stage(finish(give(job, 5)))
    assert journal.dirty
    assert journal.commit() == 100
    assert not journal.dirty
    assert journal.commit() == 0


def test_a_job_staged_twice_is_written_as_it_is_at_the_flush(journal, open_journal):
    job = new_job("job-1")
    journal.stage(job)
    journal.stage(finish(give(job, 5)))
    journal.commit()
    journal.close()
    assert open_journal().find("job-1").state is JobState.SUCCEEDED


def test_a_lazy_row_is_left_out_of_a_commit_and_seen_all_the_same(journal, open_journal):
    lazy, durable = new_job("lazy", origin="native"), new_job("durable")
    put(journal, lazy, durable)
    journal.stage(give(lazy, 5), lazy=True)
    journal.stage(give(durable, 6))
    assert journal.commit(lazy=False) == 1
    assert journal.dirty
    assert journal.find("lazy").fence == 5
    assert [job.id for job in journal.page(m.ListJobs(req=1, states=("running",)))[0]] == ["durable", "lazy"]
    journal.close()
    assert [(job.id, job.fence) for job in open_journal().live()] == [("lazy", 0), ("durable", 6)]


def test_a_durable_row_takes_the_place_of_a_lazy_one(journal, open_journal):
    job = new_job("job-1")
    put(journal, job)
    journal.stage(give(job, 5), lazy=True)
    journal.stage(finish(job))
    assert journal.commit(lazy=False) == 1
    assert not journal.dirty
    journal.close()
    assert open_journal().find("job-1").state == "succeeded"


def test_a_row_staged_as_durable_stays_so(journal):
    job = new_job("job-1")
    journal.stage(job)
    journal.stage(give(job, 5), lazy=True)
    assert journal.commit(lazy=False) == 1
    assert not journal.dirty


def test_lazy_rows_go_with_a_commit_that_includes_them(journal, open_journal):
    job = new_job("job-1")
    put(journal, job)
    journal.stage(give(job, 5), lazy=True)
    assert journal.commit() == 1
    journal.close()
    assert open_journal().live()[0].state == "running"


# ---------------------------------------------------------------- compare-and-set


def test_a_lower_fence_is_a_conflict(journal):
    job = new_job("job-1")
    put(journal, job)
    put(journal, give(job, 7))
    stale = copy.deepcopy(job)
    stale.fence = 6
    journal.stage(stale)
    with pytest.raises(JournalConflict, match="job job-1 has fence 7, the core has it with 6"):
        journal.commit()


def test_the_same_or_a_higher_fence_is_taken(journal):
    job = new_job("job-1")
    put(journal, job)
    for fence in (7, 7, 8):
        job.fence = fence
        put(journal, job)
    assert journal.find("job-1").fence == 8


@pytest.mark.parametrize("end", [finish, fail])
def test_a_final_row_is_never_written_again(journal, end):
    job = give(new_job("job-1"), 5)
    put(journal, job)
    revived = copy.deepcopy(job)
    revived.fence = 99
    put(journal, end(job))
    journal.stage(revived)
    with pytest.raises(JournalConflict):
        journal.commit()


def test_a_conflict_takes_nothing_of_its_transaction_to_disk(journal, open_journal):
    first, second = new_job("job-1"), new_job("job-2")
    put(journal, give(first, 7), second)
    stale = copy.deepcopy(first)
    stale.fence = 6
    journal.stage(give(second, 8))
    journal.stage(stale)
    journal.stage(new_job("job-3"))
    with pytest.raises(JournalConflict):
        journal.commit()
    journal.close()
    assert [(job.id, job.fence) for job in open_journal().live()] == [("job-1", 7), ("job-2", 0)]


def test_a_second_job_of_one_id_is_a_conflict(journal):
    put(journal, finish(give(new_job("job-1"), 5)))
    journal.stage(new_job("job-1"))
    with pytest.raises(JournalConflict, match="already"):
        journal.commit()


def test_the_jobs_whose_ids_are_taken_are_told_from_the_others_of_their_commit(journal):
    for name in ("old-1", "old-2"):
        put(journal, finish(give(new_job(name), 5)))
    for name in ("new-1", "old-2", "new-2", "old-1", "new-3"):
        journal.stage(new_job(name))
    with pytest.raises(IdTaken) as raised:
        journal.commit()
    assert raised.value.job_ids == ["old-2", "old-1"]
    journal.discard()
    assert journal.find("new-1") is None
    assert journal.find("old-1").final


# ---------------------------------------------------------------- what is staged is seen


def test_staged_and_flushed_rows_are_found_before_the_commit(journal):
    job = new_job("job-1", origin="native", alias="mine")
    journal.stage(job)
    assert journal.find("job-1").id == "job-1"
    assert journal.find_alias("native", "mine").id == "job-1"
    assert [found.id for found in journal.page(m.ListJobs(req=1))[0]] == ["job-1"]
    journal.stage(give(job, 5))
    (found,), *_ = journal.page(m.ListJobs(req=1, states=("running",)))
    assert (found.id, found.fence) == ("job-1", 5)
    assert journal.page(m.ListJobs(req=1, states=("queued",)))[0] == []
    assert journal.dirty


def test_the_newest_job_of_a_name_answers(journal, open_journal):
    put(journal, *[new_job(f"job-{n}", origin="lightx2v", alias="same") for n in range(3)])
    assert journal.find_alias("lightx2v", "same").id == "job-2"
    journal.stage(new_job("job-3", origin="lightx2v", alias="same"))
    journal.stage(new_job("job-4", origin="lightx2v", alias="same"))
    journal.stage(new_job("job-5", origin="native", alias="same"))
    journal.stage(new_job("job-6", origin="lightx2v", alias="other"))
    assert journal.find_alias("lightx2v", "same").id == "job-4"
    journal.commit()
    journal.close()
    after = open_journal()
    assert after.find_alias("lightx2v", "same").id == "job-4"
    assert after.find_alias("native", "same").id == "job-5"
    assert after.find_alias("openai", "same") is None


def test_a_name_is_each_tenants_own(journal):
    put(journal, *[new_job(f"job-{n}", origin="native", alias="same", tenant=("red", "blue")[n % 2]) for n in range(4)])
    journal.stage(new_job("job-4", origin="native", alias="same", tenant="red"))
    assert journal.find_alias("native", "same", "red").id == "job-4"
    assert journal.find_alias("native", "same", "blue").id == "job-3"
    assert journal.find_alias("native", "same", "green") is None
    assert journal.find_alias("native", "same").id == "job-4"


def test_an_older_job_of_a_name_that_moves_does_not_become_the_newest(journal):
    older, newer = (new_job(f"job-{n}", origin="native", alias="same") for n in (1, 2))
    put(journal, older, newer)
    journal.stage(give(older, 5))
    assert journal.find_alias("native", "same").id == "job-2"


def test_no_name_names_nothing(journal):
    put(journal, new_job("job-1", origin="native"))
    assert journal.find_alias("native", "") is None


# ---------------------------------------------------------------- what is learned again


def test_rates_are_those_of_succeeded_jobs_oldest_first_without_loading(journal, open_journal):
    put(
        journal,
        finish(give(new_job("job-1", model="wan", units=10.0), 1)),
        fail(give(new_job("job-2", model="wan", units=20.0), 2)),
        finish(give(new_job("job-3", model="flux", units=30.0), 3)),
        new_job("job-4", model="wan", units=40.0),
    )
    journal.close()
    assert open_journal().rates() == [("wan", 10.0, 7.5, 1), ("flux", 30.0, 7.5, 1)]


def test_rates_know_the_gpus_of_the_worker_and_take_those_asked_for_where_nothing_has_them(journal, open_journal):
    on_group, of_old = new_job("job-1", model="wan", units=10.0), new_job("job-2", model="wan", units=10.0, gpus=2)
    on_group.held_gpus = 4
    put(journal, finish(give(on_group, 1)), finish(give(of_old, 2)))
    journal.close()
    assert [gpus for *_, gpus in open_journal().rates()] == [4, 2]


def test_a_start_looks_for_live_jobs_where_they_can_be_and_finds_all(journal, open_journal, monkeypatch):
    monkeypatch.setattr(epochs, "_FIRST_LIVE_STEP", 1)
    journal.live()
    over, aside, lives, newest = (new_job(f"job-{n}") for n in range(4))
    put(journal, over, aside, lives, newest)
    put(journal, fail(over))
    journal.set_aside("job-1", "why", 103.0)
    journal.checkpoint()
    journal.checkpoint()
    journal.close()
    seen: list[str] = []
    journal = open_journal()
    journal.store.connection.set_trace_callback(seen.append)
    assert [job.id for job in journal.live()] == ["job-2", "job-3"]
    assert any("job.n >= 2" in statement for statement in seen)
    put(journal, finish(give(lives, 9 << 32)))
    journal.mark(aside, None)
    journal.commit()
    journal.checkpoint()
    journal.checkpoint()
    journal.close()
    assert [job.id for job in open_journal().live()] == ["job-1", "job-3"]


@pytest.mark.parametrize("damage", ["value = 4", "value = 'x'"])
def test_where_live_jobs_begin_is_not_believed_when_it_is_damaged(journal, open_journal, monkeypatch, damage):
    monkeypatch.setattr(epochs, "_FIRST_LIVE_STEP", 1)
    journal.live()
    jobs = [new_job(f"job-{n}") for n in range(4)]
    put(journal, *jobs)
    put(journal, fail(jobs[0]))
    journal.checkpoint()
    journal.checkpoint()
    journal.store.connection.execute(f"UPDATE meta SET {damage} WHERE key = 'first_live'")
    journal.close()
    assert [job.id for job in open_journal().live()] == ["job-1", "job-2", "job-3"]
