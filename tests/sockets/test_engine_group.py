"""A group of engine processes under a real agent: one job for all, and the end of one is the end of all."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from broker.wire import messages as m
from tests.sockets.broker_side import BrokerSide
from tests.sockets.workers_side import POLICY, Agent, agent, all_gone, config, gone
from tests.support.waiting import wait_until

TWO = ("", "")


def ranks(worker: Agent, life: int = 1) -> tuple[int, ...]:
    """Process ids of the group in its `life`-th life."""
    worker.engine_pid(life)
    return worker.rank_pids[life - 1]


def began(broker: BrokerSide) -> None:
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held and beat.held[0].step == 1, what="the first step")


def test_a_group_draws_and_the_end_of_one_rank_is_the_end_of_all(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, visible=TWO)) as worker:
        broker.registered()
        assert broker.infos["cpu-0"].gpus == 2
        pids = ranks(worker)
        environs = [psutil.Process(pid).environ() for pid in pids]
        assert [environ["RANK"] for environ in environs] == ["0", "1"]
        assert environs[0]["MASTER_PORT"] == environs[1]["MASTER_PORT"]
        broker.run("cpu-0", 1, "wait")
        began(broker)
        os.kill(pids[1], signal.SIGKILL)
        failed = broker.expect(m.Failed)
        assert failed.kind == "engine_crashed"
        assert failed.message == "the engine ended in denoise, step 1 of 4: rank 1 of 2: killed by SIGKILL"
        broker.acknowledge(failed, "cpu-0")
        all_gone([*pids])
        assert not set(ranks(worker, 2)) & set(pids)
        worker.loaded(2)
        broker.run("cpu-0", 2, "finish")
        broker.expect(m.Finished)


def test_a_follower_that_cannot_load_is_named(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, visible=TWO), ENGINE_LOAD="fail_1") as worker:
        wait_until(lambda: worker.listen() or worker.troubles, what="the report of the load")
        assert worker.troubles[0] == "model 'demo' cannot be loaded: rank 1 of 2: there are no weights"
        all_gone([*ranks(worker)])


def test_all_ranks_end_with_their_agent(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, visible=TWO)) as worker:
        broker.registered()
        pids = ranks(worker)
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.ended()
        all_gone([*pids])


def test_a_spare_group_takes_the_place_of_the_group(home: Path, broker: BrokerSide) -> None:
    policy = structs.replace(POLICY, spare_engine=True)
    with agent(config(home, visible=TWO, policy=policy)) as worker:
        broker.registered()

        def spares() -> list[int]:
            worker.listen()
            children = psutil.Process(worker.process.pid).children()
            return sorted(child.pid for child in children if child.pid not in worker.rank_pids[0])

        waiting = wait_until(lambda: (found := spares()) and len(found) == 2 and found, what="a spare group")
        # However long it waits, nobody takes the port at which its ranks will meet.
        port = int(psutil.Process(waiting[0]).environ()["MASTER_PORT"])
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", port))
        os.kill(ranks(worker)[1], signal.SIGKILL)
        assert sorted(ranks(worker, 2)) == waiting
        worker.loaded(2)
        broker.run("cpu-0", 1, "finish")
        broker.expect(m.Finished)
        assert not any(gone(pid) for pid in waiting)
