"""Jobs whose tails run beside the next job: who waits for whom, who is stopped, and what happens when memory runs out."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.engine.scripted_runner import (
    MADE,
    PATIENCE_S,
    Bench,
    failing,
    learned,
    until,
)
from workers.engine.errors import DeviceLost, EngineError, OutOfMemory
from workers.engine.progress import Monitor
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished
from workers.ipc.shared import SLOTS


def test_the_next_job_is_drawn_while_the_tail_runs(bench: Bench) -> None:
    second_drawn = threading.Event()
    bench.engine.tails["first"] = until(second_drawn)
    bench.engine.fronts["second"] = lambda monitor: second_drawn.set()

    bench.run(1, "first")
    bench.run(2, "second")

    first, second = bench.end(1), bench.end(2)
    assert isinstance(first, JobFinished)
    assert first.result.artefacts == MADE
    assert isinstance(second, JobFinished)
    assert bench.engine.log.index("draw second") < bench.engine.log.index("end first")
    assert bench.handed_over(1)


def test_two_tails_never_run_at_once(bench: Bench) -> None:
    go = threading.Event()
    bench.engine.tails["first"] = until(go)
    bench.engine.fronts["second"] = lambda monitor: threading.Timer(0.1, go.set).start()

    bench.run(1, "first")
    bench.run(2, "second")
    bench.end(2)

    assert bench.engine.log.index("end first") < bench.engine.log.index("tail second")


def test_a_tail_on_the_device_is_measured_alone_before_anything_runs_beside_it(bench: Bench) -> None:
    bench.engine.where = "device"
    bench.run(1, "first")
    assert not bench.handed_over(1)
    bench.run(2, "second")
    assert bench.handed_over(2)
    assert isinstance(bench.end(2), JobFinished)


def test_drawing_is_measured_beside_a_save(bench: Bench) -> None:
    """In a busy queue there is hardly ever a moment with nothing under way."""
    go = threading.Event()
    bench.engine.tails["saved"] = until(go)
    bench.run(1, "saved")
    bench.engine.where = "device"
    bench.engine.fronts["second"] = lambda monitor: threading.Timer(0.05, go.set).start()
    bench.run(2, "second")
    bench.run(3, "third")
    assert bench.handed_over(3)
    bench.end(3)


def test_no_room_no_overlap(bench: Bench) -> None:
    """20 MB of weights and twice 10 MB do not fit into 92 % of 42 MB."""
    bench.registry.meter.all_mb = 42.0
    learned(bench)
    bench.run(1, "first")
    assert not bench.handed_over(1)
    bench.registry.meter.all_mb = 44.0
    bench.run(2, "second")
    assert bench.handed_over(2)
    bench.end(2)


@pytest.mark.parametrize(
    ("fields", "moves"),
    [({"alone": True}, set()), ({"model": "two"}, {"two"})],
    ids=["a job that must be alone", "a model that has to be moved"],
)
def test_who_waits_for_the_tail_to_end(bench: Bench, fields: dict[str, Any], moves: set[str]) -> None:
    learned(bench)
    bench.engine.moves = moves
    go = threading.Event()
    bench.engine.tails["first"] = until(go)
    bench.run(1, "first")
    threading.Timer(0.1, go.set).start()
    bench.run(2, "second", **fields)
    bench.end(2)
    assert bench.engine.log.index("end first") < bench.engine.log.index("draw second")


def test_a_job_that_must_be_alone_keeps_the_engine_until_its_end(bench: Bench) -> None:
    bench.run(1, "first", alone=True)
    assert not bench.handed_over(1)
    assert isinstance(bench.end(1), JobFinished)


def test_a_job_that_waits_for_the_tail_can_be_cancelled(bench: Bench) -> None:
    go = threading.Event()
    bench.engine.tails["first"] = until(go)
    bench.run(1, "first")
    bench.cancel(2)
    bench.run(2, "second", alone=True)
    assert isinstance(bench.end(2), JobCancelled)
    assert bench.words.slots[2 % SLOTS].progress().fence == 0, "it never began"
    go.set()
    assert isinstance(bench.end(1), JobFinished)


@pytest.mark.parametrize("cancelled", [1, 2])
def test_a_cancel_stops_one_of_two(bench: Bench, cancelled: int) -> None:
    both, go = threading.Event(), threading.Event()
    bench.engine.tails["first"] = until(go)

    def draw(monitor: Monitor) -> None:
        both.set()
        until(go)(monitor)

    bench.engine.fronts["second"] = draw
    bench.run(1, "first")
    drawing = threading.Thread(target=bench.run, args=(2, "second"))
    drawing.start()
    assert both.wait(PATIENCE_S)
    bench.cancel(cancelled)
    assert isinstance(bench.end(cancelled), JobCancelled)
    go.set()
    drawing.join(PATIENCE_S)
    assert isinstance(bench.end(3 - cancelled), JobFinished)


def test_a_cancelled_job_does_not_wait_for_the_tail_before_it(bench: Bench) -> None:
    go = threading.Event()
    bench.engine.tails["first"] = until(go)
    bench.engine.fronts["second"] = lambda monitor: bench.cancel(2)
    bench.run(1, "first")
    bench.run(2, "second")
    assert isinstance(bench.end(2), JobCancelled)
    go.set()
    bench.end(1)


def test_a_tail_that_fails_is_its_own_job_s_failure(bench: Bench) -> None:
    bench.engine.tails["first"] = failing(EngineError("the disk is full"))
    bench.run(1, "first")
    bench.run(2, "second")
    first = bench.end(1)
    assert isinstance(first, JobFailed)
    assert (first.kind, first.message, first.fatal) == ("engine_error", "the disk is full", False)
    assert isinstance(bench.end(2), JobFinished)


def test_memory_that_runs_out_beside_a_tail_fails_nobody(bench: Bench) -> None:
    learned(bench)
    go = threading.Event()
    bench.engine.tails["first"] = until(go)
    failure = failing(OutOfMemory("no 20 GiB"))

    def draw(monitor: Monitor) -> None:
        go.set()
        failure(monitor)

    bench.engine.fronts["second"] = draw
    bench.run(1, "first")
    bench.run(2, "second")
    assert isinstance(bench.end(1), JobFinished)
    assert isinstance(bench.end(2), JobFinished)
    assert bench.engine.log.count("draw second") == 2
    bench.run(3, "third")
    bench.end(3)
    assert not bench.handed_over(3), "two such jobs are not tried together again"


def test_memory_that_runs_out_in_a_tail_beside_a_job_fails_nobody(bench: Bench) -> None:
    learned(bench)
    drawn = threading.Event()
    failure = failing(OutOfMemory("no 20 GiB"))

    def tail(monitor: Monitor) -> None:
        until(drawn)(monitor)
        failure(monitor)

    bench.engine.tails["first"] = tail
    bench.engine.fronts["second"] = lambda monitor: drawn.set()
    bench.run(1, "first")
    bench.run(2, "second")
    assert isinstance(bench.end(1), JobFinished)
    assert isinstance(bench.end(2), JobFinished)
    assert bench.engine.log.count("tail first") == 2


def test_memory_that_runs_out_alone_fails_the_job_and_is_given_back(bench: Bench) -> None:
    learned(bench)
    bench.engine.fronts["first"] = failing(OutOfMemory("no 20 GiB"))
    bench.run(1, "first")
    first = bench.end(1)
    assert isinstance(first, JobFailed)
    assert first.kind == "out_of_memory"
    assert bench.engine.freed == 1


def test_a_job_that_runs_out_of_memory_alone_is_drawn_again_in_less_if_it_can_be(bench: Bench) -> None:
    bench.engine.shrinks.add("first")
    tries = iter([MemoryError("no 20 GiB"), None])

    def draw(monitor: Monitor) -> None:
        if error := next(tries):
            raise error

    bench.engine.fronts["first"] = draw
    bench.run(1, "first")
    assert isinstance(bench.end(1), JobFinished)
    assert bench.engine.log[:3] == ["draw first", "ran out first", "draw first"]


def test_a_job_that_cannot_be_had_in_less_fails(bench: Bench) -> None:
    bench.engine.shrinks.add("first")

    def draw(monitor: Monitor) -> None:
        raise MemoryError("no 20 GiB")

    bench.engine.fronts["first"] = draw
    bench.run(1, "first")
    ended = bench.end(1)
    assert isinstance(ended, JobFailed)
    assert ended.kind == "out_of_memory"
    assert bench.engine.log == ["draw first", "ran out first"] * 2


def test_what_an_engine_refuses_for_want_of_memory_is_not_drawn_again(bench: Bench) -> None:
    bench.engine.shrinks.add("first")
    bench.engine.fronts["first"] = failing(OutOfMemory("it takes 20 GiB"))
    bench.run(1, "first")
    assert isinstance(bench.end(1), JobFailed)
    assert bench.engine.log == ["draw first"]


def test_a_device_lost_in_a_tail_ends_the_process(bench: Bench) -> None:
    bench.engine.tails["first"] = failing(DeviceLost("illegal address"))
    bench.run(1, "first")
    first = bench.end(1)
    assert isinstance(first, JobFailed)
    assert first.fatal
    assert bench.lost.wait(PATIENCE_S)


def test_what_a_job_is_drawn_with_is_in_its_result_and_no_other_s(bench: Bench) -> None:
    bench.engine.fronts["a"] = lambda monitor: monitor.use("quantize", "transformer int8")

    bench.run(1, "a")
    bench.run(2, "b")

    endings = [bench.end(fence) for fence in (1, 2)]
    assert [ending.result.used for ending in endings if isinstance(ending, JobFinished)] == [
        {"quantize": "transformer int8"},
        {},
    ]
