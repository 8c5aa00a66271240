"""A runner over an engine that does what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile, encode_spec
from workers.engine.base import Outcome, Stage
from workers.engine.peaks import Peaks, Shape
from workers.engine.progress import Monitor
from workers.engine.runner import Runner
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished, NextRequested, PostprocessBegun, RunJob
from workers.ipc.shared import SLOTS, SharedCounters

MADE = (Artefact(name="video.mp4", media_type="video/mp4", size=1, sha256="0" * 64),)
CARDS = {name: ModelCard(name=name, engine="scripted", output="video") for name in ("one", "two")}
#: Longest wait for something in a thread; it only ends a test that hangs.
PATIENCE_S = 30.0


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
            assert self._came.wait_for(lambda: line in self, PATIENCE_S), f"{line!r} never came: {list(self)}"


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
    """A runner, what it said, and the jobs given to it, each in a slot of its own."""

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
        second.join(PATIENCE_S)
        assert not second.is_alive()

    def wants_next(self, fence: int) -> bool:
        return NextRequested(fence=fence) in self.said

    def wait_for(self, message: Struct) -> None:
        with self._news:
            assert self._news.wait_for(lambda: message in self.said, PATIENCE_S), f"{message} was never said"

    def cancel(self, fence: int) -> None:
        self.words.slots[fence % SLOTS].request_cancel(fence)

    def end(self, fence: int) -> Struct:
        """How this job ended, when it has."""

        def found() -> Struct | None:
            ends = [m for m in self.said if isinstance(m, JobFinished | JobFailed | JobCancelled) and m.fence == fence]
            assert len(ends) <= 1, "a job was answered twice"
            return ends[0] if ends else None

        with self._news:
            ending = self._news.wait_for(found, PATIENCE_S)
        assert ending is not None, f"job {fence} has no end; said: {self.said}"
        return ending

    def handed_over(self, fence: int) -> bool:
        return any(isinstance(message, PostprocessBegun) and message.fence == fence for message in self.said)


def until(event: threading.Event) -> Callable[[Monitor], None]:
    """Goes on when the test says so, and hears a cancel meanwhile."""

    def wait(monitor: Monitor) -> None:
        for _ in range(int(PATIENCE_S / 0.01)):
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
