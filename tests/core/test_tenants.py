"""Tenants: whose jobs are seen, how many of them wait, and how many run at once."""

from __future__ import annotations

import pytest

from broker.core.machine import Policy
from broker.testing import EDGE, UNIT, CoreHarness, sent, submit_message
from broker.wire import codec
from broker.wire import messages as m


def found(harness: CoreHarness, **query) -> bool:
    return harness.ask(m.GetJob(req=1, **query), m.JobReply).found


def test_a_job_of_another_tenant_is_not_found_by_id_or_name():
    harness = CoreHarness()
    harness.submit("a", tenant="red", origin="lx", alias="mine")
    assert found(harness, job_id="a", tenant="red")
    assert found(harness, job_id="a")
    assert not found(harness, job_id="a", tenant="blue")
    assert found(harness, origin="lx", alias="mine", tenant="red")
    assert not found(harness, origin="lx", alias="mine", tenant="blue")


def test_a_name_means_each_tenants_own_newest_job():
    harness = CoreHarness()
    harness.submit("a", tenant="red", origin="lx", alias="mine", alias_unique=True)
    harness.tick(1)
    assert isinstance(harness.submit("b", tenant="blue", origin="lx", alias="mine", alias_unique=True), m.Accepted)
    assert harness.submit("c", tenant="red", origin="lx", alias="mine", alias_unique=True).code == "alias_taken"
    effects = harness.feed(EDGE, m.GetJob(req=1, origin="lx", alias="mine", tenant="red"))
    assert codec.job_view(effects[0].message.body).id == "a"


def test_a_list_holds_the_tenants_own_jobs():
    harness = CoreHarness()
    for name, tenant in (("a", "red"), ("b", "blue"), ("c", "red")):
        harness.submit(name, tenant=tenant)
        harness.tick(1)
    effects = harness.feed(EDGE, m.ListJobs(req=1, tenant="red"))
    assert [view.id for view in codec.job_views(effects[0].message.body)] == ["c", "a"]


@pytest.mark.parametrize(("tenant", "outcome"), [("blue", "not_found"), ("red", "cancelled"), ("", "cancelled")])
def test_only_its_tenant_cancels_a_job(tenant, outcome):
    harness = CoreHarness()
    harness.submit("a", tenant="red")
    assert harness.ask(m.CancelJob(req=1, job_id="a", tenant=tenant), m.CancelReply).outcome == outcome
    assert harness.state("a") == ("queued" if outcome == "not_found" else "cancelled")


def test_another_tenants_id_is_taken_and_shows_nothing_of_the_job():
    harness = CoreHarness()
    harness.submit("a", tenant="red")
    effects = harness.feed(EDGE, submit_message("a", req=9, tenant="blue"))
    (answer,) = sent(effects, m.Rejected)
    assert answer.code == "id_conflict"


def test_a_tenant_at_its_queue_limit_is_refused_and_others_are_not():
    harness = CoreHarness()
    for name in ("a", "b"):
        harness.submit(name, tenant="red", max_queued=2)
    answer = harness.submit("c", tenant="red", max_queued=2)
    assert isinstance(answer, m.Rejected)
    assert answer.code == "queue_full"
    assert "2 jobs of tenant red are waiting, its limit is 2" in answer.message
    assert 1 <= answer.retry_after_s <= 120
    assert isinstance(harness.submit("d", tenant="blue", max_queued=2), m.Accepted)
    assert isinstance(harness.submit("a", tenant="red", max_queued=2), m.Accepted), "a repeated request is no new job"
    harness.cancel("a")
    assert isinstance(harness.submit("c", tenant="red", max_queued=2), m.Accepted)


def test_the_time_to_wait_grows_with_what_the_tenants_own_jobs_take():
    harness = CoreHarness()
    harness.running("first")
    harness.finish("w1", "first", free=0)  # learned: 2 s a unit
    limits = {"tenant": "red", "max_queued": 1, "max_running": 1}
    harness.submit("a", units=20 * UNIT, **limits)
    answer = harness.submit("b", units=20 * UNIT, **limits)
    assert answer.retry_after_s == pytest.approx(40.0, rel=0.01)
    assert harness.submit("c", units=20_000 * UNIT, **limits).retry_after_s == 120


def test_a_job_that_waits_for_its_retry_counts_as_waiting():
    harness = CoreHarness()
    harness.running("a", tenant="red", max_queued=1)
    harness.fail("w1", "a", "engine_crashed")
    assert harness.state("a") == "delayed"
    assert harness.submit("b", tenant="red", max_queued=1).code == "queue_full"


def test_no_more_jobs_of_a_tenant_run_than_it_may():
    harness = CoreHarness()
    for name in ("a", "b", "c"):
        harness.submit(name, tenant="red", max_running=1)
        harness.tick(1)
    harness.submit("d", tenant="blue")
    harness.hello("w1")
    harness.hello("w2")
    assert [harness.state(name) for name in "abcd"] == ["assigned", "queued", "queued", "assigned"]
    harness.hello("w3")
    assert harness.state("b") == "queued", "a worker stays idle rather than exceed the limit"
    harness.start("w1", "a")
    harness.finish("w1", "a")
    assert harness.state("b") == "assigned"


def test_a_raised_limit_helps_jobs_that_wait_already():
    harness = CoreHarness()
    for name in ("w1", "w2", "w3"):
        harness.hello(name)
    harness.submit("a", tenant="red", max_running=1)
    harness.submit("b", tenant="red", max_running=1)
    assert harness.state("b") == "queued"
    harness.submit("c", tenant="red", max_running=3)
    assert [harness.state(name) for name in "abc"] == ["assigned", "assigned", "assigned"]


def test_the_limit_holds_after_a_restart():
    harness = CoreHarness(Policy(rejoin_s=3.0))
    for name in ("a", "b"):
        harness.submit(name, tenant="red", max_running=1)
        harness.tick(1)
    harness.hello("w1")
    harness.start("w1", "a")
    fence = harness.job("a").fence
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=fence), seen=fence, free=0)
    harness.hello("w2")
    assert [harness.state(name) for name in "ab"] == ["running", "queued"]


def test_whoever_wants_no_wait_is_refused_at_the_limit():
    harness = CoreHarness()
    harness.hello("w1")
    harness.hello("w2")
    harness.submit("a", tenant="red", max_running=1)
    assert harness.submit("b", tenant="red", max_running=1, only_if_idle=True).code == "busy"
    assert isinstance(harness.submit("c", tenant="blue", max_running=1, only_if_idle=True), m.Accepted)
