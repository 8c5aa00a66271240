"""What the core looks up, and what was used, alike in every archive."""

from __future__ import annotations

from msgspec.structs import replace

from broker.core import lookups
from broker.core.deliveries import Delivery
from broker.core.lookups import Found, RecordCounts
from broker.shell.lookups import look_up
from broker.wire import messages as m
from tests.journal.jobs import delivery, fail, finish, give, new_job, put


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
