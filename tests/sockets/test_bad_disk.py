"""A broker over a disk that is slow, or that fails: nothing is lost, and nothing is confirmed that is not there."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest

from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.testing import FakeAgent
from broker.wire import messages as m
from tests.support.faulty import Faults, faults_or_skip
from tests.support.waiting import eventually
from tests.testing.brokers import Brokers
from tests.testing.in_process import a_job, in_loop


@pytest.fixture
def faults(tmp_path, monkeypatch) -> Faults:
    faults = faults_or_skip(tmp_path, path="jobs.sqlite")
    for name, value in faults.environ.items():
        monkeypatch.setitem(os.environ, name, value)
    return faults


@pytest.fixture
def processes(tmp_path, run_dir, faults):
    home = tmp_path / "home"
    home.mkdir()
    made = Brokers(home, run_dir)
    yield made
    made.close()


@in_loop
async def test_a_disk_that_takes_long_for_every_flush_loses_no_job_and_no_worker(processes, faults):
    """Commits of a fifth of a second, in all longer than a lease, and one flush that is longer than a lease itself."""
    processes.serve("--heartbeat-s", "0.1", "--suspect-after-s", "2", "--lost-after-s", "3")
    faults.set(slow_ms=200)
    agent = FakeAgent(processes.back)
    try:
        # The log may be moved into the file just then, which takes three flushes more.
        async with BrokerClient(processes.front, timeout_s=60.0) as client:
            await agent.join()
            working = asyncio.create_task(work(agent))
            ids = [f"job-{n}" for n in range(12)]
            await asyncio.gather(*(client.submit(a_job(job_id)) for job_id in ids))
            await acknowledged(agent, len(ids))
            faults.set(slow_ms=4000)
            await client.submit(a_job("job-12"))
            faults.set(slow_ms=0)
            await acknowledged(agent, len(ids) + 1)
            found = await asyncio.gather(*(client.get(job_id) for job_id in [*ids, "job-12"]))
            assert {(view.state, view.losses) for view in found} == {("succeeded", 0)}
            # A worker that is thought lost is asked who it is.
            assert agent.all(m.Identify) == []
            assert [worker.name for worker in (await client.worker_requests.pool()).workers] == [agent.name]
            working.cancel()
    finally:
        agent.close()


@in_loop
async def test_a_broker_that_was_stopped_for_longer_than_a_lease_loses_no_worker(processes):
    """As under SIGSTOP, or when the machine itself stood still: what workers said meanwhile still waits to be read."""
    broker = processes.serve("--heartbeat-s", "0.1", "--suspect-after-s", "2", "--lost-after-s", "3")
    agent = FakeAgent(processes.back)
    try:
        async with BrokerClient(processes.front) as client:
            await agent.join()
            await client.submit(a_job("held"))
            run = await agent.receive(m.Run)
            beating = asyncio.create_task(work(agent, finishes=False))
            await eventually(lambda: len(agent.all(m.HeartbeatAck)) > 2)
            broker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(5)
            broker.send_signal(signal.SIGCONT)
            before = len(agent.all(m.HeartbeatAck))
            await eventually(lambda: len(agent.all(m.HeartbeatAck)) > before + 10)
            beating.cancel()
            agent.finish(run)
            await acknowledged(agent, 1)
            assert ((await client.get("held")).state, (await client.get("held")).losses) == ("succeeded", 0)
            assert agent.all(m.Identify) == []
    finally:
        agent.close()


async def acknowledged(agent: FakeAgent, count: int) -> None:
    await eventually(lambda: len({ack.job_id for ack in agent.all(m.ResultAck)}) == count, 60, f"{count} results")


async def work(agent: FakeAgent, *, finishes: bool = True) -> None:
    """Start what comes, finish it or not, and beat, as an agent does."""
    seen = 0
    while True:
        done = {ack.fence for ack in agent.all(m.ResultAck)}
        held = [run for run in agent.all(m.Run) if run.fence not in done]
        for run in held:
            if run.fence > seen:
                seen = run.fence
                if finishes:
                    agent.finish(run)
        phase = "finished" if finishes else "denoise"
        named = tuple(m.Held(job_id=run.job_id, fence=run.fence, phase=phase) for run in held)
        agent.say(m.Heartbeat(seen=seen, free=int(not held), held=named, model="demo"))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", ["sync_errno", "write_errno"])
@in_loop
async def test_a_disk_that_fails_ends_the_broker_before_it_confirms_anything(processes, faults, fault):
    broker = processes.serve()
    async with BrokerClient(processes.front, timeout_s=2.0) as client:
        kept = [f"kept-{n}" for n in range(5)]
        for job_id in kept:
            await client.submit(a_job(job_id))
        faults.set(**{fault: errno.EIO})
        with pytest.raises(BrokerError):
            await client.submit(a_job("unsure"))
        code = await eventually(broker.poll)
        assert code == 4
        assert faults.failed >= 1
        last = broker.logged().splitlines()[-1]
        assert last.startswith("broker: the journal")
        assert "Traceback" not in broker.logged()
        faults.set(**{fault: 0})
        processes.serve()
        found = {view.id: view.state for view in (await client.list())[0]}
        assert {job_id: found.get(job_id) for job_id in kept} == dict.fromkeys(kept, "queued")
        assert set(found) <= {*kept, "unsure"}
        view, _ = await client.submit(a_job("unsure"))
        assert view.state == "queued"


@in_loop
async def test_setting_the_wall_clock_leaves_leases_and_deadlines_alone(processes, faults):
    processes.serve()
    agent = FakeAgent(processes.back)
    try:
        async with BrokerClient(processes.front) as client:
            await agent.join()
            await client.submit(a_job("held", deadline_s=600.0))
            run = await agent.receive(m.Run)
            agent.start(run)
            await client.submit(a_job("waits", deadline_s=600.0))
            before = (await client.worker_requests.pool()).now
            for hours in (1, -1, 240, 0):
                faults.set(ahead_ms=hours * 3_600_000)
                await told_within(client, before + hours * 3600.0)
                agent.say(m.Heartbeat(seen=0, free=0, held=(m.Held(job_id="held", fence=run.fence),), model="demo"))
                view, _ = await client.submit(a_job(f"new-{hours}", deadline_s=600.0))
                assert view.deadline_at - view.submitted_at == pytest.approx(600.0)
            assert ((await client.get("held")).state, (await client.get("waits")).state) == ("running", "queued")
            pool = await client.worker_requests.pool()
            assert [worker.state for worker in pool.workers] == ["busy"]
            assert [round(step.by_s / 3600) for step in pool.clock_steps] == [1, -2, 241, -240]
            assert pool.settling_s > 500
    finally:
        agent.close()


async def told_within(client: BrokerClient, now: float) -> None:
    for _ in range(1200):
        if abs((await client.worker_requests.pool()).now - now) < 60:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the broker does not follow the clock")
