"""Jobs whose tails run beside the next job: who waits for whom, who is stopped, and what happens when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile, encode_spec
from workers.engine import turns
from workers.engine.base import Outcome, Stage
from workers.engine.errors import DeviceLost, EngineError, OutOfMemory
from workers.engine.peaks import Peaks, Shape
from workers.engine.progress import Monitor
from workers.engine.runner import Runner
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished, NextWanted, PostprocessBegun, RunJob
from workers.ipc.shared import SLOTS, SharedCounters

MADE = (Artefact(name="video.mp4", media_type="video/mp4", size=1, sha256="0" * 64),)
CARDS = {name: ModelCard(name=name, engine="scripted", output="video") for name in ("one", "two")}
_PATIENCE_S = 30.0


class Meter:
    """A machine of 100 MB; drawing and tails take 10 MB each on top of 20."""

    def __init__(self) -> None:
        self.all_mb = 100.0

    def used_and_total_mb(self) -> tuple[int, int]:
        return 30, 100

    def reset_peak(self) -> None:
        pass

    def peak_mb(self) -> float:
        return 30.0

    def held_mb(self) -> float:
        return 20.0

    def peak_held_mb(self) -> float:
        return 30.0

    def limit_mb(self) -> float:
        return self.all_mb


class Log(list[str]):
    """Lines in the order in which they came, from whichever thread."""

    def __init__(self) -> None:
        super().__init__()
        self._came = threading.Condition()

    def append(self, line: str) -> None:
        with self._came:
            super().append(line)
            self._came.notify_all()

    def wait_for(self, line: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: line in self, _PATIENCE_S), f"{line!r} never came: {list(self)}"


class ScriptedEngine:
    """Does what the test says for a prompt: `fronts` and `tails` by prompt; by default nothing goes wrong and takes no time."""

    def __init__(self) -> None:
        self.where: Any = "host"
        self.fronts: dict[str, Callable[[Monitor], None]] = {}
        self.tails: dict[str, Callable[[Monitor], None]] = {}
        self.preparing: dict[str, Callable[[Monitor], None]] = {}
        self.moves: set[str] = set()
        #: Prompts of jobs that are drawn in less memory when they ran out of it.
        self.shrinks: set[str] = set()
        self.log = Log()
        self.freed = 0

    def load(self, card: ModelCard) -> None:
        """It is there."""

    def loaded(self) -> str:
        return "one"

    def loaded_loras(self) -> tuple[str, ...]:
        return ()

    def free_cache(self) -> None:
        self.freed += 1

    def prepares(self, card: ModelCard, spec: JobSpec, beside: JobSpec) -> bool:
        return spec.model == beside.model

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        return card.name not in self.moves

    def ran_out(self, card: ModelCard, spec: JobSpec, profile: Profile) -> bool:
        self.log.append(f"ran out {spec.prompt}")
        shrinks = spec.prompt in self.shrinks
        self.shrinks.discard(spec.prompt)
        return shrinks

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        self.log.append(f"draw {spec.prompt}")
        self.preparing.get(spec.prompt, lambda monitor: None)(monitor)
        monitor.turn.take()
        monitor.enter("denoise", 2)
        monitor.step(1, 2)
        self.fronts.get(spec.prompt, lambda monitor: None)(monitor)

        def tail() -> Outcome:
            self.log.append(f"tail {spec.prompt}")
            monitor.enter("decode")
            self.tails.get(spec.prompt, lambda monitor: None)(monitor)
            self.log.append(f"end {spec.prompt}")
            return MADE

        return Stage(self.where, tail)


class Registry:
    """One engine for all cards."""

    def __init__(self) -> None:
        self.scripted = ScriptedEngine()
        self.meter = Meter()
        self.peaks = Peaks()
        self.signer = None

    def engine(self, card: ModelCard) -> ScriptedEngine:
        return self.scripted


class Bench:
    """A runner, what it said, and the jobs given to it, each in the seat that is free."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.engine = self.registry.scripted
        self.words = SharedCounters.create()
        self.said: list[Struct] = []
        self._news = threading.Condition()
        self.lost = threading.Event()
        self.runner = Runner(self.registry, CARDS, self.words, self._say, self.lost.set)  # type: ignore[arg-type]

    def _say(self, message: Struct) -> None:
        with self._news:
            self.said.append(message)
            self._news.notify_all()

    def job(self, fence: int, prompt: str, model: str = "one", **fields: Any) -> RunJob:
        spec = JobSpec(model=model, output="video", prompt=prompt, width=16, height=16, num_inference_steps=1, seed=1)
        body = encode_spec(spec)
        return RunJob(job_id=f"j{fence}", fence=fence, body=body, out_dir="/nowhere", slot=fence % SLOTS, **fields)

    def run(self, fence: int, prompt: str, **fields: Any) -> None:
        self.runner.run(self.job(fence, prompt, **fields))

    def run_both(self, prompt: str = "second", **fields: Any) -> None:
        """Run job 1, "first", and as soon as it asks for the next one job 2 in a second thread."""
        second = threading.Thread(target=lambda: self.run(2, prompt, **fields))
        front = self.engine.fronts.get("first", lambda monitor: None)

        def begin_second(monitor: Monitor) -> None:
            assert self.wants_next(1)
            if not second.ident:  # it may be drawn again
                second.start()
            front(monitor)

        self.engine.fronts["first"] = begin_second
        self.run(1, "first")
        second.join(_PATIENCE_S)
        assert not second.is_alive()

    def wants_next(self, fence: int) -> bool:
        return NextWanted(fence=fence) in self.said

    def wait_for(self, message: Struct) -> None:
        with self._news:
            assert self._news.wait_for(lambda: message in self.said, _PATIENCE_S), f"{message} was never said"

    def cancel(self, fence: int) -> None:
        self.words.slots[fence % SLOTS].request_cancel(fence)

    def end(self, fence: int) -> Struct:
        """How this job ended, when it has."""

        def found() -> Struct | None:
            ends = [m for m in self.said if isinstance(m, JobFinished | JobFailed | JobCancelled) and m.fence == fence]
            assert len(ends) <= 1, "a job was answered twice"
            return ends[0] if ends else None

        with self._news:
            ending = self._news.wait_for(found, _PATIENCE_S)
        assert ending is not None, f"job {fence} has no end; said: {self.said}"
        return ending

    def handed_over(self, fence: int) -> bool:
        return any(isinstance(message, PostprocessBegun) and message.fence == fence for message in self.said)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.words.close()


def until(event: threading.Event) -> Callable[[Monitor], None]:
    """Goes on when the test says so, and hears a cancel meanwhile."""

    def wait(monitor: Monitor) -> None:
        for _ in range(int(_PATIENCE_S / 0.01)):
            if event.wait(0.01):
                return
            monitor.check()
        raise AssertionError("the test never came to it")

    return wait


def failing(error: Exception, times: int = 1) -> Callable[[Monitor], None]:
    left = [times]

    def fail(monitor: Monitor) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return fail


def learned(bench: Bench) -> None:
    """The engine computes in its tails, and has measured a job of our shape."""
    bench.engine.where = "device"
    bench.run(100, "measured")
    assert isinstance(bench.end(100), JobFinished)
    bench.engine.log.clear()


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
    assert both.wait(_PATIENCE_S)
    bench.cancel(cancelled)
    assert isinstance(bench.end(cancelled), JobCancelled)
    go.set()
    drawing.join(_PATIENCE_S)
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
    assert bench.lost.wait(_PATIENCE_S)


def test_what_a_job_is_drawn_with_is_in_its_result_and_no_other_s(bench: Bench) -> None:
    bench.engine.fronts["a"] = lambda monitor: monitor.use("quantize", "transformer int8")

    bench.run(1, "a")
    bench.run(2, "b")

    endings = [bench.end(fence) for fence in (1, 2)]
    assert [ending.result.used for ending in endings if isinstance(ending, JobFinished)] == [
        {"quantize": "transformer int8"},
        {},
    ]


# ------------------------------------------------------------------ a job that is prepared beside another


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
    caller.join(_PATIENCE_S)


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
    third.join(_PATIENCE_S)
    assert not third.is_alive()


def test_a_job_is_prepared_beside_last_steps_and_a_tail(bench: Bench) -> None:
    three(bench, lambda monitor: None)
    for fence in (1, 2, 3):
        assert isinstance(bench.end(fence), JobFinished)
    assert bench.said.count(NextWanted(fence=2)) == 1, "it asks once"
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
        bench.wait_for(NextWanted(fence=2))

    bench.engine.fronts["second"] = last_step
    bench.run(1, "first")
    bench.run(2, "second")
    assert isinstance(bench.end(2), JobFinished)


def test_the_first_step_of_the_next_job_comes_before_the_last_words_of_the_one_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_FIRST_STEP_S", _PATIENCE_S)
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
