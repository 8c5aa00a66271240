"""What the core has read from disk for a message: nothing of what it has in memory."""

from __future__ import annotations

import pytest

from broker.core.lookups import FindJob, FindJobs, FindPage, FindSpec
from broker.core.policy import Policy
from broker.core.timers import FRESH_S
from broker.testing import EDGE, RESULT, CoreHarness, peer_of, submit_message
from broker.wire import messages as m


@pytest.fixture
def harness() -> CoreHarness:
    """`near` waits with its spec, `far` without, `over` is final and on disk alone."""
    harness = CoreHarness(Policy(recent_finals=0, live_bodies=1))
    harness.running("over")
    harness.finish("w1", "over", free=0)
    for job_id in ("near", "far"):
        harness.submit(job_id)
    return harness


def asked(job_id: str, **fields) -> list[m.Message]:
    return [
        submit_message(job_id, b""),
        m.GetJob(req=1, job_id=job_id),
        m.CancelJob(req=1, job_id=job_id),
    ]


@pytest.mark.parametrize(
    ("job_id", "lookup"), [("near", None), ("far", FindSpec("far")), ("over", FindJob("over")), ("new", FindJob("new"))]
)
def test_a_job_is_read_where_memory_has_not_all_of_it(harness, job_id, lookup):
    assert [harness.core.needs(EDGE, message) for message in asked(job_id)] == [lookup] * 3


@pytest.mark.parametrize(
    "fields",
    [{"alias_unique": True, "alias": "one"}, {"only_if_idle": True}, {"max_queued": 9}, {"deadline_s": 5.0}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_fresh_id_is_looked_up_only_where_its_job_could_be_refused(harness, fields):
    fresh = submit_message("new", b"", fresh=True)
    harness.tick(FRESH_S)
    assert harness.core.needs(EDGE, fresh) is None
    assert harness.core.needs(EDGE, submit_message("far", b"", fresh=True)) == FindSpec("far")
    assert harness.core.needs(EDGE, submit_message("new", b"", fresh=True, **fields)) is not None
    harness.core.set_refusing("the disk is full")
    assert harness.core.needs(EDGE, fresh) == FindJob("new")
    harness.core.set_refusing("")
    harness.core.begin_stop()
    assert harness.core.needs(EDGE, fresh) == FindJob("new")


def test_a_fresh_id_is_looked_up_while_requests_of_the_life_before_may_come_again(harness):
    fresh = submit_message("new", b"", fresh=True)
    harness.restart()
    harness.tick(FRESH_S - 0.1)
    assert harness.core.needs(EDGE, fresh) == FindJob("new")
    harness.tick(0.2)
    assert harness.core.needs(EDGE, fresh) is None


def test_a_name_is_read_with_the_id(harness):
    named = {"origin": "native", "alias": "one", "tenant": "t"}
    lookup = FindJob("new", "native", "one", "t")
    assert harness.core.needs(EDGE, m.GetJob(req=1, job_id="new", **named)) == lookup
    submit = submit_message("new", b"", **named)
    assert harness.core.needs(EDGE, submit) == FindJob("new")
    assert harness.core.needs(EDGE, submit_message("new", b"", alias_unique=True, **named)) == lookup


def test_a_result_is_compared_with_the_record_of_its_job_if_its_worker_is_known(harness):
    result = m.Finished(job_id="over", fence=1, body=RESULT)
    assert harness.core.needs(peer_of("w1"), result) == FindJob("over")
    assert harness.core.needs(b"b-unknown", result) is None
    assert harness.core.needs(peer_of("w1"), m.Heartbeat(seen=1, free=1)) is None
    near = m.Finished(job_id="near", fence=1, body=RESULT)
    assert harness.core.needs(peer_of("w1"), near) is None


def test_of_jobs_to_be_deleted_those_in_memory_are_not_read(harness):
    assert harness.core.needs(EDGE, m.ForgetJobs(req=1, job_ids=("over", "near", "over"))) == FindJobs(("over",))
    assert harness.core.needs(EDGE, m.ForgetJobs(req=1, job_ids=("near",))) is None


def test_a_page_begins_at_a_time_of_the_cores_timeline(harness):
    query = m.ListJobs(req=1, after="gone", after_at=5.0)
    assert harness.core.needs(EDGE, query) == FindPage(query)
