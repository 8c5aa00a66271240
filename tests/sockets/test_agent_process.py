"""A real agent process between a real ROUTER and a real engine process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from broker.wire import codec
from broker.wire import messages as m
from tests.sockets.broker_side import BrokerSide, broker_side
from tests.sockets.workers_side import agent, all_gone, config, gone
from tests.support.waiting import wait_until
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_SETTINGS, EXIT_UNWANTED


def taken(broker: BrokerSide) -> None:
    """Until a heartbeat says that the agent has what it was given."""
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held, what="a heartbeat with the attempt")


def began(broker: BrokerSide) -> None:
    """Until the engine has shown the first step of what it was given."""
    wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held and beat.held[0].step == 1, what="the first step")


def test_a_job_from_run_to_acknowledged_result(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        info = broker.infos["cpu-0"]
        assert (info.device, [card.name for card in info.models]) == ("cpu", ["demo"])
        fence = broker.run("cpu-0", 1, "finish")
        finished = broker.expect(m.Finished)
        assert (finished.job_id, finished.fence, finished.free) == ("j1", fence, 1)
        assert finished.age_s > 0
        [artefact] = codec.result(finished.body).artefacts
        assert (home / "artefacts" / "j1" / str(fence) / artefact.name).read_bytes() == b"mp4"
        broker.expect(m.Finished)  # said again until acknowledged
        broker.acknowledge(finished, "cpu-0")
        wait_until(lambda: (beat := broker.beat("cpu-0")) is not None and beat.held == (), what="an empty heartbeat")
        broker.run("cpu-0", 2, "fail")
        assert broker.expect(m.Failed).message == "as told"
        assert not (home / "artefacts" / "j2").exists()


def test_a_result_that_lost_leaves_no_files(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        broker.run("cpu-0", 1, "finish")
        finished = broker.expect(m.Finished)
        broker.acknowledge(finished, "cpu-0", accepted=False)
        wait_until(lambda: not (home / "artefacts" / "j1").exists(), what="the files' removal")


def test_a_killed_engine_fails_its_job_and_the_next_takes_over(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        broker.run("cpu-0", 1, "wait")
        began(broker)
        os.kill(worker.engine_pid(), signal.SIGKILL)
        failed = broker.expect(m.Failed)
        assert (failed.kind, failed.message) == (
            "engine_crashed",
            "the engine ended in denoise, step 1 of 4: killed by SIGKILL",
        )
        broker.acknowledge(failed, "cpu-0")
        assert worker.engine_pid(life=2) != worker.engine_pid()
        broker.registered()
        broker.run("cpu-0", 2, "finish")
        broker.expect(m.Finished)


def test_a_cancel_is_heard_and_frees_the_worker(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        fence = broker.run("cpu-0", 1, "wait")
        taken(broker)
        broker.send("cpu-0", m.Cancel(job_id="j1", fence=fence))
        cancelled = broker.expect(m.Cancelled)
        assert (cancelled.fence, cancelled.free) == (fence, 1)
        assert len(worker.engine_pids) <= 1


def test_two_jobs_in_one_engine_are_cancelled_one_by_one(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        first = broker.run("cpu-0", 1, "tail")
        taken(broker)
        wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held and beat.free, what="room beside the tail")
        second = broker.run("cpu-0", 2, "wait")
        wait_until(lambda: [item.step for item in broker.beat("cpu-0").held] == [1, 1], what="the steps of both")
        broker.send("cpu-0", m.Cancel(job_id="j1", fence=first))
        cancelled = broker.expect(m.Cancelled)
        assert (cancelled.fence, cancelled.free) == (first, 0)
        broker.acknowledge(cancelled, "cpu-0")
        broker.run("cpu-0", 3, "tail")  # too early: it is told so
        broker.expect(m.Refused)
        broker.send("cpu-0", m.Cancel(job_id="j2", fence=second))
        wait_until(lambda: broker.expect(m.Cancelled).fence == second, what="the end of the second")
        assert len(worker.engine_pids) <= 1


def test_a_deaf_job_takes_its_engine_with_it_and_the_other_is_handed_back(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        first = broker.run("cpu-0", 1, "tail")
        wait_until(lambda: (beat := broker.beat("cpu-0")) and beat.held and beat.free, what="room beside the tail")
        second = broker.run("cpu-0", 2, "deaf")
        wait_until(lambda: [item.step for item in broker.beat("cpu-0").held] == [1, 1], what="the steps of both")
        broker.send("cpu-0", m.Cancel(job_id="j2", fence=second, grace_s=0.1))
        assert broker.expect(m.Refused).fence == first
        assert broker.expect(m.Cancelled).fence == second
        assert gone(worker.engine_pid())
        assert not (home / "artefacts" / "j1").exists()


@pytest.mark.parametrize("order", ["deaf", "babble"])
def test_an_engine_that_does_not_listen_is_replaced(order: str, home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        fence = broker.run("cpu-0", 1, order)
        taken(broker)
        broker.send("cpu-0", m.Cancel(job_id="j1", fence=fence))
        broker.expect(m.Cancelled if order == "deaf" else m.Failed)
        assert gone(worker.engine_pid())
        worker.engine_pid(life=2)
        broker.registered()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_hands_the_job_back_and_leaves_nothing(number: int, home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        broker.run("cpu-0", 1, "wait")
        taken(broker)
        os.kill(worker.process.pid, number)
        assert signal.Signals(number).name in broker.expect(m.Goodbye).reason
        assert worker.ended() == EXIT_LEFT
        all_gone([worker.engine_pid()])
        assert not (home / "artefacts" / "j1").exists()


def test_the_end_of_the_supervisor_is_the_end_of_the_agent(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        pid = worker.engine_pid()
        worker.link.sock.close()
        broker.expect(m.Goodbye)
        assert worker.ended() == EXIT_LEFT
        all_gone([pid])


def test_a_killed_agent_takes_its_engine_along(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        pid = worker.engine_pid()
        worker.process.kill()
        all_gone([pid])


def test_a_restarted_broker_hears_of_the_running_job_and_gets_its_result(home: Path) -> None:
    endpoint = f"ipc://{home}/back.sock"
    with agent(config(home)):
        with broker_side(endpoint) as first:
            first.registered()
            fence = first.run("cpu-0", 1, "wait")
            taken(first)
        with broker_side(endpoint, epoch=2) as second:
            wait_until(lambda: second.pump() or second.hellos, 60, "a new hello")
            [held] = second.hellos[0].held
            assert (held.job_id, held.fence, second.hellos[0].seen) == ("j1", fence, fence)
            second.send("cpu-0", m.Cancel(job_id="j1", fence=fence))
            second.expect(m.Cancelled)


def test_a_result_made_while_the_broker_was_away_is_not_lost(home: Path) -> None:
    endpoint = f"ipc://{home}/back.sock"
    with agent(config(home)) as worker:
        with broker_side(endpoint) as first:
            first.registered()
            fence = first.run("cpu-0", 1, "wait")
            began(first)
        os.kill(worker.engine_pid(), signal.SIGKILL)
        worker.engine_pid(life=2)
        with broker_side(endpoint, epoch=2) as second:
            assert second.expect(m.Failed).fence == fence


def test_a_silent_broker_is_greeted_again(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        before = len(broker.hellos)
        broker.mute = True
        wait_until(lambda: broker.pump() or len(broker.hellos) > before, what="another hello")
        broker.mute = False
        broker.registered()


def test_junk_is_dropped_and_the_agent_lives(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        for frames in ([b"junk"], [b"\x93\x01", b"", b""], [b"x" * 5000]):
            broker.send_raw("cpu-0", frames)
        broker.run("cpu-0", 1, "finish")
        broker.expect(m.Finished)


def test_a_job_whose_id_would_be_another_path_is_no_message(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        for number, job_id in enumerate(("../escaped", "/tmp/escaped", "a/b", "..", "job\n")):
            fence = 1 << 32 | number + 1
            broker.send("cpu-0", m.Run(job_id=job_id, fence=fence, lease_s=6.0, body=b"finish"))
        broker.run("cpu-0", 9, "finish")
        assert broker.expect(m.Finished).job_id == "j9"
        assert [path.name for path in (home / "artefacts").iterdir()] == ["j9"]
        assert not (home / "escaped").exists()


def test_another_protocol_ends_the_agent_for_good(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        broker.send("cpu-0", m.HeartbeatAck(v=m.PROTOCOL + 1))
        assert worker.ended() == EXIT_UNWANTED


def test_bye_ends_the_agent_for_good(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)) as worker:
        broker.registered()
        broker.send("cpu-0", m.WorkerRejected(reason="another process took the name"))
        assert worker.ended() == EXIT_UNWANTED
        all_gone([worker.engine_pid()])


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(home: Path, broker: BrokerSide) -> None:
    with agent(config(home), ENGINE_LOAD="fail") as worker:
        wait_until(lambda: worker.listen() or len(worker.troubles) >= 2, 60, "two failures")
        assert worker.troubles[0] == "model 'demo' cannot be loaded: there are no weights"
        wait_until(
            lambda: (beat := broker.beat("cpu-0")) and beat.engine == "restarting", what="the state in a heartbeat"
        )


def test_an_engine_that_cannot_be_started_is_told(home: Path, broker: BrokerSide) -> None:
    with agent(config(home, engine_command=("/nowhere/python",))) as worker:
        wait_until(lambda: worker.listen() or worker.troubles, 60, "trouble")
        assert "could not be started" in worker.troubles[0]


def test_a_directory_that_cannot_be_made_fails_the_job(home: Path, broker: BrokerSide) -> None:
    (home / "artefacts").write_text("a file where a directory should be")
    with agent(config(home)):
        broker.registered()
        broker.run("cpu-0", 1, "finish")
        failed = broker.expect(m.Failed)
        assert failed.kind == "engine_error"
        assert "could not begin" in failed.message


def test_a_long_job_spec_reaches_an_engine_that_is_slow_to_read(home: Path, broker: BrokerSide) -> None:
    with agent(config(home)):
        broker.registered()
        body = b"wait" + b" " * 500_000
        broker.send("cpu-0", m.Run(job_id="j1", fence=1 << 32 | 1, lease_s=6.0, body=body))
        began(broker)


def test_a_bad_endpoint_is_one_sentence_and_no_restart(home: Path) -> None:
    with agent(config(home, endpoint="nonsense")) as worker:
        assert worker.ended() == EXIT_SETTINGS
