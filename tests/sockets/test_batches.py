"""Several messages in one frame: how the broker takes and makes them, and how an edge's client does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq

from broker.client.client import BrokerClient
from broker.shell.net.peer_limits import BUDGET
from broker.shell.router import PASS_MESSAGES
from broker.shell.stimuli import KEPT_BYTES
from broker.testing import RESULT, worker_info
from broker.wire import codec
from broker.wire import messages as m
from tests.sockets.router_bench import Bench
from tests.support.waiting import eventually
from tests.testing.in_process import a_job, in_loop


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.journal.close()


def frames(*messages: m.Message) -> list[bytes]:
    return [*codec.join(map(codec.encode, messages))]


# ---------------------------------------------------------------- the broker


def test_jobs_of_one_frame_are_accepted_in_one_commit_and_one_frame(bench):
    (frame,) = frames(*[a_job(f"job-{number}") for number in range(20)])
    bench.wires.front.inbox.append([b"edge", frame])
    bench.run()
    assert bench.log == ["commit", "send"]
    assert [answer.job_id for answer in bench.sent(m.Accepted)] == [f"job-{number}" for number in range(20)]
    assert (bench.metrics.received[m.Submit], bench.metrics.sent[m.Accepted]) == (20, 20)


def test_answers_of_a_pass_are_joined_by_edge_and_in_order(bench):
    bench.edge(a_job("job-1"), peer=b"one")
    bench.edge(a_job("job-2"), peer=b"two")
    bench.edge(m.GetJob(req=3, job_id="job-2"), peer=b"one")
    bench.run()
    assert bench.log == ["commit", "send", "send"]
    assert [type(answer) for answer in bench.sent(peer=b"fone")] == [m.Accepted, m.JobReply]
    assert [type(answer) for answer in bench.sent(peer=b"ftwo")] == [m.Accepted]


def test_a_worker_is_sent_each_message_in_a_frame_of_its_own(bench):
    bench.join(free=3)
    bench.wires.deliveries.clear()
    bench.log.clear()
    for number in range(3):
        bench.edge(a_job(f"job-{number}"))
    bench.run()
    assert bench.log == ["send"] * 3 + ["commit", "send"]
    assert len(bench.sent(m.Run)) == 3


def test_a_pass_counts_the_messages_of_a_frame(bench):
    for frame in frames(*[m.GetPool(req=number) for number in range(PASS_MESSAGES + codec.MAX_BATCH)]):
        bench.wires.front.inbox.append([b"edge", frame])
    assert bench.run()
    assert len(bench.sent(m.Pool)) == PASS_MESSAGES
    assert not bench.run()


def test_full_frames_at_the_back_do_not_shut_out_the_front(bench):
    for _ in range(codec.MAX_BATCH - 1):  # so that the last frame goes as far over the back's share as one can
        bench.agent(m.Heartbeat(seen=0, free=1))
    for frame in frames(*[m.Heartbeat(seen=0, free=1)] * (2 * PASS_MESSAGES)):
        bench.wires.back.inbox.append([b"agent", frame])
    bench.edge(m.GetPool(req=1))
    assert bench.run()
    assert len(bench.sent(m.Pool)) == 1


@pytest.mark.parametrize("broken", [m.Identify(), m.GetPool(v=m.PROTOCOL + 1, req=2)], ids=("junk", "version"))
def test_of_a_frame_with_one_broken_message_nothing_is_taken(bench, broken):
    (frame,) = frames(a_job("job-1"), broken, a_job("job-2"))
    bench.wires.front.inbox.append([b"edge", frame])
    bench.edge(m.GetPool(req=1), peer=b"other")
    bench.run()
    assert dict(bench.limiter.by_kind) == {"decode": 1}
    assert [type(answer) for answer in bench.sent()] == [m.Pool]
    assert bench.core.job("job-1") is None


def test_a_result_that_cannot_be_read_costs_the_others_of_its_frame_nothing(bench):
    bench.join()
    bench.edge(a_job("job-1"))
    bench.run()
    (run,) = bench.sent(m.Run)
    finished = m.Finished(job_id="job-1", fence=run.fence, free=1, body=RESULT)
    (frame,) = frames(msgspec.structs.replace(finished, body=b"no result"), finished)
    bench.wires.back.inbox.append([b"agent", frame])
    bench.run()
    assert dict(bench.limiter.by_kind) == {"decode": 1}
    assert bench.core.job("job-1").state == "succeeded"


def test_of_a_peer_that_is_cut_off_over_a_message_the_rest_of_the_frame_is_not_read(bench):
    bench.join(peer=b"evil")
    broken = m.Finished(job_id="job-1", fence=1, body=b"no result")
    for frame in frames(*[broken] * (BUDGET + 1)):
        bench.wires.back.inbox.append([b"evil", frame])
    (last,) = frames(broken, m.Heartbeat(seen=0, free=1))
    bench.wires.back.inbox.append([b"evil", last])
    while bench.run():
        pass
    assert bench.wires.back.cuts == 1
    assert bench.limiter.by_kind["decode"] == BUDGET
    assert bench.metrics.received[m.Finished] == BUDGET
    assert not bench.metrics.received[m.Heartbeat]


def test_a_name_that_is_not_its_keys_is_refused_inside_a_frame(bench, monkeypatch):
    back = bench.wires.back
    monkeypatch.setattr(back, "keyed", True)
    monkeypatch.setattr(back, "sender", lambda: "rack-1")
    monkeypatch.setattr(bench.wires, "peers", Admitting(), raising=False)
    monkeypatch.setattr(bench.wires, "delivered", lambda listener: None, raising=False)
    hello = m.Hello(name="rack-2.gpu-0", boot="boot", seen=0, free=1, body=worker_info())
    (frame,) = frames(hello, msgspec.structs.replace(hello, name="rack-1.gpu-0"))
    back.inbox.append([b"agent", frame])
    bench.run()
    assert [type(answer) for answer in bench.sent()] == [m.WorkerRejected, m.Welcome]
    assert [worker.name for worker in bench.core.snapshot().workers] == ["rack-1.gpu-0"]


class Admitting:
    """A list of keys with everybody on it."""

    def admits(self, name: str) -> bool:
        return True


def test_requests_of_a_later_version_in_one_frame_are_refused_one_by_one(bench):
    later = m.PROTOCOL + 1
    requests = [msgspec.Raw(codec.encode(m.GetPool(v=later, req=req))) for req in (7, 8)]
    bench.wires.front.inbox.append([b"edge", msgspec.msgpack.encode(["batch", later, requests])])
    bench.run()
    refusals = [msgspec.msgpack.decode(frame)[:4] for _, frame in bench.wires.foreign]
    assert refusals == [["rejected", later, 7, "invalid"], ["rejected", later, 8, "invalid"]]
    assert dict(bench.limiter.by_kind) == {"version": 1}


@pytest.mark.parametrize(("size", "kept"), [(KEPT_BYTES - 500, True), (KEPT_BYTES + 500, False)])
def test_specs_of_one_frame_are_kept_for_a_replay_as_those_of_frames_of_their_own(bench, size, kept):
    (frame,) = frames(*[a_job(f"job-{number}", body=bytes(size)) for number in range(8)])
    bench.wires.front.inbox.append([b"edge", frame])
    bench.run()
    assert [bool(message.body) for _, _, message in bench.router._stimuli.ring] == [kept] * 8


def test_an_edge_that_goes_away_between_two_frames_of_a_pass_is_gone(bench):
    bench.edge(m.Watch(req=1), peer=b"slow")
    bench.run()
    send, tried = bench.wires.send, []

    def second_fails(peer: bytes, frame: bytes) -> bool:
        tried.append(peer)
        return send(peer, frame) and tried.count(b"fslow") < 2

    bench.wires.send = second_fails
    for number in range(codec.MAX_BATCH * 3):
        bench.edge(m.GetPool(req=number), peer=b"slow")
    bench.run()
    assert tried == [b"fslow", b"fslow"]
    assert not bench.core.state.watchers


# ---------------------------------------------------------------- an edge's client


class Front:
    """A broker's front socket, read and written by hand."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        self.router.bind(endpoint)
        self.peer = b""
        #: The messages of each frame.
        self.received: list[list[Any]] = []

    def receive(self) -> list[list[Any]]:
        while self.router.poll(0):
            self.peer, frame = self.router.recv_multipart()
            self.received.append([*codec.from_edge(frame)])
        return self.received

    def send(self, *messages: m.Message) -> None:
        for frame in frames(*messages):
            self.router.send_multipart([self.peer, frame])

    def close(self) -> None:
        self.router.close(linger=0)
        self._context.term()


@asynccontextmanager
async def connected_to(run_dir: str, **fields: Any) -> AsyncIterator[tuple[Front, BrokerClient]]:
    """A client whose first request has been answered."""
    endpoint = f"ipc://{run_dir}/front.sock"
    front = Front(endpoint)
    try:
        async with BrokerClient(endpoint, timeout_s=60.0, **fields) as client:
            call = asyncio.create_task(client.get("first"))
            await eventually(front.receive)
            front.send(m.JobReply(req=1, found=False))
            await call
            front.received.clear()
            yield front, client
    finally:
        front.close()


@in_loop
async def test_requests_of_one_turn_go_in_two_frames_and_their_answers_may_come_in_one(run_dir):
    async with connected_to(run_dir) as (front, client):
        calls = [asyncio.create_task(client.get(f"job-{number}")) for number in range(6)]
        await eventually(lambda: sum(map(len, front.receive())) == 6)
        assert [[request.job_id for request in frame] for frame in front.received] == [
            ["job-0"],
            [f"job-{number}" for number in range(1, 6)],
        ]
        front.send(*[m.JobReply(req=request.req, found=False) for frame in front.received for request in frame])
        assert await asyncio.gather(*calls) == [None] * 6


@in_loop
async def test_what_is_asked_again_goes_in_a_frame_of_its_own(run_dir):
    async with connected_to(run_dir) as (front, client):
        calls = [asyncio.create_task(client.get(f"job-{number}")) for number in range(3)]
        await eventually(lambda: sum(map(len, front.receive())) == 6)
        assert [len(frame) for frame in front.received] == [1, 2, 1, 1, 1]
        front.send(*[m.JobReply(req=request.req, found=False) for frame in front.received for request in frame])
        await asyncio.gather(*calls)


@in_loop
async def test_a_job_that_is_followed_in_the_turn_of_its_submit_is_known_by_then(run_dir):
    async with connected_to(run_dir) as (front, client):
        watching = asyncio.create_task(client.watch(steps=False))
        await eventually(front.receive)
        front.send(m.Watching(req=front.received[0][0].req, seq=0))
        await watching
        front.received.clear()
        calls = [asyncio.create_task(client.submit(a_job(f"job-{number}"))) for number in range(3)]
        client.follow("job-2")
        await eventually(lambda: sum(map(len, front.receive())) == 4)
        sent = [type(message) for frame in front.received for message in frame if not isinstance(message, m.Watch)]
        assert sent == [m.Submit, m.Submit, m.Submit, m.Follow]
        new = m.Admission(revision=1, position=1, eta_s=0.0, submitted_at=0.0, deadline_at=0.0)
        for one in (one for frame in front.received for one in frame if isinstance(one, m.Submit)):
            front.send(m.Accepted(req=one.req, job_id=one.job_id, admission=new))
        await asyncio.gather(*calls)


@in_loop
async def test_a_callback_that_fails_costs_the_answers_behind_its_event_nothing(run_dir):
    def fail(_: object) -> None:
        raise RuntimeError("a bug of the caller")

    async with connected_to(run_dir, on_gone=fail) as (front, client):
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        call = asyncio.create_task(client.get("job-1"))
        await eventually(front.receive)
        front.send(m.JobsDeleted(seq=1, job_ids=("x",)), m.JobReply(req=front.received[0][0].req, found=False))
        assert await call is None


@in_loop
async def test_requests_of_a_turn_without_a_broker_wait_for_it(run_dir):
    endpoint = f"ipc://{run_dir}/front.sock"
    async with BrokerClient(endpoint, timeout_s=60.0) as client:
        calls = [asyncio.create_task(client.get(f"job-{number}")) for number in range(3)]
        await asyncio.sleep(0)
        front = Front(endpoint)
        try:
            await eventually(lambda: {one.job_id for frame in front.receive() for one in frame} >= {"job-0", "job-2"})
            front.send(*[m.JobReply(req=one.req, found=False) for frame in front.received for one in frame])
            assert await asyncio.gather(*calls) == [None] * 3
        finally:
            front.close()
