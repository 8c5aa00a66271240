"""Deleted rows are gone at once for readers, for good after the commit, and never take a later job with them."""

from __future__ import annotations

import pytest

from broker.runtime.errors import JournalConflict
from broker.wire import messages as m
from tests.journal.full_disk import Reserve, large
from tests.journal.jobs import fail, finish, give, new_job, put


def ids(journal) -> list[str]:
    return [job.id for job in journal.page(m.ListJobs(req=1, newest_first=False))[0]]


def outcomes(journal) -> int:
    return journal.store.connection.execute("SELECT count(*) FROM outcome").fetchone()[0]


def test_a_deleted_row_is_not_found_and_what_became_of_it_goes_along(journal, open_journal):
    first, second = new_job("a", alias="mine"), new_job("b")
    put(journal, first, second, new_job("c"))
    put(journal, finish(give(first, 5)), fail(second))
    assert outcomes(journal) == 2
    journal.forget("a")
    assert journal.dirty
    assert journal.find("a") is None
    assert journal.find_alias("", "mine") is None
    assert ids(journal) == ["b", "c"]
    assert journal.commit() == 1
    assert not journal.dirty
    journal.close()
    after = open_journal()
    assert ids(after) == ["b", "c"]
    assert outcomes(after) == 1


def test_without_a_commit_the_row_comes_back(journal, open_journal):
    put(journal, finish(give(new_job("a"), 5)))
    journal.forget("a")
    journal.close()
    assert open_journal().find("a").state == "succeeded"


def test_a_later_job_of_the_same_id_is_another_one(journal, open_journal):
    put(journal, finish(give(new_job("a"), 5)))
    journal.forget("a")
    again = new_job("a", body=b"another")
    journal.stage(again)
    journal.commit()
    journal.stage(finish(give(again, 6)))
    journal.commit()
    journal.close()
    found = open_journal().find("a")
    assert (found.body, found.fence) == (b"another", 6)


@pytest.mark.parametrize("state", ["queued", "nowhere"])
def test_what_is_not_final_is_never_deleted(journal, state):
    if state == "queued":
        put(journal, new_job("a"))
    with pytest.raises(JournalConflict, match="job a cannot be deleted"):
        journal.forget("a")


def test_a_full_disk_brings_no_deleted_row_back(open_journal):
    reserve = Reserve(more_pages=1000)
    journal = open_journal(release_reserve=reserve.release)
    put(journal, finish(give(new_job("a"), 5)))
    born_and_gone = new_job("b")
    journal.stage(born_and_gone)
    journal.stage(finish(give(born_and_gone, 6)))
    journal.forget("a")
    journal.forget("b")
    journal.stage(new_job("a", body=b"another"))
    journal.flush()
    reserve.fill(journal)
    for n in range(5):
        journal.stage(large(n))
    journal.commit()
    assert reserve.released == 1
    journal.close()
    after = open_journal()
    assert ids(after) == ["a", "large-0", "large-1", "large-2", "large-3", "large-4"]
    assert after.find("a").body == b"another"
    assert outcomes(after) == 0
