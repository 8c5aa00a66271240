"""Jobs that are prepared beside the last steps of the one before: what is measured, who waits, who fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.scripted_runner import (
    PATIENCE_S,
    Bench,
    failing,
    learned,
    until,
)
from workers.engine import turns
from workers.engine.errors import EngineError
from workers.engine.progress import Monitor
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished, NextRequested


def seen(bench: Bench, line: str) -> Callable[[Monitor], None]:
    """Goes on when the engine's log has this line."""

    return lambda monitor: bench.engine.log.wait_for(line)


def ready(bench: Bench, line: str = "prepared second") -> None:
    """The engine has measured our shape; the second job says when it is prepared, and the first one's last step waits for `line`."""
    learned(bench)
    bench.engine.preparing["second"] = lambda monitor: bench.engine.log.append("prepared second")
    bench.engine.fronts["first"] = lambda monitor: (seen(bench, line)(monitor), bench.engine.log.append("last step"))[0]
    bench.engine.fronts["second"] = lambda monitor: bench.engine.log.append("step of second")


def test_the_next_job_is_prepared_beside_the_last_steps(bench: Bench) -> None:
    ready(bench)
    bench.run_both()
    assert isinstance(bench.end(1), JobFinished)
    second = bench.end(2)
    assert isinstance(second, JobFinished)
    log = bench.engine.log
    assert log.index("prepared second") < log.index("last step") < log.index("step of second")


def test_the_time_that_a_prepared_job_waits_is_not_its_own(bench: Bench) -> None:
    ready(bench)
    waiting = threading.Event()

    def last_step(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        waiting.wait(0.3)

    bench.engine.fronts["first"] = last_step
    bench.run_both()
    second = bench.end(2)
    assert isinstance(second, JobFinished)
    assert second.run_s < 0.3
    assert sum(second.result.stage_durations.values()) < 0.3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bench: setattr(bench.registry.meter, "all_mb", 43.0),
        lambda bench: setattr(bench.engine, "prepares", lambda *_: False),
    ],
    ids=["no room", "a job that cannot be"],
)
def test_what_cannot_be_prepared_is_not_asked_for(bench: Bench, spoil: Callable[[Bench], None]) -> None:
    learned(bench)
    spoil(bench)
    bench.run(1, "first")
    bench.end(1)
    assert not bench.wants_next(1)


@pytest.mark.parametrize("fields", [{"alone": True}, {"model": "two"}, {"kept": 1}])
def test_a_job_that_is_not_to_be_prepared_waits(bench: Bench, fields: dict[str, Any]) -> None:
    learned(bench)
    bench.engine.fronts["first"] = lambda monitor: bench.engine.log.append("last step")
    bench.run_both(**fields)
    bench.end(2)
    assert bench.engine.log.index("last step") < bench.engine.log.index("draw second")


def test_a_prepared_job_hears_its_cancel(bench: Bench) -> None:
    ready(bench)
    go = threading.Event()
    bench.engine.fronts["first"] = until(go)

    def prepare(monitor: Monitor) -> None:
        bench.cancel(2)

    bench.engine.preparing["second"] = prepare
    caller = threading.Thread(target=bench.run_both)
    caller.start()
    assert isinstance(bench.end(2), JobCancelled)
    assert not bench.handed_over(1)
    go.set()
    assert isinstance(bench.end(1), JobFinished)
    caller.join(PATIENCE_S)


def test_a_job_that_fails_lets_the_prepared_one_go_on(bench: Bench) -> None:
    ready(bench)

    def fail(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        raise EngineError("no")

    bench.engine.fronts["first"] = fail
    bench.run_both()
    assert isinstance(bench.end(1), JobFailed)
    assert isinstance(bench.end(2), JobFinished)


def test_memory_that_runs_out_while_a_job_is_prepared_fails_nobody(bench: Bench) -> None:
    ready(bench, "tried second")
    failure = failing(MemoryError("no 20 GiB"))

    def prepare(monitor: Monitor) -> None:
        bench.engine.log.append("tried second")
        failure(monitor)

    bench.engine.preparing["second"] = prepare
    bench.run_both()
    assert isinstance(bench.end(1), JobFinished)
    assert isinstance(bench.end(2), JobFinished)
    assert bench.engine.log.count("draw second") == 2
    bench.run(3, "third")
    bench.end(3)
    assert not bench.wants_next(3), "two such jobs are not tried together again"


def test_memory_that_runs_out_beside_a_prepared_job_fails_nobody(bench: Bench) -> None:
    ready(bench)
    failure = failing(MemoryError("no 20 GiB"))

    def last_step(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        failure(monitor)

    bench.engine.fronts["first"] = last_step
    bench.run_both()
    assert isinstance(bench.end(1), JobFinished)
    assert isinstance(bench.end(2), JobFinished)


def test_a_prepared_job_goes_on_as_soon_as_the_one_before_is_denoised(bench: Bench) -> None:
    """Not first when the call of that one has been left."""
    ready(bench)

    def last_step(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        monitor.ends.denoised("device")
        seen(bench, "step of second")(monitor)

    bench.engine.fronts["first"] = last_step
    bench.run_both()
    assert isinstance(bench.end(1), JobFinished)
    assert isinstance(bench.end(2), JobFinished)
    assert bench.handed_over(1)


def three(bench: Bench, tail: Callable[[Monitor], None]) -> None:
    """Run job 1, "tail", then job 2, "first", and behind that job 3, "second", as soon as it is asked for; the tail does `tail` then."""
    ready(bench)
    third = threading.Thread(target=lambda: bench.run(3, "second"))
    bench.engine.tails["tail"] = lambda monitor: (seen(bench, "prepared second")(monitor), tail(monitor))[1]
    front = bench.engine.fronts["first"]

    def begin_third(monitor: Monitor) -> None:
        if not third.ident:
            assert bench.wants_next(2), "the one before is in its tail, and all three fit"
            third.start()
        front(monitor)

    bench.engine.fronts["first"] = begin_third
    bench.run(1, "tail")
    assert bench.handed_over(1)
    bench.run(2, "first")
    third.join(PATIENCE_S)
    assert not third.is_alive()


def test_a_job_is_prepared_beside_last_steps_and_a_tail(bench: Bench) -> None:
    three(bench, lambda monitor: None)
    for fence in (1, 2, 3):
        assert isinstance(bench.end(fence), JobFinished)
    assert bench.said.count(NextRequested(fence=2)) == 1, "it asks once"
    log = bench.engine.log
    assert log.index("prepared second") < log.index("end tail")
    assert log.index("end tail") < log.index("tail first") < log.index("tail second")


def test_a_tail_that_runs_out_beside_two_is_done_again_and_fails_nobody(bench: Bench) -> None:
    three(bench, failing(MemoryError("no 20 GiB")))
    for fence in (1, 2, 3):
        assert isinstance(bench.end(fence), JobFinished), bench.end(fence)
    assert bench.engine.log.count("tail tail") == 2


def test_without_room_for_three_the_next_is_asked_for_when_the_tail_has_ended(bench: Bench) -> None:
    """20 MB of weights and three times 10 MB do not fit into 92 % of 54 MB."""
    bench.registry.meter.all_mb = 54.0
    learned(bench)
    go = threading.Event()
    bench.engine.tails["first"] = until(go)

    def last_step(monitor: Monitor) -> None:
        assert not bench.wants_next(2)
        go.set()
        bench.wait_for(NextRequested(fence=2))

    bench.engine.fronts["second"] = last_step
    bench.run(1, "first")
    bench.run(2, "second")
    assert isinstance(bench.end(2), JobFinished)


def test_the_first_step_of_the_next_job_comes_before_the_last_words_of_the_one_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_FIRST_STEP_S", PATIENCE_S)
    ready(bench)
    log = bench.engine.log

    def first_step(monitor: Monitor) -> None:
        log.append("first step of second")
        monitor.turn.begin()

    def last_step(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        monitor.ends.denoised("device")
        assert "first step of second" in log

    bench.engine.fronts |= {"first": last_step, "second": first_step}
    bench.run_both()
    assert isinstance(bench.end(1), JobFinished), bench.end(1)
    assert isinstance(bench.end(2), JobFinished)


def test_a_job_that_fails_after_it_let_the_next_go_on_is_only_its_own_failure(bench: Bench) -> None:
    ready(bench)

    def last_step(monitor: Monitor) -> None:
        seen(bench, "prepared second")(monitor)
        monitor.ends.denoised("device")
        raise EngineError("no")

    bench.engine.fronts["first"] = last_step
    bench.run_both()
    assert isinstance(bench.end(1), JobFailed)
    assert isinstance(bench.end(2), JobFinished)
    bench.run(3, "third")
    assert isinstance(bench.end(3), JobFinished)
