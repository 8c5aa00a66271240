"""What every archive answers, alike: the journal, also where one answer may look at few rows, and the archive in memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from broker.core.jobs import DamagedRecord
from broker.runtime.errors import JournalConflict
from broker.wire import messages as m
from tests.journal.jobs import delivery, fail, finish, give, new_job, put
from tests.journal.mixed_jobs import all_ids, page

# ---------------------------------------------------------------- one job


def test_a_job_is_found_from_the_moment_it_is_staged(archive):
    job = new_job("a")
    archive.stage(job)
    assert archive.find("a") is job
    archive.flush()
    assert archive.find("a") == job
    archive.commit()
    assert archive.find("a") == job
    assert archive.find("b") is None


def test_a_lazy_row_is_found_and_can_be_lost(archive):
    job = new_job("a")
    put(archive, job)
    archive.stage(give(job, 5), lazy=True)
    assert archive.find("a").state == "running"
    other = new_job("b")
    archive.stage(other)
    archive.commit(lazy=False)
    assert archive.find("a").state == "running"
    archive.discard()
    assert archive.find("a").state == "queued"
    assert archive.find("b") == other


def test_a_commit_takes_lazy_rows_along(archive):
    job = new_job("a")
    put(archive, job)
    archive.stage(give(job, 5), lazy=True)
    archive.commit()
    archive.discard()
    assert archive.find("a").fence == 5


def test_the_first_row_of_a_job_is_never_lazy(archive):
    archive.stage(new_job("a"), lazy=True)
    archive.commit(lazy=False)
    archive.discard()
    assert archive.find("a").state == "queued"


def test_what_is_written_and_not_committed_is_lost_with_the_process(archive):
    put(archive, finish(give(new_job("old"), 5)))
    epoch = archive.epoch
    archive.stage(new_job("new"))
    archive.deliveries.stage(delivery(7, "old"))
    archive.flush()
    archive.forget("old")
    assert all_ids(archive) == ["new"]
    archive.discard()
    assert all_ids(archive) == ["old"]
    assert archive.deliveries.of_job("old") == []
    assert archive.epoch == epoch + 1


def test_a_row_keeps_what_it_was_written_as(archive):
    """The core goes on changing its own object."""
    job = new_job("a")
    put(archive, job)
    give(job, 5)
    job.phase, job.step, job.total, job.cost = "denoise", 3, 20, 9.5
    assert archive.find("a").state == "queued"
    archive.stage(job)
    archive.commit()
    found = archive.find("a")
    assert (found.state, found.fence, found.phase, found.step, found.cost) == ("running", 5, "", 0, 0.0)
    found.fence = 99
    found.history.clear()
    assert archive.find("a").fence == 5
    assert archive.find("a").history


def test_the_spec_is_written_once(archive):
    job = new_job("a", body=b"the spec")
    put(archive, job)
    job.body, job.evicted = b"", True
    archive.stage(give(job, 5))
    archive.commit()
    assert archive.body("a") == b"the spec"
    assert archive.find("a").body == b"the spec"
    assert not archive.find("a").evicted
    with pytest.raises(DamagedRecord):
        archive.body("nobody")


def test_a_final_row_is_not_written_again(archive):
    job = finish(give(new_job("a"), 5))
    put(archive, job)
    again = replace(job, state=new_job("a").state)
    archive.stage(again)
    with pytest.raises(JournalConflict):
        archive.commit()


def test_a_fence_never_falls(archive):
    job = give(new_job("a"), 5)
    put(archive, job)
    job.fence = 4
    archive.stage(job)
    with pytest.raises(JournalConflict):
        archive.commit()


def test_a_start_loads_what_is_not_final_without_its_spec(archive):
    put(archive, give(new_job("a"), 5), finish(give(new_job("b"), 6)), new_job("c"))
    live = archive.live()
    assert [(job.id, job.state, job.body, job.evicted) for job in live] == [
        ("a", "running", b"", True),
        ("c", "queued", b"", True),
    ]


# ---------------------------------------------------------------- names


def test_the_newest_of_a_name_is_found_by_origin_and_tenant(archive):
    named = {"origin": "native", "alias": "mine"}
    # Accepted in this order, whatever their clocks say.
    put(archive, new_job("a", at=300.0, tenant="red", **named), new_job("b", at=200.0, tenant="blue", **named))
    assert archive.find_alias("native", "mine", "").id == "b"
    assert archive.find_alias("native", "mine", "red").id == "a"
    assert archive.find_alias("native", "mine", "green") is None
    assert archive.find_alias("openai", "mine", "") is None
    archive.stage(new_job("c", at=100.0, tenant="red", **named))
    archive.stage(new_job("d", at=100.0, tenant="blue", **named))
    assert archive.find_alias("native", "mine", "").id == "d"
    assert archive.find_alias("native", "mine", "red").id == "c"


def test_a_job_without_a_name_is_not_found_by_it(archive):
    put(archive, new_job("a", origin="native"))
    assert archive.find_alias("native", "", "") is None


def test_a_name_that_moved_is_found_as_it_is_now(archive):
    job = new_job("a", origin="native", alias="mine")
    put(archive, job)
    archive.stage(finish(give(job, 5)))
    assert archive.find_alias("native", "mine", "").id == "a"
    archive.commit()
    assert archive.find_alias("native", "mine", "").state == "succeeded"


# ---------------------------------------------------------------- deleting


def test_a_deleted_job_is_gone_at_once_and_its_deliveries_with_it(archive):
    put(archive, finish(give(new_job("a", origin="native", alias="mine"), 5)), fail(new_job("b")), new_job("c"))
    archive.deliveries.stage(delivery(7, "a"))
    archive.deliveries.stage(delivery(8, "b"))
    archive.commit()
    archive.forget("a")
    for _ in range(2):
        assert archive.find("a") is None
        assert archive.find_alias("native", "mine", "") is None
        assert all_ids(archive) == ["b", "c"]
        assert archive.deliveries.of_job("a") == []
        assert [one.number for one in archive.deliveries.due(200.0, 9)[0]] == [8]
        archive.commit()


def test_a_job_that_ended_in_the_same_pass_can_be_deleted(archive):
    job = new_job("a")
    archive.stage(job)
    archive.stage(finish(give(job, 5)))
    archive.forget("a")
    archive.commit()
    assert archive.find("a") is None
    assert all_ids(archive) == []


def test_a_later_job_of_a_deleted_id_is_another_one(archive):
    put(archive, finish(give(new_job("a"), 5)), new_job("b"))
    archive.forget("a")
    again = new_job("a", body=b"another")
    put(archive, again)
    assert archive.body("a") == b"another"
    assert all_ids(archive) == ["b", "a"]
    put(archive, finish(give(again, 6)))
    assert archive.find("a").state == "succeeded"


def test_a_live_job_cannot_be_deleted(archive):
    put(archive, give(new_job("a"), 5))
    for job_id in ("a", "nobody"):
        with pytest.raises(JournalConflict):
            archive.forget(job_id)


# ---------------------------------------------------------------- set aside


def test_a_job_that_is_set_aside_is_shown_with_its_mark_and_not_loaded(archive):
    put(archive, give(new_job("a"), 5), new_job("b"), finish(give(new_job("c"), 6)))
    assert archive.set_aside("a", "it cannot be handled", 105.0)
    assert not archive.set_aside("c", "it is over", 105.0)
    assert not archive.set_aside("nobody", "it is not there", 105.0)
    assert len(archive.asides) == 1
    (shown,) = archive.asides.jobs()
    assert (shown.id, shown.body, shown.set_aside.reason, shown.set_aside.at) == (
        "a",
        b"",
        "it cannot be handled",
        105.0,
    )
    assert archive.find("a").set_aside == shown.set_aside
    assert [job.set_aside is not None for job in page(archive, m.ListJobs(req=1, limit=9, newest_first=False))[0]] == [
        True,
        False,
        False,
    ]
    assert [job.id for job in archive.live()] == ["b"]
    archive.discard()
    assert len(archive.asides) == 1


def test_a_mark_changes_with_the_next_commit(archive):
    put(archive, new_job("a"))
    archive.set_aside("a", "why", 105.0)
    job = archive.find("a")
    archive.mark(job, replace(job.set_aside, stop="cancel"))
    assert archive.find("a").set_aside.stop == "cancel"
    archive.discard()
    assert archive.find("a").set_aside.stop == ""


def test_a_released_job_is_loaded_again(archive):
    put(archive, new_job("a"))
    archive.set_aside("a", "why", 105.0)
    job = archive.find("a")
    job.set_aside = None
    archive.mark(job, None)
    archive.commit()
    assert archive.find("a").set_aside is None
    assert archive.asides.jobs() == []
    assert [job.id for job in archive.live()] == ["a"]


def test_a_job_that_is_set_aside_can_be_deleted(archive):
    put(archive, new_job("a"))
    archive.set_aside("a", "why", 105.0)
    archive.forget("a")
    archive.commit()
    assert archive.find("a") is None
    assert len(archive.asides) == 0


# ---------------------------------------------------------------- deliveries


def test_a_delivery_is_seen_from_the_moment_it_is_staged(archive):
    put(archive, finish(give(new_job("a"), 5)))
    one, two = delivery(7, "a", "started"), delivery(8, "a")
    archive.deliveries.stage(two)
    archive.deliveries.stage(one)
    for _ in range(2):
        assert archive.deliveries.of_job("a") == [one, two]
        assert archive.deliveries.find(8) == two
        assert archive.deliveries.find(9) is None
        archive.commit()


def test_a_delivery_staged_again_takes_the_place_of_the_old_one(archive):
    put(archive, finish(give(new_job("a"), 5)))
    archive.deliveries.stage(delivery(7, "a"))
    archive.commit()
    changed = delivery(7, "a", state="failed", attempts=2, status=503, note="busy")
    archive.deliveries.stage(changed)
    assert archive.deliveries.find(7) == changed
    assert archive.deliveries.due(1e9, 9) == ([], None)
    archive.commit()
    assert archive.deliveries.of_job("a") == [changed]


def test_a_delivery_of_no_job_does_not_fit(archive):
    archive.deliveries.stage(delivery(7, "nobody"))
    with pytest.raises(JournalConflict):
        archive.commit()


def test_deliveries_are_due_in_order_and_the_next_is_told(archive):
    put(archive, *(finish(give(new_job(job_id), 5)) for job_id in "abcd"))
    for number, job_id, due_at in ((4, "a", 10.0), (3, "b", 10.0), (2, "c", 5.0), (1, "d", 20.0)):
        archive.deliveries.stage(delivery(number, job_id, due_at=due_at))

    def due(now: float, limit: int) -> tuple[list[int], float | None]:
        found, following = archive.deliveries.due(now, limit)
        return [one.number for one in found], following

    assert due(4.0, 9) == ([], 5.0)
    assert due(10.0, 9) == ([2, 3, 4], 20.0)
    assert due(10.0, 2) == ([2, 3], 10.0)
    assert due(20.0, 9) == ([2, 3, 4, 1], None)
    assert due(20.0, 0) == ([], 5.0)
