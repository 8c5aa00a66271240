"""A spare engine beside a real agent: it takes over, and it never outlives its agent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from broker.wire import messages as m
from tests.sockets.broker_side import BrokerSide
from tests.sockets.workers_side import POLICY, Agent, agent, all_gone, config, gone
from tests.support.waiting import wait_until

SPARE = structs.replace(POLICY, spare_engine=True)


def spares(worker: Agent) -> list[int]:
    """Process ids of children that wait to be an engine."""
    worker.listen()
    found = []
    for child in psutil.Process(worker.process.pid).children():
        with_spare = False
        try:
            with_spare = "--spare" in child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if with_spare and child.pid not in worker.engine_pids:
            found.append(child.pid)
    return found


def the_spare(worker: Agent) -> int:
    [pid] = wait_until(lambda: spares(worker), what="a spare engine")
    return pid


def test_it_takes_the_place_of_a_killed_engine_and_another_takes_its(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, policy=SPARE)) as worker:
        broker.registered()
        spare = the_spare(worker)
        descriptors = psutil.Process(worker.process.pid).num_fds()
        for life in (1, 2):
            os.kill(worker.engine_pid(life), signal.SIGKILL)
            assert worker.engine_pid(life + 1) == spare
            worker.loaded(life + 1)
            broker.run("cpu-0", life, "finish")
            broker.acknowledge(broker.expect(m.Finished), "cpu-0")
            spare = the_spare(worker)
        assert psutil.Process(worker.process.pid).num_fds() == descriptors


def test_what_an_engine_leaves_behind_is_killed_and_the_spare_is_not(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, policy=SPARE)) as worker:
        broker.registered()
        spare = the_spare(worker)
        fence = broker.run("cpu-0", 1, "daemon")
        file = home / "artefacts" / "j1" / str(fence) / "pid"
        wait_until(file.exists, what="a process left behind")
        left = int(file.read_text())
        os.kill(worker.engine_pid(), signal.SIGKILL)
        assert worker.engine_pid(2) == spare
        all_gone([left])
        assert not gone(spare)


def test_one_that_ends_is_not_replaced_before_the_next_engine_is_ready(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, policy=SPARE)) as worker:
        broker.registered()
        spare = the_spare(worker)
        os.kill(spare, signal.SIGKILL)
        log = home / "agent.log"
        wait_until(lambda: "spare_ended" in log.read_text(), what="the end of the spare")
        broker.run("cpu-0", 1, "finish")
        broker.acknowledge(broker.expect(m.Finished), "cpu-0")
        assert spares(worker) == []
        os.kill(worker.engine_pid(), signal.SIGKILL)
        assert worker.engine_pid(2) != spare
        the_spare(worker)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_agent(number: int, home: Path, broker: BrokerSide) -> None:
    with agent(config(home, policy=SPARE)) as worker:
        broker.registered()
        both = [worker.engine_pid(), the_spare(worker)]
        os.kill(worker.process.pid, number)
        worker.ended()
        all_gone(both)


def test_without_the_setting_there_is_none(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        broker.run("cpu-0", 1, "finish")
        broker.acknowledge(broker.expect(m.Finished), "cpu-0")
        assert [child.pid for child in psutil.Process(worker.process.pid).children()] == [worker.engine_pid()]
