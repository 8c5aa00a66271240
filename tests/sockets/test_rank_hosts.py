"""A group over two machines, here two addresses of one: real agents and rank hosts with scripted engines, over tcp with keys."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import zmq
from msgspec import structs

from bench.harness.process import Process, clean_environ, free_port
from broker.runtime.curve_keys import read_peer_key
from broker.wire import messages as m
from tests.sockets.broker_side import BrokerSide
from tests.sockets.conftest import Sockets
from tests.sockets.workers_side import POLICY, Agent, agent, all_gone, config
from tests.support.waiting import wait_until
from tests.support.worker_key import make_worker_key
from workers.agent import machines
from workers.agent.errors import AddressError
from workers.machines.messages import PROTOCOL, Join, encode
from workers.rank.cli import main
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_SETTINGS
from workers.supervisor.messages import AgentConfig

WAITS = "waiting for 1 of 2 machines"
HERE = socket.gethostname()


class RankHost:
    """A rank host's process."""

    def __init__(self, home: Path, leader: str, name: str, *more: str, curve: str = "curve", **env: str) -> None:
        (home / name).mkdir(exist_ok=True)
        self.process = Process(
            "tests.sockets.rank_host",
            *("--leader", leader, "--gpus", "cpu:1", "--home", str(home / name), "--curve-dir", str(home / curve)),
            *more,
            log=home / name / "log",
            environ=clean_environ(**env),
        )

    def engines(self) -> list[int]:
        """Process ids of its engine processes."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return sorted(one.pid for one in children if "tests.sockets.scripted_engine" in one.cmdline())
        return []

    def engine(self, besides: int = 0) -> int:
        """Process id of its only one, once there is it and not that of before."""
        found = wait_until(lambda: (ids := self.engines()) and len(ids) == 1 and ids[0] != besides and ids)
        return found[0]

    def says(self, text: str) -> None:
        wait_until(lambda: text in self.process.logged(), what=text)


class Pair:
    """Leader and rank hosts of one test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.endpoint = f"tcp://127.0.0.2:{free_port()}"
        make_worker_key(home / "curve")
        self.hosts: list[RankHost] = []

    def config(self, **changes: object) -> AgentConfig:
        ours = {"machines": 2, "rank_endpoint": self.endpoint, "rank_key_file": str(self.home / "curve/worker.key")}
        return config(self.home, **{**ours, **changes})

    def host(self, name: str = "b", *more: str, curve: str = "curve", **env: str) -> RankHost:
        self.hosts.append(RankHost(self.home, self.endpoint, name, *more, curve=curve, **env))
        return self.hosts[-1]


@pytest.fixture
def pair(home: Path) -> Iterator[Pair]:
    made = Pair(home)
    yield made
    for one in made.hosts:
        left = one.engines()
        one.process.end()
        all_gone(left)


def waits(broker: BrokerSide) -> bool:
    """Whether the worker says that it waits for a machine, and takes no job."""
    beat = broker.beat("cpu-0")
    return beat is not None and beat.loading is not None and beat.loading.error == WAITS and not beat.free


def began(broker: BrokerSide) -> None:
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held and beat.held[0].step == 1, what="the first step")


def ready(broker: BrokerSide, worker: Agent, lives: int = 1) -> None:
    worker.loaded(lives)
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.free == 1, what="a free worker")


def draws(broker: BrokerSide, number: int) -> None:
    broker.run("cpu-0", number, "finish")
    broker.acknowledge(broker.expect(m.Finished), "cpu-0")


def test_a_group_starts_once_its_other_machine_is_there_and_is_drained_with_it(pair: Pair, broker: BrokerSide) -> None:
    with agent(pair.config()) as worker:
        wait_until(lambda: waits(broker), what=WAITS)
        assert WAITS in worker.process.logged()
        assert worker.engine_pids == []
        late = pair.host()
        ready(broker, worker)
        assert broker.infos["cpu-0"].gpus == 2
        ours, theirs = (psutil.Process(pid).environ() for pid in (worker.engine_pid(), late.engine()))
        assert [(one["RANK"], one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in (ours, theirs)] == [
            ("0", "2", "1"),
            ("1", "2", "1"),
        ]
        assert ours["MASTER_ADDR"] == theirs["MASTER_ADDR"] == "127.0.0.2"
        assert ours["MASTER_PORT"] == theirs["MASTER_PORT"]
        assert ours["GLOO_SOCKET_IFNAME"] == theirs["GLOO_SOCKET_IFNAME"] == "lo"
        draws(broker, 1)
        beat = wait_until(lambda: (one := broker.beat("cpu-0")) and one.memory_used_mb and one)
        # The memory of both, of both machines' (which are one here).
        assert beat.memory_total_mb == pytest.approx(2 * psutil.virtual_memory().total / 2**20)
        left = [worker.engine_pid(), late.engine()]
        broker.send("cpu-0", m.Drain())
        assert worker.ended() == EXIT_LEFT
        assert late.process.wait(60) == EXIT_LEFT
        all_gone(left)


def test_the_end_of_a_process_elsewhere_is_the_end_of_all(pair: Pair, broker: BrokerSide) -> None:
    other = pair.host()
    with agent(pair.config()) as worker:
        ready(broker, worker)
        broker.run("cpu-0", 1, "wait")
        began(broker)
        ours, theirs = worker.engine_pid(), other.engine()
        os.kill(theirs, signal.SIGKILL)
        failed = broker.expect(m.Failed)
        assert failed.kind == "engine_crashed"
        assert failed.message == f"the engine ended in denoise, step 1 of 4: rank 1 of 2 ({HERE}): killed by SIGKILL"
        broker.acknowledge(failed, "cpu-0")
        all_gone([ours, theirs])
        ready(broker, worker, 2)
        draws(broker, 2)
        # And the other way round.
        theirs = other.engine()
        os.kill(worker.engine_pid(2), signal.SIGKILL)
        ready(broker, worker, 3)
        all_gone([theirs])
        draws(broker, 3)


def test_one_that_cannot_load_is_named_with_its_machine(pair: Pair, broker: BrokerSide) -> None:
    pair.host(ENGINE_LOAD="fail_1")
    with agent(pair.config(), ENGINE_LOAD="fail_1") as worker:
        wait_until(lambda: worker.listen() or worker.troubles, what="the report of the load")
        assert worker.troubles[0] == f"model 'demo' cannot be loaded: rank 1 of 2 ({HERE}): there are no weights"


def test_a_rank_host_that_is_killed_takes_its_engine_along_and_its_successor_goes_on(
    pair: Pair, broker: BrokerSide
) -> None:
    other = pair.host()
    with agent(pair.config()) as worker:
        ready(broker, worker)
        broker.run("cpu-0", 1, "wait")
        began(broker)
        ours, theirs = worker.engine_pid(), other.engine()
        other.process.kill()
        all_gone([theirs])
        returned = broker.expect(m.Refused)
        assert returned.age_s >= 0, "it was taken: a loss"
        assert returned.reason == f"{HERE} is gone: its connection is gone"
        all_gone([ours])
        wait_until(lambda: waits(broker), what=WAITS)
        assert worker.troubles == []
        pair.host("c")
        ready(broker, worker, 2)
        draws(broker, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_leader_that_ends_leaves_nothing_running_and_finds_its_machines_again(
    pair: Pair, broker: BrokerSide, number: signal.Signals
) -> None:
    other = pair.host()
    with agent(pair.config()) as worker:
        ready(broker, worker)
        left = [worker.engine_pid(), other.engine()]
        worker.process.send_signal(number)
        worker.ended()
        all_gone(left)
        assert other.process.poll() is None
    with agent(pair.config()) as worker:
        ready(broker, worker)
        assert other.engine() not in left
        draws(broker, 1)


def test_a_machine_that_hangs_is_given_up_and_ends_what_it_had_when_it_goes_on(pair: Pair, broker: BrokerSide) -> None:
    other = pair.host()
    with agent(pair.config()) as worker:
        ready(broker, worker)
        theirs = other.engine()
        broker.run("cpu-0", 1, "wait")
        began(broker)
        other.process.send_signal(signal.SIGSTOP)
        returned = broker.expect(m.Refused)
        assert (returned.age_s >= 0, returned.reason) == (True, f"{HERE} is gone: no message for 6 s")
        other.process.send_signal(signal.SIGCONT)
        all_gone([theirs])
        ready(broker, worker, 2)
        assert other.engine(besides=theirs)
        draws(broker, 2)


def test_one_too_many_gets_no_place_and_one_with_another_number_of_gpus_ends(pair: Pair, broker: BrokerSide) -> None:
    with agent(pair.config()) as worker:
        wait_until(lambda: waits(broker), what=WAITS)
        other_count = pair.host("c", "--gpus", "cpu:3")
        assert other_count.process.wait(60) == EXIT_SETTINGS
        assert f"{HERE} has 3 GPUs for the group and its leader 1; all its machines have as many" in (
            other_count.process.logged()
        )
        pair.host("b")
        ready(broker, worker)
        too_many = pair.host("d")
        too_many.says("no place in the group: all 2 machines of the group are there")
        assert too_many.engines() == []
        draws(broker, 1)


@pytest.mark.parametrize("knows", ["nothing", "the public key"])
def test_one_without_the_key_stays_out(pair: Pair, broker: BrokerSide, sockets: Sockets, knows: str) -> None:
    """Of a key, another is as good as none; who knows the public part is refused by name."""
    make_worker_key(pair.home / "other")
    stranger = sockets(zmq.DEALER)
    if knows == "the public key":
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = read_peer_key(pair.home / "curve/worker.key", "worker").public.encode()
    stranger.connect(pair.endpoint)
    stranger.send(encode(Join(protocol=PROTOCOL, boot="x", host="stranger", ranks=1)))
    other = pair.host("c", curve="other") if knows == "nothing" else None
    with agent(pair.config()) as worker:
        wait_until(lambda: waits(broker), what=WAITS)
        reason = (
            "it has another key than this leader" if other is None else "it has no key, or takes this leader for one"
        )
        wait_until(lambda: reason in worker.process.logged(), what="the refusal")
        if other is not None:
            other.says(
                f"what listens at {pair.endpoint} has another key; all machines of a group have the same worker.key"
            )
        pair.host("b")
        ready(broker, worker)
        assert "stranger" not in worker.process.logged()
        assert not stranger.poll(0)
        assert other is None or (other.engines() == [] and other.process.poll() is None)


def test_a_spare_group_spans_the_machines_too(pair: Pair, broker: BrokerSide) -> None:
    other = pair.host()
    with agent(pair.config(policy=structs.replace(POLICY, spare_engine=True))) as worker:
        ready(broker, worker)
        both = wait_until(lambda: (ids := other.engines()) and len(ids) == 2 and ids, what="a spare engine")
        theirs = next(pid for pid in both if "--spare" not in psutil.Process(pid).cmdline())
        [spare] = [pid for pid in both if pid != theirs]
        os.kill(worker.engine_pid(), signal.SIGKILL)
        ready(broker, worker, 2)
        all_gone([theirs])
        assert spare in other.engines()
        draws(broker, 1)


def test_a_rank_host_that_is_stopped_hands_its_place_back_at_once(pair: Pair, broker: BrokerSide) -> None:
    other = pair.host()
    with agent(pair.config()) as worker:
        ready(broker, worker)
        theirs = other.engine()
        assert other.process.stop() == EXIT_LEFT
        all_gone([theirs])
        wait_until(lambda: waits(broker), what=WAITS)
        worker.listen()
        assert worker.troubles == []


@pytest.mark.parametrize(
    ("leader", "reason"),
    [("tcp://leader.invalid:29400", "the name in {} has no address yet"), ("", "nothing listens at {} yet")],
)
def test_a_leader_that_is_not_there_yet_is_waited_for(pair: Pair, leader: str, reason: str) -> None:
    pair.endpoint = leader or pair.endpoint
    other = pair.host()
    other.says(f"no answer of the leader: {reason.format(pair.endpoint)}")
    assert other.process.poll() is None
    assert other.process.stop(60) == EXIT_LEFT


def test_a_leader_whose_own_address_is_not_there_is_started_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machines, "_ADDRESS_S", 0.1)
    monkeypatch.setattr(machines, "_ADDRESS_LOOK_S", 0.01)
    with pytest.raises(AddressError, match=r"rank_endpoint: '198\.51\.100\.1' is no address of this machine"):
        machines.Machines(pair.config(rank_endpoint="tcp://198.51.100.1:29400"))
    assert [record.message for record in caplog.records if "waiting for an address" in record.message] != []


@pytest.mark.parametrize("order", ["wait", "deaf"])
def test_a_rank_host_that_is_stopped_has_its_job_handed_back_within_its_grace(
    pair: Pair, broker: BrokerSide, order: str
) -> None:
    """One that cannot be parked goes back when the grace is over."""
    other = pair.host("b", "--stop-grace-s", "60" if order == "wait" else "1")
    with agent(pair.config()) as worker:
        ready(broker, worker)
        theirs = other.engine()
        broker.run("cpu-0", 1, order)
        began(broker)
        other.process.send_signal(signal.SIGTERM)
        returned = broker.expect(m.Refused)
        before = broker.history[: broker.history.index(returned)]
        assert any(isinstance(one, m.Heartbeat) and one.draining for one in before), "no loss: known before it is back"
        if order == "wait":
            assert returned.reason == f"{HERE} is being stopped: stopped by SIGTERM"
        assert other.process.wait(60) == EXIT_LEFT
        all_gone([theirs])
        wait_until(lambda: waits(broker), what=WAITS)
        pair.host("c")
        ready(broker, worker, 2)
        wait_until(lambda: (beat := broker.beat("cpu-0")) and not beat.draining, what="a worker that stays")
        draws(broker, 2)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "leader: none is given; write rank_endpoint of the machine that leads: tcp://10.0.0.1:29400"),
        (("--leader", "ipc:///x"), "leader: 'ipc:///x' must be tcp://ADDRESS:PORT"),
        (("--leader", "tcp://127.0.0.1:1", "--gpus", "cpu:2/1"), "gpus: 'cpu:2/1' makes 2 groups"),
        (("--leader", "tcp://127.0.0.1:1", "--gpus", "cpu"), "leader: 'tcp://127.0.0.1:1' needs a CURVE key"),
    ],
)
def test_a_wrong_option_is_told(
    argv: tuple[str, ...], sentence: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--home", str(home)], {}) == EXIT_SETTINGS
    assert f"workers.rank: {sentence}" in capsys.readouterr().err
