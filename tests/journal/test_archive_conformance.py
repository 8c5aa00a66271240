"""What every archive answers, alike: the journal, also where one answer may look at few rows, and the archive in memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from broker.core import lookups
from broker.core.deliveries import Delivery
from broker.core.jobs import DamagedRecord, Job
from broker.core.lookups import Found, RecordCounts
from broker.runtime.errors import JournalConflict
from broker.shell.journal import queries
from broker.shell.lookups import look_up
from broker.testing import MemoryArchive
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, encode_spec
from tests.journal.crowd import STATES, page, walk
from tests.journal.crowd import crowd as a_crowd
from tests.journal.jobs import fail, finish, give, new_job, put

#: Rows of one answer of the journal, and rows looked at for it, which must not show in what a client gets.
BOUNDS = {"journal": (200, 2000), "journal, few rows": (3, 5), "journal, one row": (1, 1)}


@pytest.fixture(params=["memory", *BOUNDS])
def archive(request, monkeypatch):
    if request.param == "memory":
        return MemoryArchive()
    most, looked = BOUNDS[request.param]
    monkeypatch.setattr(queries, "MAX_ROWS", most)
    monkeypatch.setattr(queries, "MAX_LOOKED", looked)
    journal = request.getfixturevalue("journal")
    if request.param != "journal, few rows":
        journal.live()  # as a broker does at its start: live jobs are found by number then
    return journal


@pytest.fixture
def crowd(archive) -> list[Job]:
    return a_crowd(archive)


def ids(archive) -> list[str]:
    return walk(archive, limit=100, newest_first=False)


def delivery(number: int, job_id: str, event: m.WebhookEvent = "completed", **fields) -> Delivery:
    return Delivery(number=number, job_id=job_id, event=event, **{"created_at": 102.0, "due_at": 102.0, **fields})


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
    assert ids(archive) == ["new"]
    archive.discard()
    assert ids(archive) == ["old"]
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


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 64, 300, 1000])
def test_pages_join_to_all_jobs_in_order(archive, crowd, limit, newest_first):
    expected = [job.id for job in crowd]
    if newest_first:
        expected.reverse()
    assert walk(archive, limit=limit, newest_first=newest_first) == expected


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "filters",
    [
        {"states": ("queued",)},
        {"states": ("running", "failed", "cancelled")},
        {"states": ("succeeded",)},
        {"states": ("succeeded", "queued")},
        {"states": STATES},
        {"states": ("delayed", "assigned")},
        {"origin": "native"},
        {"model": "flux", "origin": "lightx2v"},
        {"worker": "gpu-2", "states": ("failed", "queued")},
        {"worker": "gpu-9"},
        {"tenant": "default"},
        {"tenant": "red", "states": ("failed", "queued")},
        {"tenant": "nobody"},
    ],
)
def test_filters_keep_what_matches_in_order(archive, crowd, filters, newest_first):
    def matches(job: Job) -> bool:
        return (
            (not filters.get("states") or job.state in filters["states"])
            and job.submission.origin == filters.get("origin", job.submission.origin)
            and job.submission.model == filters.get("model", job.submission.model)
            and job.worker == filters.get("worker", job.worker)
            and job.submission.tenant == filters.get("tenant", job.submission.tenant)
        )

    expected = [job.id for job in crowd if matches(job)]
    if newest_first:
        expected.reverse()
    assert walk(archive, limit=9, newest_first=newest_first, **filters) == expected


def test_a_job_that_waits_for_one_worker_is_listed_with_it(archive):
    put(archive, new_job("for-1", pinned="gpu-1"), new_job("for-any"), give(new_job("on-1"), 5, worker="gpu-1"))
    assert walk(archive, worker="gpu-1", newest_first=False) == ["for-1", "on-1"]


def test_a_page_that_ends_with_the_last_job_says_so(archive, crowd):
    jobs, more = page(archive, m.ListJobs(req=1, limit=300))
    assert (len(jobs), more) == (300, False)
    jobs, more = page(archive, m.ListJobs(req=1, limit=299))
    assert (len(jobs), more) == (299, True)


def test_a_page_of_none_says_whether_there_are_any(archive):
    assert page(archive, m.ListJobs(req=1, limit=0)) == ([], False)
    put(archive, new_job("job-1"))
    assert page(archive, m.ListJobs(req=1, limit=0)) == ([], True)


def test_behind_an_unknown_job_there_is_nothing(archive, crowd):
    assert page(archive, m.ListJobs(req=1, after="nobody")) == ([], False)


def prompted(job_id: str, prompt: str, at: float) -> Job:
    spec = JobSpec(model="demo", output="image", prompt=prompt, width=64, height=64, num_inference_steps=1, seed=1)
    return new_job(job_id, body=encode_spec(spec), at=at)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"text": "RED"}, [0, 2]),
        ({"text": "猫"}, [1]),
        ({"text": "straße"}, [3]),
        ({"text": "STRASSE"}, [3]),
        ({"text": "demo"}, []),
        ({"since": 1001.0}, [1, 2, 3]),
        ({"until": 1001.0}, [0]),
        ({"since": 1001.0, "until": 1003.0}, [1, 2]),
        ({"since": 1003.0, "until": 1001.0}, []),
        ({"text": "red", "since": 1000.5, "states": ("queued",)}, [2]),
        ({"after": "job-1", "since": 1000.0, "until": 1003.0}, {True: [0], False: [2]}),
    ],
)
def test_jobs_are_found_by_a_text_of_their_prompt_and_by_the_time_they_came(archive, filters, found, newest_first):
    prompts = ("A red circle", "一只猫", "Two RED squares", "die Straße")
    put(archive, *[prompted(f"job-{n}", prompt, 1000.0 + n) for n, prompt in enumerate(prompts)])
    put(archive, new_job("no-spec", body=b"\xc1", at=1010.0))
    jobs, more = page(archive, m.ListJobs(req=1, limit=10, newest_first=newest_first, **filters))
    wanted = [f"job-{n}" for n in (found[newest_first] if isinstance(found, dict) else found)]
    ids = [job.id for job in jobs if job.id != "no-spec"]
    assert (ids, more) == (wanted if isinstance(found, dict) or not newest_first else wanted[::-1], False)
    assert "text" not in filters or len(ids) == len(jobs)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("deleted", [0, 10, 150, 299])
def test_behind_a_deleted_job_it_goes_on_where_that_was(archive, newest_first, deleted):
    """Who deletes what it lists must reach the end."""
    jobs = [new_job(f"job-{n:03d}", at=1000.0 + n) for n in range(300)]
    for job in jobs:
        give(job, 1)
        finish(job)
    put(archive, *jobs)
    victim = jobs[deleted]
    archive.forget(victim.id)
    archive.commit()
    found, more = page(
        archive, m.ListJobs(req=1, limit=1000, after=victim.id, after_at=victim.submitted_at, newest_first=newest_first)
    )
    rest = jobs[:deleted][::-1] if newest_first else jobs[deleted + 1 :]
    assert ([job.id for job in found], more) == ([job.id for job in rest], False)


def test_a_time_before_or_after_all_jobs_is_an_end(archive, crowd):
    def count(at: float, newest_first: bool) -> int:
        query = m.ListJobs(req=1, limit=1000, after="nobody", after_at=at, newest_first=newest_first)
        return len(page(archive, query)[0])

    assert (count(1e9, True), count(1e9, False)) == (300, 0)
    assert (count(0.001, True), count(0.001, False)) == (7, 293)


def test_a_cursor_stays_good_when_its_job_moves_or_others_come(archive, crowd):
    first, _ = page(archive, m.ListJobs(req=1, limit=10))
    put(archive, new_job("late"))
    rest = walk_after(archive, first[-1].id)
    assert rest == [job.id for job in reversed(crowd)][10:]


def walk_after(archive, after: str) -> list[str]:
    jobs, more = page(archive, m.ListJobs(req=1, after=after, limit=1000))
    assert not more
    return [job.id for job in jobs]


def test_a_page_shows_what_is_staged(archive):
    job = new_job("a")
    put(archive, job, new_job("b"))
    archive.stage(give(job, 5), lazy=True)
    archive.stage(new_job("c"))
    assert walk(archive, states=("running",)) == ["a"]
    assert ids(archive) == ["a", "b", "c"]


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
        assert ids(archive) == ["b", "c"]
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
    assert ids(archive) == []


def test_a_later_job_of_a_deleted_id_is_another_one(archive):
    put(archive, finish(give(new_job("a"), 5)), new_job("b"))
    archive.forget("a")
    again = new_job("a", body=b"another")
    put(archive, again)
    assert archive.body("a") == b"another"
    assert ids(archive) == ["b", "a"]
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


# ---------------------------------------------------------------- what the core looks up


def hooked(archive, job_id: str = "a", number: int = 7) -> Delivery:
    """Write a finished job with a webhook, and stage its delivery."""
    job = finish(give(new_job(job_id, origin="native", alias="a-name", webhook="http://example.org/"), 5))
    put(archive, job)
    made = delivery(number, job_id)
    archive.deliveries.stage(made)
    return made


def test_a_job_is_looked_up_whole_by_its_id_or_by_its_name(archive):
    made = hooked(archive)
    for lookup in (
        lookups.FindJob("a"),
        lookups.FindJob("none", "native", "a-name"),
        lookups.FindJob("", "native", "a-name"),
    ):
        found = look_up(archive, lookup, 0.0)
        assert (found.job.id, found.spec, found.spec_error) == ("a", b"spec of a", "")
        assert found.job.deliveries == {7: made}
    assert look_up(archive, lookups.FindJob("none"), 0.0) == Found()
    assert look_up(archive, lookups.FindJob("none", "native", "a-name", "another tenant"), 0.0) == Found()
    assert look_up(archive, lookups.FindSpec("a"), 0.0) == Found(spec=b"spec of a")
    assert look_up(archive, lookups.FindSpec("none"), 0.0).spec_error == "its row is gone"


def test_many_are_looked_up_without_their_specs_and_a_page_with_them(archive):
    made = hooked(archive)
    put(archive, new_job("b"))
    found = look_up(archive, lookups.FindJobs(("b", "none", "a")), 0.0)
    assert [(job.id, job.body) for job in found.jobs] == [("b", b""), ("a", b"")]
    page = look_up(archive, lookups.FindPage(m.ListJobs(req=1, limit=2)), 0.0)
    assert page.jobs[-1].body.startswith(b"spec of ")
    assert {number: one for job in page.jobs for number, one in job.deliveries.items()} in ({7: made}, {})
    archive.commit()
    archive.set_aside("b", "why", 105.0)
    assert [job.id for job in look_up(archive, lookups.FindSetAside(), 0.0).jobs] == ["b"]
    assert look_up(archive, lookups.CountRecords(), 0.0).counts == RecordCounts(kept_aside=1)


def test_deliveries_are_looked_up_with_those_of_their_job(archive):
    made = hooked(archive)
    archive.deliveries.stage(other := delivery(8, "a", "started", due_at=110.0))
    find = lookups.FindDelivery
    assert look_up(archive, find(7, siblings=False), 0.0).webhook_deliveries == (made,)
    assert look_up(archive, find(7, siblings=True), 0.0).webhook_deliveries == (made, made, other)
    assert look_up(archive, find(9, siblings=True), 0.0) == Found()
    due = look_up(archive, lookups.FindDue(9), 105.0)
    assert (due.webhook_deliveries, due.next_due_at) == ((made,), 110.0)


# ---------------------------------------------------------------- usage


def used(archive, *by: m.UsageGroup, **fields) -> list[m.UsageRow]:
    return archive.usage(m.GetUsage(req=1, **{"first_day": 0, "last_day": 9, "by": by, **fields}))


def test_a_job_is_counted_once_when_it_is_over(archive):
    job = new_job("a", tenant="red", submitted_by="ci", gpus=2)
    put(archive, give(job, 5))
    assert used(archive) == []
    archive.stage(finish(job, at=104.0))
    row = m.UsageRow(succeeded=1, gpu_s=6.0, bytes=5)
    assert used(archive) == [row]
    archive.commit()
    archive.commit()
    assert used(archive) == [row]
    assert used(archive, "model", "key", "tenant", "day") == [
        m.UsageRow(0, "red", "ci", "demo", succeeded=1, gpu_s=6.0, bytes=5)
    ]


def test_a_job_whose_end_was_not_committed_is_not_counted(archive):
    job = new_job("a")
    put(archive, give(job, 5))
    archive.stage(finish(replace(job, history=[*job.history]), at=104.0))
    archive.flush()
    archive.discard()
    assert used(archive) == []
    archive.live()
    put(archive, finish(job, at=105.0))
    assert used(archive) == [m.UsageRow(succeeded=1, gpu_s=4.0, bytes=5)]


def test_what_was_used_stays_when_the_job_is_deleted(archive):
    put(archive, fail(give(new_job("a"), 5), at=103.0))
    archive.forget("a")
    archive.commit()
    assert used(archive) == [m.UsageRow(failed=1, lost_gpu_s=2.0)]


def test_usage_is_summed_by_what_is_asked_for_and_no_more_than_its_limit(archive):
    day = 86_400.0
    for number, (tenant, at) in enumerate([("red", 10.0), ("red", day + 10), ("blue", day + 20), ("blue", 2 * day)]):
        put(archive, finish(give(new_job(f"j{number}", at=at, tenant=tenant), 5 + number, at=at), at=at + 1))
    one = {"succeeded": 1, "gpu_s": 1.0, "bytes": 5}
    two = {"succeeded": 2, "gpu_s": 2.0, "bytes": 10}
    assert used(archive, "day") == [m.UsageRow(0, **one), m.UsageRow(1, **two), m.UsageRow(2, **one)]
    assert used(archive, "day", first_day=1, last_day=1) == [m.UsageRow(1, **two)]
    assert used(archive, "tenant") == [m.UsageRow(tenant="blue", **two), m.UsageRow(tenant="red", **two)]
    assert used(archive, "day", tenant="red") == [m.UsageRow(0, **one), m.UsageRow(1, **one)]
    assert used(archive, "day", "tenant", limit=2) == [
        m.UsageRow(0, "red", **one),
        m.UsageRow(1, "blue", **one),
        m.UsageRow(1, "red", **one),
    ]
