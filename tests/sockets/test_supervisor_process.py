"""A real supervisor over real agents: what it restarts, what it lets go, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.harness.process import Process, clean_environ
from broker.wire import messages as m
from tests.sockets.broker_side import BrokerSide, broker_side
from tests.sockets.workers_side import all_gone, descendants, gone
from tests.support.waiting import wait_until
from workers import cli
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_NO_MODEL, EXIT_UNWANTED

NAMES = ["cpu-0", "cpu-1"]


class Supervised(Process):
    def __init__(self, home: Path, count: int, *before: str, **env: str) -> None:
        """`before`: a command that becomes the supervisor, whose own command is appended."""
        environ = clean_environ(**env)
        arguments = ["tests.sockets.supervise", str(home), str(count)]
        super().__init__(*arguments, log=home / "log", environ=environ, before=before, group=False)


@pytest.fixture
def supervised(home: Path, broker: BrokerSide) -> Iterator[Supervised]:
    workers = Supervised(home, 2)
    try:
        broker.registered(2)
        yield workers
    finally:
        workers.end()


def test_sigterm_lets_everybody_say_goodbye_and_leaves_nothing(supervised: Supervised, broker: BrokerSide) -> None:
    pids = descendants(supervised.pid)
    assert len(pids) == 4  # two agents, two engines
    broker.run("cpu-0", 1, "deaf")
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held, what="a heartbeat with the attempt")
    supervised.terminate()
    for name in NAMES:
        broker.expect(m.Goodbye, name)
    assert supervised.wait(60) == EXIT_LEFT
    assert all(gone(pid) for pid in pids)


def test_a_killed_agent_is_replaced_and_its_engine_does_not_stay(supervised: Supervised, broker: BrokerSide) -> None:
    first = broker.infos["cpu-0"].pid
    engine = descendants(first)
    os.kill(first, signal.SIGKILL)
    all_gone([first, *engine])
    wait_until(lambda: broker.pump() or broker.infos["cpu-0"].pid != first, what="a new agent")
    boots = {hello.boot for hello in broker.hellos if hello.name == "cpu-0"}
    assert len(boots) == 2
    broker.registered(2)
    broker.run("cpu-0", 7, "finish")
    broker.expect(m.Finished, "cpu-0")
    assert "killed by SIGKILL" in supervised.logged()


def pid_in(file: Path) -> psutil.Process:
    return psutil.Process(int(wait_until(lambda: file.exists() and file.read_text(), what=str(file))))


def test_what_an_engine_left_behind_ends_with_agent_and_engine(
    supervised: Supervised, broker: BrokerSide, home: Path
) -> None:
    fence = broker.run("cpu-0", 1, "daemon")
    left = pid_in(home / f"artefacts/j1/{fence}/pid")
    agent = broker.infos["cpu-0"].pid
    wait_until(lambda: left.ppid() == agent, what="the agent to adopt it")

    def others() -> list[int]:
        return [pid for pid in descendants(agent) if pid != left.pid]

    # The process between it and the engine may be there for a moment yet.
    wait_until(lambda: len(others()) == 1, what="the engine alone beside it")
    (engine,) = others()
    supervised.send_signal(signal.SIGSTOP)
    os.kill(agent, signal.SIGKILL)
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: left.ppid() == supervised.pid, what="the supervisor to adopt it")
    supervised.send_signal(signal.SIGCONT)
    all_gone([left.pid])
    wait_until(lambda: broker.pump() or broker.infos["cpu-0"].pid != agent, what="a new agent")


def test_what_others_started_in_the_same_process_is_not_killed(home: Path) -> None:
    """Children from before it became the supervisor, and one that it adopts when its parent ends."""
    before = f"""sleep 600 & echo $! > {home}/child
        sh -c 'until test -e {home}/go; do sleep 0.05; done; sleep 600 & echo $! > {home}/orphan' &
        exec "$@" """
    with broker_side(f"ipc://{home}/back.sock") as broker:
        workers = Supervised(home, 1, "sh", "-c", before, "sh")
        others = []
        try:
            broker.registered(1)
            others.append(pid_in(home / "child"))
            (home / "go").touch()
            others.append(pid_in(home / "orphan"))
            wait_until(lambda: others[-1].ppid() == workers.pid, what="the supervisor to adopt it")
            agent = broker.infos["cpu-0"].pid
            os.kill(agent, signal.SIGKILL)
            wait_until(lambda: broker.pump() or broker.infos["cpu-0"].pid != agent, what="a new agent")
            workers.terminate()
            assert workers.wait(60) == EXIT_LEFT
            assert all(other.is_running() for other in others)
        finally:
            workers.end()
            for other in others:
                other.kill()


def test_a_stuck_agent_is_killed_with_its_engine_when_the_time_is_up(
    supervised: Supervised, broker: BrokerSide
) -> None:
    pids = descendants(supervised.pid)
    os.kill(broker.infos["cpu-0"].pid, signal.SIGSTOP)
    supervised.terminate()
    assert supervised.wait(60) == EXIT_LEFT
    all_gone(pids)


def test_without_the_supervisor_all_leave(supervised: Supervised, broker: BrokerSide) -> None:
    pids = descendants(supervised.pid)
    supervised.kill()
    for name in NAMES:
        assert broker.expect(m.Goodbye, name).reason == "the supervisor is gone"
    all_gone(pids)


def test_drained_workers_are_not_started_again(supervised: Supervised, broker: BrokerSide) -> None:
    broker.send("cpu-0", m.Drain())
    broker.expect(m.Goodbye, "cpu-0")
    broker.run("cpu-1", 1, "finish")
    result = broker.expect(m.Finished, "cpu-1")
    broker.acknowledge(result, "cpu-1")
    broker.send("cpu-1", m.Drain())
    broker.expect(m.Goodbye, "cpu-1")
    assert supervised.wait(60) == EXIT_LEFT


def test_a_drained_worker_is_started_again_on_a_signal(supervised: Supervised, broker: BrokerSide) -> None:
    before = broker.peers["cpu-0"]
    broker.send("cpu-0", m.Drain())
    broker.expect(m.Goodbye, "cpu-0")

    def is_back() -> bool:
        # Until it has ended, the signal finds nothing to start.
        supervised.send_signal(signal.SIGUSR1)
        broker.pump()
        return broker.peers["cpu-0"] != before

    wait_until(is_back, 60, "cpu-0 again")


def test_workers_that_the_broker_refuses_end_the_supervisor(supervised: Supervised, broker: BrokerSide) -> None:
    for name in NAMES:
        broker.send(name, m.WorkerRejected(reason="its name is not its key's"))
    assert supervised.wait(60) == EXIT_UNWANTED


def test_a_worker_that_must_start_anew_comes_back(supervised: Supervised, broker: BrokerSide) -> None:
    before = broker.peers["cpu-0"]
    broker.send("cpu-0", m.WorkerRejected(reason="another journal", remedy="anew"))

    def is_back() -> bool:
        broker.pump()
        return broker.peers["cpu-0"] != before

    wait_until(is_back, 60, "cpu-0 anew")


@pytest.mark.parametrize(("load", "words"), [("fail", "there are no weights"), ("die", "exit code 43")])
def test_a_model_that_no_worker_can_load_ends_the_supervisor_with_the_reason(load: str, words: str, home: Path) -> None:
    workers = Supervised(home, 2, ENGINE_LOAD=load)
    try:
        assert workers.wait(60) == EXIT_NO_MODEL
    finally:
        workers.end()
    last = workers.logged().splitlines()[-1]
    assert last.startswith("no worker can load its model: ")
    assert words in last


def test_the_command_line_with_the_fake_model(home: Path) -> None:
    """`python -m workers` as people start it."""
    (home / "run").mkdir(mode=0o700)
    command = ["workers", "--gpus", "cpu:2", "--model", "fake", "--home", str(home)]
    with broker_side(f"ipc://{home}/run/back.sock") as broker:
        process = Process(*command, log=home / "log")
        try:
            broker.registered(2, deadline_s=60.0)
            assert [card.name for card in broker.infos["cpu-1"].models] == ["fake"]
            pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == EXIT_LEFT
            all_gone(pids)
        finally:
            process.end()


def test_the_command_line_prints_why_no_model_loads(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = home / "zoetrope.toml"
    config.write_text('[models.broken]\nengine = "fake"\npath = "load_fail"\n')
    assert cli.main(["--gpus", "cpu", "--home", str(home), "--config", str(config)]) == EXIT_NO_MODEL
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("workers: no worker can load its model: model 'broken'")
