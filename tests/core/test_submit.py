"""Taking jobs: idempotence, refusals, aliases, lists."""

from __future__ import annotations

import math

import pytest

from broker.client.client import accepted_view
from broker.core.calendar import Calendar
from broker.core.machine import Policy
from broker.testing import EDGE, UNIT, CoreHarness, sent, submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m


def test_a_submit_is_durable_and_answered():
    harness = CoreHarness()
    answer = harness.submit("a")
    assert isinstance(answer, m.Accepted)
    assert not answer.duplicate
    assert harness.archive.written("a").state == "queued"
    assert harness.view("a").body == b"spec"


def test_the_same_submit_again_is_the_same_job_also_when_it_is_long_final():
    harness = CoreHarness(Policy(recent_finals=0))
    harness.running("a")
    harness.finish("w1", "a")
    assert harness.core.job("a") is None  # only on disk
    answer = harness.submit("a")
    assert isinstance(answer, m.Accepted)
    assert answer.duplicate
    assert harness.view("a").state == "succeeded"


@pytest.mark.parametrize("ahead_s", [0.0, 3600.1])
def test_an_edge_makes_the_view_of_its_new_job_as_the_broker_shows_it(ahead_s):
    harness = CoreHarness()
    harness.core.set_calendar(Calendar(ahead_s=ahead_s))
    harness.submit("first")
    fields = {"deadline_s": 60.1, "webhook": "https://client.example/hook", "priority": 3, "alias": "mine"}
    submit = submit_message("a", b"its spec", 7, units=UNIT, **fields)
    accepted = harness.ask(submit, m.Accepted)
    assert not accepted.body
    assert accepted_view(submit, accepted) == harness.view("a")


def test_an_edge_is_told_all_of_a_job_that_was_there():
    harness = CoreHarness()
    harness.running("a")
    accepted = harness.submit("a")
    assert accepted_view(submit_message("a", b"spec", 1), accepted) == harness.view("a")


def test_another_job_under_the_same_id_is_refused():
    harness = CoreHarness()
    harness.submit("a", body=b"one")
    answer = harness.submit("a", body=b"two")
    assert isinstance(answer, m.Rejected)
    assert answer.code == "id_conflict"
    assert harness.view("a").body == b"one"


def test_a_full_queue_refuses_with_a_time_to_wait():
    harness = CoreHarness(Policy(queue_limit=2))
    harness.submit("a")
    harness.submit("b")
    answer = harness.submit("c")
    assert isinstance(answer, m.Rejected)
    assert answer.code == "queue_full"
    assert "limit is 2" in answer.message
    assert 1 <= answer.retry_after_s <= 120
    assert harness.ask(m.GetJob(req=1, job_id="c"), m.JobReply).found is False


def test_the_queue_can_be_bounded_in_gpu_seconds():
    harness = CoreHarness(Policy(queue_limit_s=5.0))
    harness.running("first")
    harness.finish("w1", "first", free=0)  # learned: 2 s a unit
    assert isinstance(harness.submit("a", units=2 * UNIT), m.Accepted)
    answer = harness.submit("b", units=2 * UNIT)
    assert isinstance(answer, m.Rejected)
    assert "4 s of work are waiting, the limit is 5 s" in answer.message


@pytest.mark.parametrize("field", ["units", "deadline_s"])
def test_infinite_numbers_are_refused(field):
    answer = CoreHarness().submit("a", **{field: math.inf})
    assert isinstance(answer, m.Rejected)
    assert answer.code == "invalid"
    assert field in answer.message


def test_only_if_idle_is_refused_unless_a_worker_has_room():
    harness = CoreHarness()
    assert harness.submit("a", only_if_idle=True).code == "busy"
    harness.hello("w1")
    assert isinstance(harness.submit("a", only_if_idle=True), m.Accepted)
    assert harness.submit("b", only_if_idle=True).code == "busy"
    harness.start("w1", "a")
    harness.finish("w1", "a")
    assert isinstance(harness.submit("b", only_if_idle=True), m.Accepted)


def test_a_unique_alias_is_refused_the_second_time_even_after_the_first_ended():
    harness = CoreHarness()
    harness.running("a", origin="lx", alias="mine", alias_unique=True)
    harness.finish("w1", "a")
    assert harness.submit("b", origin="lx", alias="mine", alias_unique=True).code == "alias_taken"
    assert isinstance(harness.submit("c", origin="other", alias="mine", alias_unique=True), m.Accepted)


def test_an_alias_leads_to_the_newest_job_of_that_name():
    harness = CoreHarness()
    harness.submit("a", origin="lx", alias="mine")
    harness.tick(1)
    harness.submit("b", origin="lx", alias="mine")
    effects = harness.feed(EDGE, m.GetJob(req=1, origin="lx", alias="mine"))
    assert codec.job_view(effects[0].message.body).id == "b"


def test_busy_is_said_before_a_taken_alias():
    harness = CoreHarness()
    harness.submit("a", origin="lx", alias="mine")
    answer = harness.submit("b", origin="lx", alias="mine", alias_unique=True, only_if_idle=True)
    assert answer.code == "busy"


def test_a_deadline_that_cannot_be_met_is_refused():
    harness = CoreHarness()
    harness.running("b")
    harness.finish("w1", "b", free=0)  # learned: 2 s a unit
    answer = harness.submit("c", units=10 * UNIT, deadline_s=15.0)
    assert answer.code == "deadline"
    assert "would take about 20.0 s" in answer.message
    assert isinstance(harness.submit("d", units=10 * UNIT, deadline_s=25.0), m.Accepted)


def test_lists_show_what_is_in_memory_not_what_was_written():
    harness = CoreHarness()
    harness.running("a")
    harness.beat("w1", m.Held(job_id="a", fence=harness.job("a").fence, phase="denoise", step=3, total=10))
    harness.submit("b")
    effects = harness.feed(EDGE, m.ListJobs(req=1, newest_first=False))
    views = codec.job_views(effects[0].message.body)
    assert [(v.id, v.state, v.step) for v in views] == [("a", "running", 3), ("b", "queued", 0)]


def test_a_page_with_huge_specs_is_cut_short_and_says_so():
    harness = CoreHarness()
    for n in range(20):
        harness.submit(f"j{n:02}", body=bytes(500_000))
        harness.tick(0.1)
    effects = harness.feed(EDGE, m.ListJobs(req=1, newest_first=False))
    page = sent(effects, m.Jobs)[0]
    views = codec.job_views(effects[0].message.body)
    assert page.more
    assert 1 <= len(views) < 20
    assert views[0].id == "j00"


def test_the_pool_lists_workers_and_counts():
    harness = CoreHarness()
    harness.hello("w1", body=worker_info("demo", "flux"))
    harness.submit("a")
    effects = harness.feed(EDGE, m.GetPool(req=9))
    pool = codec.pool_view(effects[0].message.body)
    assert [(w.name, w.state, [c.name for c in w.models]) for w in pool.workers] == [("w1", "busy", ["demo", "flux"])]
    assert pool.counts["assigned"] == 1
