"""A broker on real sockets: agents that come, go and lie, edges that do not read, a loop that stands still."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import msgspec
import pytest
import zmq

from broker.core import reports
from broker.core.policy import Policy
from broker.runtime.errors import BindFailed, JournalBroken
from broker.runtime.settings import SettingsError
from broker.shell.metrics import Metrics
from broker.shell.net import sockets as shell_sockets
from broker.shell.net.sockets import Sockets
from broker.shell.recovery import BUDGET
from broker.testing import worker_info
from broker.wire import codec
from broker.wire import messages as m
from tests.support.waiting import eventually
from tests.testing.in_process import a_job, agent, connected, in_loop, serving


@in_loop
async def test_a_job_goes_to_the_agent_and_its_result_comes_back(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as worker:
        welcome = await worker.join()
        assert welcome.epoch == 1
        await client.submit(a_job("job-1", body=b"the spec"))
        run = await worker.receive(m.Run)
        assert (run.job_id, run.attempt, run.body) == ("job-1", 1, b"the spec")
        worker.start(run)
        worker.finish(run)
        assert (await worker.receive(m.ResultAck)).accepted
        view = await client.get("job-1")
        assert (view.state, view.worker, view.result.seed) == ("succeeded", "cpu-0", 7)


@in_loop
async def test_a_cancel_reaches_the_agent(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        outcome, view = await client.cancel("job-1")
        assert (outcome, view.cancel_requested) == ("requested", True)
        assert (await worker.receive(m.Cancel)).fence == run.fence
        worker.say(m.Cancelled(job_id="job-1", fence=run.fence, free=1))
        await worker.receive(m.ResultAck)
        assert (await client.get("job-1")).state == "cancelled"


@in_loop
async def test_whoever_is_not_known_is_asked(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, agent(service) as worker:
        await worker.probed()
        worker.say(m.Heartbeat(seen=0, free=1))
        await worker.receive(m.Identify)
        await worker.hello()


@in_loop
async def test_a_running_job_outlives_the_broker(tmp_path, run_dir):
    async with (
        serving(tmp_path, run_dir, Policy(rejoin_s=20.0)) as service,
        connected(service) as client,
        agent(service) as worker,
    ):
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        worker.start(run)
        await eventually(lambda: service.core.job("job-1").state == "running")
        await service.restart()
        await worker.probed(2)
        held = (m.Held(job_id="job-1", fence=run.fence, phase="denoise", step=3, total=8),)
        welcome = await worker.hello(free=0, seen=run.fence, held=held)
        assert welcome.epoch == 2
        view = await client.get("job-1")
        assert (view.state, view.step, view.losses, view.attempts) == ("running", 3, 0, 1)
        worker.finish(run)
        assert (await worker.receive(m.ResultAck)).accepted
        assert (await client.get("job-1")).state == "succeeded"


@in_loop
async def test_a_result_resent_to_a_new_broker_is_acknowledged_again(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        worker.finish(run)
        await worker.receive(m.ResultAck)
        await service.restart()
        await worker.probed(2)
        await worker.hello(seen=run.fence)
        worker.finish(run)
        assert (await worker.receive(m.ResultAck, 2)).accepted
        jobs, _ = await client.list()
        assert [(job.id, job.state, job.attempts) for job in jobs] == [("job-1", "succeeded", 1)]


@in_loop
async def test_a_lost_worker_gives_its_job_to_another(tmp_path, run_dir):
    policy = Policy(suspect_after_s=1.5, lost_after_s=2.0)
    async with (
        serving(tmp_path, run_dir, policy) as service,
        connected(service) as client,
        agent(service, "cpu-0") as silent,
        agent(service, "cpu-1") as other,
    ):
        await silent.join()
        await client.submit(a_job("job-1"))
        first = await silent.receive(m.Run)
        await eventually(lambda: service.core.job("job-1").losses == 1)
        await other.join()
        second = await other.receive(m.Run)
        assert second.fence > first.fence


@in_loop
async def test_a_loop_that_stood_still_does_not_blame_the_workers(tmp_path, run_dir):
    policy = Policy(suspect_after_s=1.5, lost_after_s=2.0)
    async with serving(tmp_path, run_dir, policy) as service, connected(service) as client, agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        time.sleep(2.5)  # noqa: ASYNC251  # the point
        await eventually(lambda: service.metrics.stalls)
        worker.say(m.Heartbeat(seen=run.fence, free=0, held=(m.Held(job_id="job-1", fence=run.fence),)))
        await eventually(lambda: service.core.job("job-1").state == "running")
        assert service.core.job("job-1").losses == 0


@in_loop
async def test_rows_that_may_be_lost_are_on_disk_soon(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        worker.start(run)
        await eventually(lambda: service.core.job("job-1").state == "running" and not service.journal.dirty)
        assert service.journal.find("job-1").state == "running"


# ---------------------------------------------------------------- peers that do harm


@in_loop
async def test_junk_on_a_socket_is_counted_and_the_rest_goes_on(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as evil:
        await evil.probed()
        await client.submit(a_job("job-1"))
        for frames in ([b"junk"], [b"a", b"b", b"c"], [b"x" * 5000]):
            evil.send(frames)
        evil.say(m.Heartbeat(seen=0, free=1))
        await evil.receive(m.Identify)
        assert dict(service.limiter.by_kind) == {"decode": 2, "frames": 1}
        assert list(service.limiter.by_peer.values()) == [3]
        assert (await client.get("job-1")).state == "queued"


@in_loop
async def test_no_peer_speaks_as_another_by_frames_behind_its_message(tmp_path, run_dir):
    """A frame left in the socket is taken for the routing id of the next message."""
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as worker:
        await worker.join()
        routing_id = service.core.state.pool.workers.get("cpu-0").peer[1:]
        goodbye, beat = codec.encode(m.Goodbye()), codec.encode(m.Heartbeat(seen=0, free=1))
        async with agent(service, "evil") as evil:
            await evil.probed()
            for frames in ([beat, routing_id, goodbye], [b"junk", routing_id, goodbye], [b"", routing_id, goodbye] * 3):
                evil.send(frames)
            evil.say(m.Heartbeat(seen=0, free=1))
            await evil.receive(m.Identify)
            assert dict(service.limiter.by_kind) == {"frames": 3}
        assert [view.name for view in (await client.worker_requests.pool()).workers] == ["cpu-0"]


OLD = dict(
    line.split() for line in (Path(__file__).parent.parent / "wire" / "golden_protocol_1.txt").read_text().splitlines()
)


@pytest.mark.parametrize(
    ("side", "said", "body", "reported"),
    [
        ("back", "Hello", b"info" * 2000, ["bye", 1, f"protocol 1, this is {m.PROTOCOL}", "none"]),
        # The last one 0.1.0 does not know, and skips.
        (
            "front",
            "Submit",
            b"spec" * 2000,
            ["rejected", 1, 1, "invalid", f"protocol 1, this is {m.PROTOCOL}", 0.0, 0.0],
        ),
    ],
)
def test_a_peer_of_version_0_1_0_is_told_to_go(tmp_path, run_dir, side, said, body, reported):
    """As it sends, a header and a body in two frames, and as it reads: one header of its own version."""

    @in_loop
    async def talk():
        async with serving(tmp_path, run_dir) as service:
            context = zmq.Context()
            try:
                old = context.socket(zmq.DEALER)
                old.connect(getattr(service, side))
                old.send_multipart([bytes.fromhex(OLD[said]), body])
                heard = []

                def answered() -> bool:
                    while old.poll(0):
                        heard.append(old.recv_multipart())
                    return [b""] not in heard[-1:] and bool(heard)

                await eventually(answered, what="an answer")
                (frame,) = heard[-1]
                assert msgspec.msgpack.decode(frame) == reported
                assert service.journal.find("job_1-A") is None
                assert not service.core.state.pool.workers.get("gpu-0")
            finally:
                context.destroy(linger=0)

    talk()


@in_loop
async def test_a_frame_over_the_limit_ends_that_connection_only(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client, agent(service) as evil:
        await evil.join()
        evil.send([bytes(shell_sockets.BACK_MAX_FRAME + 1)])
        await evil.probed(2)  # it was thrown out, and came back as another
        evil.say(m.Heartbeat(seen=0, free=1))
        await evil.receive(m.Identify)
        assert (await client.worker_requests.pool()).counts["queued"] == 0


@in_loop
async def test_bytes_that_are_not_even_zeromq_do_no_harm(tmp_path, run_dir):
    """libzmq takes some of them for an ancient ZMTP without a handshake; what comes of that is junk like any other."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32)
    garbage = (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, bytes(range(256)) * 20, greeting + b"\xff" * 5000)
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        with ExitStack() as strangers:
            for path, data in product((service.front, service.back), garbage):
                stranger = strangers.enter_context(socket.socket(socket.AF_UNIX))
                stranger.connect(path.removeprefix("ipc://"))
                stranger.sendall(data)
            view, _ = await client.submit(a_job("job-1"))
        assert view.state == "queued"
        assert [job.id for job in (await client.list())[0]] == ["job-1"]


@in_loop
async def test_an_edge_that_does_not_read_is_dropped_and_the_others_are_served(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr(shell_sockets, "EDGE_HWM", 5)
    context = zmq.Context()
    slow = context.socket(zmq.DEALER)
    slow.setsockopt(zmq.RCVHWM, 1)
    slow.setsockopt(zmq.LINGER, 0)
    try:
        async with serving(tmp_path, run_dir) as service, connected(service) as client:
            slow.connect(service.front)
            slow.send(codec.encode(m.Watch(req=1)))
            await eventually(lambda: service.core.state.watchers)
            for number in range(20_000):
                await client.submit(a_job(f"job-{number}", alias="x" * 250))
                if service.metrics.unsent:
                    break
            assert not service.core.state.watchers
            assert (await client.get("job-0")).state == "queued"
    finally:
        slow.close(linger=0)
        context.term()


# ---------------------------------------------------------------- its own house


@in_loop
async def test_a_journal_that_cannot_be_written_ends_the_broker(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service, timeout_s=0.5) as client:
        service.journal.store.path.unlink()
        with pytest.raises(JournalBroken, match="removed or replaced"):
            await service.running
        assert client is not None


@in_loop
async def test_a_bug_in_the_core_that_shows_for_everything_ends_the_broker(tmp_path, run_dir, monkeypatch):
    async with serving(tmp_path, run_dir) as service, agent(service) as worker:
        await worker.probed()

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(service.core, "receive", fail)
        for _ in range(BUDGET + 1):
            worker.say(m.Heartbeat(seen=0, free=1))
        with pytest.raises(RuntimeError, match="a bug"):
            await service.running


@in_loop
async def test_a_bug_in_the_core_that_shows_once_ends_nothing(tmp_path, run_dir, monkeypatch):
    async with serving(tmp_path, run_dir) as service, agent(service) as worker, connected(service) as client:
        await worker.probed()

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(reports, "heartbeat", fail)
            worker.say(m.Hello(name="cpu-0", boot="b", seen=0, free=1, body=worker_info()))
            worker.say(m.Heartbeat(seen=0, free=1))
            await eventually(lambda: service.metrics.failures == 1)
        await client.submit(a_job("job-1"))
        assert not service.running.done()


@in_loop
async def test_the_numbers_are_written_to_a_file(tmp_path, run_dir):
    async with serving(tmp_path, run_dir):
        path = tmp_path / "metrics"
        await eventually(path.exists)
        assert "zoetrope_commit_seconds_count" in path.read_text()


@in_loop
async def test_numbers_that_cannot_be_told_do_not_end_the_broker(tmp_path, run_dir, monkeypatch):
    asked = []

    def fail(*_: object) -> None:
        asked.append(True)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Metrics, "write", fail)
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await eventually(lambda: len(asked) > 0)
        await client.submit(a_job("job-1"))
        assert not service.running.done()


def test_a_path_that_cannot_be_bound_is_said(run_dir):
    with pytest.raises(BindFailed, match="cannot listen on ipc://"):
        Sockets(f"ipc://{run_dir}/{'x' * 100}.sock", f"ipc://{run_dir}/back.sock")


def test_sockets_where_others_may_enter_are_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(SettingsError, match="can be entered by others"):
        Sockets(f"ipc://{tmp_path}/front.sock", f"ipc://{tmp_path}/back.sock")
