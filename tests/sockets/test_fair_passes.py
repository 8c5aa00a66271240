"""A peer that asks for much does not make others wait for all of it: counted in answers that leave before theirs."""

from __future__ import annotations

import pytest

from broker.shell.pass_costs import COSTS
from broker.shell.router import PASS_MESSAGES
from broker.testing import worker_info
from broker.wire import codec
from broker.wire import messages as m
from tests.sockets.router_bench import Bench
from tests.testing.in_process import a_job


def _flood(bench: Bench, frames: int, make) -> None:
    for number in range(frames):
        asked = (make(number * codec.MAX_BATCH + position + 1) for position in range(codec.MAX_BATCH))
        (frame,) = codec.join(codec.encode(message) for message in asked)
        bench.wires.front.inbox.append([b"flood", frame])


def _until(bench: Bench, kind: type[m.Message]) -> None:
    """Run passes until a message of this kind is sent."""
    while not bench.sent(kind):
        assert bench.run() or bench.sent(kind)


@pytest.fixture
def bench(make) -> Bench:
    return make()


@pytest.mark.parametrize(
    ("make_request", "answer", "most"),
    [
        (lambda req: m.ListJobs(req=req, limit=50), m.Jobs, 3),
        (lambda req: m.ListJobs(req=req, limit=20, text="cat"), m.Jobs, 1),
        (lambda req: m.ListJobs(req=req, limit=1), m.Jobs, 40),
        (lambda req: m.GetUsage(req=req, first_day=1, last_day=2), m.Usage, 2),
    ],
    ids=["pages", "searches", "short pages", "usage"],
)
def test_a_pass_ends_when_its_requests_have_cost_enough(bench, make_request, answer, most):
    _flood(bench, 8, make_request)
    answered = 0
    while bench.run():
        now = len(bench.sent(answer))
        assert 0 < now - answered <= most
        answered = now
    assert [one.req for one in bench.sent(answer)] == list(range(1, 8 * codec.MAX_BATCH + 1)), "all, in their order"


def test_a_job_waits_for_the_frame_before_it_and_not_for_all_that_lies_there(bench):
    _flood(bench, 1, lambda req: m.ListJobs(req=req, limit=50))
    bench.edge(a_job("job-1"), b"other")
    _flood(bench, 8, lambda req: m.ListJobs(req=req, limit=50))
    _until(bench, m.Accepted)
    assert len(bench.sent(m.Jobs)) <= codec.MAX_BATCH + 3


def test_a_pool_of_many_workers_costs_more(bench):
    for number in range(100):
        bench.agent(
            m.Hello(name=f"cpu-{number}", boot="boot", seen=0, free=1, body=worker_info()), b"agent-%d" % number
        )
    bench.run()
    _flood(bench, 2, lambda req: m.GetPool(req=req))
    bench.run()
    assert len(bench.sent(m.Pool)) == 3


def test_cheap_requests_share_a_pass_as_before(bench):
    _flood(bench, 8, lambda req: m.GetJob(req=req, job_id="nobody"))
    bench.run()
    assert len(bench.sent(m.JobReply)) == PASS_MESSAGES


def test_workers_are_heard_between_the_parts_of_a_frame(bench):
    _flood(bench, 1, lambda req: m.ListJobs(req=req, limit=50))
    bench.run()
    bench.agent(m.Hello(name="cpu-0", boot="boot", seen=0, free=1, body=worker_info()))
    bench.run()
    assert bench.sent(m.Welcome)
    assert len(bench.sent(m.Jobs)) < codec.MAX_BATCH


def test_costly_requests_are_those_that_edges_send_by_themselves():
    assert frozenset(COSTS) == m.COSTLY
