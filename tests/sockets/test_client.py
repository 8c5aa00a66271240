"""The client against a real broker: every request answered once, over restarts, cancels and junk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import zmq

from broker.client import errors
from broker.client.client import BrokerClient
from broker.client.event_stream import EventStream
from broker.client.followed_jobs import FollowedJobs
from broker.core.policy import Policy
from broker.shell.journal import queries
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.edge_messages import MAX_FOLLOW
from tests.support.waiting import eventually
from tests.testing.in_process import Service, a_job, agent, connected, in_loop, serving


@in_loop
async def test_submit_get_list_cancel(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        view, duplicate = await client.submit(a_job("job-1", origin="native", alias="mine", body=b"the spec"))
        assert (view.id, view.state, view.body, duplicate) == ("job-1", "queued", b"the spec", False)
        view, duplicate = await client.submit(a_job("job-1", origin="native", alias="mine", body=b"the spec"))
        assert (view.id, duplicate) == ("job-1", True)
        found = await client.get("job-1")
        assert (found.body, [move.cause for move in found.history]) == (b"the spec", ["submitted"])
        assert (await client.get_alias("native", "mine")).id == "job-1"
        assert await client.get("nobody") is None
        assert await client.get_alias("native", "nobody") is None
        await client.submit(a_job("job-2", body=b""))
        jobs, more = await client.list(limit=1)
        assert ([job.id for job in jobs], more) == (["job-2"], True)
        jobs, more = await client.list(after="job-2")
        assert ([job.id for job in jobs], more) == (["job-1"], False)
        outcome, view = await client.cancel("job-1")
        assert (outcome, view.state) == ("cancelled", "cancelled")
        assert (await client.cancel("job-1"))[0] == "already_final"
        assert await client.cancel("nobody") == ("not_found", None)
        assert (await client.worker_requests.pool()).counts["queued"] == 1


@in_loop
async def test_a_pool_that_comes_in_pages_is_whole(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr("broker.client.request_groups._POOL_PAGE", 2)
    async with serving(tmp_path, run_dir) as service, connected(service) as client, AsyncExitStack() as stack:
        for number in range(5):
            worker = await stack.enter_async_context(agent(service, f"w{number}"))
            await worker.join()
        pool = await client.worker_requests.pool()
        assert ([worker.name for worker in pool.workers], pool.more) == (["w0", "w1", "w2", "w3", "w4"], False)


@in_loop
async def test_a_list_that_the_broker_answers_in_pieces_is_whole(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr(queries, "MAX_LOOKED", 3)
    monkeypatch.setattr(queries, "MAX_ROWS", 2)
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        for n in range(20):
            await client.submit(a_job(f"job-{n:02}", origin="native" if n in (1, 2, 3, 15) else "other"))
        for limit, expected in ((3, ["job-15", "job-03", "job-02"]), (4, ["job-15", "job-03", "job-02", "job-01"])):
            jobs, more = await client.list(origin="native", limit=limit)
            assert ([job.id for job in jobs], more) == (expected, limit == 3)
        assert await client.list(worker="nosuch") == ([], False)
        # Two answers look at six of the twenty: the rest is for another time, from where it broke off.
        first = await client.search(2, origin="native", limit=4)
        assert ([job.id for job in first.jobs], first.more) == (["job-15"], True)
        assert first.behind_at == pytest.approx((await client.get("job-14")).submitted_at)
        rest = await client.search(None, origin="native", limit=4, behind=first.behind)
        assert [job.id for job in rest.jobs] == ["job-03", "job-02", "job-01"]
        assert (rest.more, rest.behind, rest.behind_at) == (False, 0, 0.0)
        assert len((await client.list(limit=1000))[0]) == 20


@in_loop
async def test_rejections_are_errors_of_their_own(tmp_path, run_dir):
    async with serving(tmp_path, run_dir, Policy(queue_limit=2)) as service, connected(service) as client:
        await client.submit(a_job("job-1", origin="native", alias="mine", body=b"a"))
        with pytest.raises(errors.IdConflict, match="'job-1'"):
            await client.submit(a_job("job-1", body=b"another body"))
        with pytest.raises(errors.AliasTaken):
            await client.submit(a_job("job-2", origin="native", alias="mine", alias_unique=True, body=b"a"))
        with pytest.raises(errors.ServiceBusy):
            await client.submit(a_job("job-3", only_if_idle=True, body=b"a"))
        await client.submit(a_job("job-4", body=b"a"))
        with pytest.raises(errors.QueueFull) as caught:
            await client.submit(a_job("job-5", body=b"a"))
        assert caught.value.code == "queue_full"
        assert caught.value.retry_after_s >= 1
        assert [job.id for job in (await client.list())[0]] == ["job-4", "job-1"]


@in_loop
async def test_what_does_not_fit_the_protocol_is_refused_before_it_is_sent(tmp_path, run_dir):
    async with BrokerClient(f"ipc://{run_dir}/front.sock") as client:
        with pytest.raises(ValueError, match="body of 524289 bytes"):
            await client.submit(a_job("job-1", body=bytes(codec.MAX_BODY + 1)))
        with pytest.raises(ValueError, match="job_id must be"):
            await client.submit(a_job("../job", body=b""))
        with pytest.raises(ValueError, match="<= 1000"):
            await client.list(limit=1001)


@in_loop
async def test_many_requests_at_once_get_their_own_answers(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        ids = [f"job-{number}" for number in range(1000)]
        answers = await asyncio.gather(*(client.submit(a_job(job_id, body=job_id.encode())) for job_id in ids))
        assert [(view.id, view.body) for view, _ in answers] == [(job_id, job_id.encode()) for job_id in ids]
        found = await asyncio.gather(*(client.get(job_id) for job_id in reversed(ids)))
        assert [view.id for view in found] == list(reversed(ids))


@in_loop
async def test_without_a_broker_requests_time_out(run_dir):
    async with BrokerClient(f"ipc://{run_dir}/front.sock", timeout_s=0.2) as client:
        with pytest.raises(errors.BrokerUnavailable, match=r"within 0\.2 s"):
            await client.get("job-1")


@in_loop
async def test_requests_wait_for_a_broker_to_appear(tmp_path, run_dir):
    async with BrokerClient(f"ipc://{run_dir}/front.sock") as client:
        waiting = asyncio.create_task(client.submit(a_job("job-1")))
        await asyncio.sleep(0.05)
        async with serving(tmp_path, run_dir):
            view, duplicate = await waiting
            assert (view.id, duplicate) == ("job-1", False)


@in_loop
async def test_a_request_under_way_survives_the_brokers_death(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await client.submit(a_job("job-1"))
        await service.kill()
        waiting = [
            asyncio.create_task(client.submit(a_job("job-2"))),
            asyncio.create_task(client.submit(a_job("job-1"))),
            asyncio.create_task(client.get("job-1")),
        ]
        await asyncio.sleep(0.1)
        await service.start()
        (new, duplicate), (old, again), found = await asyncio.gather(*waiting)
        assert (new.id, duplicate, old.id, again, found.id) == ("job-2", False, "job-1", True, "job-1")


@in_loop
async def test_a_caller_that_is_cancelled_leaves_nothing_behind(tmp_path, run_dir):
    async with BrokerClient(f"ipc://{run_dir}/front.sock") as client:
        calls = [asyncio.create_task(client.get(f"job-{number}")) for number in range(10)]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert not client._exchange._pending
        async with serving(tmp_path, run_dir):
            assert await client.get("job-1") is None


@in_loop
async def test_closing_ends_what_waits(run_dir):
    client = BrokerClient(f"ipc://{run_dir}/front.sock")
    with pytest.raises(errors.BrokerUnavailable, match="not started"):
        await client.get("job-1")
    await client.start()
    call = asyncio.create_task(client.get("job-1"))
    await asyncio.sleep(0.01)
    await client.close()
    await client.close()
    with pytest.raises(errors.BrokerUnavailable, match="closed"):
        await call


@in_loop
async def test_the_longest_id_is_found_and_ended_like_any_other(tmp_path, run_dir):
    """A client's 64 characters behind the tag of its tenant."""
    longest = "0123456789ab." + "x" * 64
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await client.submit(a_job(longest))
        await client.submit(a_job("behind"))
        assert (await client.get(longest)).id == longest
        assert [view.id for view in (await client.list(after=longest, newest_first=False))[0]] == ["behind"]
        assert (await client.cancel(longest))[0] == "cancelled"
        assert await client.forget([longest]) == (longest,)


@in_loop
async def test_answers_that_are_no_messages_are_dropped(run_dir):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{run_dir}/front.sock")
    try:
        async with BrokerClient(f"ipc://{run_dir}/front.sock") as client:
            call = asyncio.create_task(client.get("job-1"))
            await eventually(lambda: router.poll(0))
            peer, frame = router.recv_multipart()
            (asked,) = codec.from_edge(frame)
            other, answer = (codec.encode(m.JobReply(req=number, found=False)) for number in (asked.req + 7, asked.req))
            for junk in ([b"junk"], [], [b""], [b"a", b"b", b"c"], [answer, b"body"], [other]):
                router.send_multipart([peer, *junk])
            router.send_multipart([peer, answer])
            router.send_multipart([peer, answer])
            assert await call is None
            assert client.invalid_messages == 3
    finally:
        router.close(linger=0)
        context.term()


# ---------------------------------------------------------------- watching


class Watcher:
    """What a client was sent."""

    def __init__(self) -> None:
        self.events: list[m.JobView] = []
        self.gaps = 0

    def event(self, view: m.JobView) -> None:
        self.events.append(view)

    def gap(self) -> None:
        self.gaps += 1

    def states(self, job_id: str) -> list[str]:
        return [view.state for view in self.events if view.id == job_id]


@asynccontextmanager
async def watching(
    home: Path, run_dir: str, steps: bool = True
) -> AsyncIterator[tuple[Service, BrokerClient, Watcher]]:
    """A broker, and a client that watches it."""
    watcher = Watcher()
    async with (
        serving(home, run_dir) as service,
        connected(service, on_event=watcher.event, on_gap=watcher.gap) as client,
    ):
        await client.watch(steps=steps)
        yield service, client, watcher


@in_loop
async def test_events_tell_every_change_in_order(tmp_path, run_dir):
    async with watching(tmp_path, run_dir) as (service, client, watcher), agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        worker.start(run)
        await eventually(lambda: "running" in watcher.states("job-1"))
        worker.finish(run)
        await eventually(lambda: "succeeded" in watcher.states("job-1"))
        assert watcher.states("job-1")[-3:] == ["assigned", "running", "succeeded"]
        revisions = [view.revision for view in watcher.events]
        assert revisions == sorted(set(revisions))
        assert watcher.gaps == 0
        assert (await client.get("job-1")).result.seed == 7


@in_loop
async def test_forgotten_jobs_are_gone_and_watchers_hear_of_it(tmp_path, run_dir):
    watcher, gone = Watcher(), []
    async with (
        serving(tmp_path, run_dir) as service,
        connected(service, on_event=watcher.event, on_gap=watcher.gap, on_gone=gone.extend) as client,
        connected(service) as other,
    ):
        await client.watch()
        for job_id in ("job-1", "job-2"):
            await other.submit(a_job(job_id))
        await other.cancel("job-1")
        assert await other.forget(["job-1", "job-2", "nobody"]) == ("job-1",)
        assert await other.get("job-1") is None
        await eventually(lambda: gone == ["job-1"])
        await other.cancel("job-2")
        await eventually(lambda: watcher.states("job-2")[-1:] == ["cancelled"])
        assert watcher.gaps == 0


@in_loop
async def test_the_subscription_survives_a_restart_and_tells_the_gap(tmp_path, run_dir):
    async with watching(tmp_path, run_dir) as (service, client, watcher):
        await client.submit(a_job("job-1"))
        await client.cancel("job-1")
        await eventually(lambda: "cancelled" in watcher.states("job-1"))
        await service.restart()
        await eventually(lambda: watcher.gaps == 1)
        await client.submit(a_job("job-2"))
        await client.cancel("job-2")
        await eventually(lambda: "cancelled" in watcher.states("job-2"))
        assert watcher.gaps == 1


def test_what_is_followed_is_said_once_in_bounded_messages_and_again_after_a_gap():
    jobs = FollowedJobs()
    names = [f"job-{n:03}" for n in range(MAX_FOLLOW + 1)]
    for name in names:
        jobs.follow(name)
    first, second = jobs.unsent()
    assert ([*first.job_ids, *second.job_ids], first.on, second.on) == (names, True, True)
    jobs.note_sent(first)  # and the second could not be sent
    assert [*jobs.unsent()] == [second]
    jobs.note_sent(second)
    jobs.unfollow(names[0])
    jobs.follow(names[0])
    assert [*jobs.unsent()] == []
    jobs.unfollow(names[0])
    (end,) = jobs.unsent()
    assert end == m.Follow(job_ids=(names[0],), on=False)
    jobs.note_sent(end)
    jobs.renew()
    assert sorted(job_id for message in jobs.unsent() for job_id in message.job_ids) == names[1:]


@in_loop
async def test_steps_of_followed_jobs_are_told_over_a_restart_of_the_broker(tmp_path, run_dir):
    async with watching(tmp_path, run_dir, steps=False) as (service, client, watcher), agent(service) as worker:
        await worker.join()
        await client.submit(a_job("job-1"))
        run = await worker.receive(m.Run)
        worker.start(run)
        await eventually(lambda: "running" in watcher.states("job-1"))
        worker.start(run, step=1)
        await eventually(lambda: service.core.state.jobs["job-1"].step == 1)
        assert 1 not in [view.step for view in watcher.events]
        client.follow("job-1")
        await eventually(lambda: watcher.events[-1].step == 1)
        await service.restart()
        await worker.probed(2)
        held = m.Held(job_id="job-1", fence=run.fence, phase="denoise", step=2, total=9)
        await worker.hello(free=0, seen=run.fence, held=(held,))
        await eventually(lambda: watcher.events[-1].step == 2)
        worker.start(run, step=3)
        await eventually(lambda: watcher.events[-1].step == 3)
        client.unfollow("job-1")
        await eventually(lambda: not service.core.state.steps.followers)
        worker.start(run, step=4)
        await eventually(lambda: service.core.state.jobs["job-1"].step == 4)
        worker.finish(run)
        await eventually(lambda: "succeeded" in watcher.states("job-1"))
        assert 4 not in [view.step for view in watcher.events]


@in_loop
async def test_a_watcher_that_the_broker_dropped_is_taken_back_and_told_of_the_gap(tmp_path, run_dir):
    async with watching(tmp_path, run_dir) as (service, client, watcher):
        await client.submit(a_job("job-1"))
        await eventually(lambda: watcher.states("job-1"))
        for peer in [*service.core.state.watchers]:
            service.core.state.end_watch(peer)  # as after a full queue
        await client.cancel("job-1")
        await eventually(lambda: watcher.gaps == 1)
        await client.submit(a_job("job-2"))
        await eventually(lambda: watcher.states("job-2"))


@in_loop
async def test_a_subscription_that_timed_out_is_still_wanted(tmp_path, run_dir):
    watcher = Watcher()
    client = BrokerClient(f"ipc://{run_dir}/front.sock", timeout_s=0.1, on_event=watcher.event, on_gap=watcher.gap)
    async with client:
        with pytest.raises(errors.BrokerUnavailable):
            await client.watch()
        async with serving(tmp_path, run_dir):
            await eventually(lambda: watcher.gaps)
            client.timeout_s = 10.0
            await client.submit(a_job("job-1"))
            await eventually(lambda: watcher.states("job-1"))


@in_loop
async def test_a_callback_that_fails_does_not_deafen_the_client(tmp_path, run_dir):
    seen: list[str] = []

    def fail(view: m.JobView) -> None:
        seen.append(view.id)
        raise RuntimeError("the caller's bug")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with serving(tmp_path, run_dir) as service, connected(service, on_event=fail) as client:
        await client.watch()
        for number in range(20):
            await client.submit(a_job(f"job-{number}"))
        await eventually(lambda: len(seen) == 20)
        assert len(reported) == 20


def test_a_callback_that_fails_over_one_job_is_called_with_the_others_of_the_event():
    seen: list[str] = []

    def fail_over_the_first(view: m.JobView) -> None:
        seen.append(view.id)
        if view.id == "job-1":
            raise RuntimeError("the caller's bug")

    updates = [
        m.JobUpdate(id=f"job-{n}", state="queued", submission=m.Submission(model="demo"), revision=n) for n in (1, 2)
    ]
    stream = EventStream(fail_over_the_first, None, None)
    with pytest.raises(RuntimeError, match="the caller's bug"):
        stream.take(m.Event(seq=1, body=codec.encode_body(updates)))
    assert seen == ["job-1", "job-2"]


@in_loop
async def test_an_idle_client_sleeps(tmp_path, run_dir):
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        await client.get("nobody")
        await eventually(lambda: client._exchange._ticker is None)
