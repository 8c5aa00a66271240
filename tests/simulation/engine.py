"""One engine process: what it shows, what it says, and all the ways in which it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from msgspec import Struct

from broker.wire.jobspec import Artefact, Result
from tests.simulation.timeline import Timeline
from workers.ipc import FromEngine, JobCancelled, JobFailed, JobFinished, Progress, Ready, RunJob

#: What an attempt can do in an engine. A job's own nature is drawn once and does it in every attempt.
BEHAVIOURS = (
    "finish",
    "slow",
    "deaf",  # hears no cancel, and takes its time
    "error",
    "invalid",
    "oom",
    "fatal",  # says that its context is poisoned, and ends
    "die",
    "die at once",  # before it has shown the job
    "hang",
    "junk",  # says what is no message
    "close",  # closes its socket and stays
)


class Exited(Struct, frozen=True):
    """The process is gone."""

    how: str


class Junk(Struct, frozen=True):
    """Bytes that are no message."""


class Closed(Struct, frozen=True):
    """The socket is closed, the process is there."""


Word = FromEngine | Exited | Junk | Closed


class Engine:
    """One process, from its start to its end."""

    def __init__(
        self, timeline: Timeline, random: Random, model: str, say: Callable[[Word], None], show: Callable[[], None]
    ) -> None:
        """`say` puts a word into the agent's end of the socketpair, `show` lets it look at the shared words."""
        self.timeline = timeline
        self.random = random
        self.model = model
        self.progress: Progress | None = None
        self.cancel = 0
        self.alive = True
        self.job: RunJob | None = None
        self.begun_at = 0.0
        #: How long a step takes; how long the agent thinks it does before it has seen one.
        self.step_s = self.predicted_step_s = 0.0
        self._say = say
        self._show = show
        self._paused_until = 0.0
        self._later(random.choice((0.1, 0.5, 2.0)), self._ready)

    # ------------------------------------------------------------ what is done to it

    def run(self, job: RunJob, behaviour: str, steps: int, step_s: float, made: Callable[[], None]) -> None:
        """Take a job of so many steps. `made` is called when its files are on disk."""
        assert self.alive, "a job for a dead engine"
        assert self.job is None, f"job {job.fence:#x} for an engine that has {self.job}"
        self.job, self.behaviour, self.step_s, self._made = job, behaviour, step_s, made
        self.begun_at = self.timeline.now
        self._step, self._tick = -1, 0
        self._total = steps * (6 if behaviour in ("deaf", "slow") else 1)
        self._goes_wrong_at = self.random.randint(0, self._total - 1)
        if behaviour == "die at once":
            self.die("killed by SIGSEGV", 0.001)
        else:
            self._later(0.05, self._work)

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self.timeline.now + seconds)

    def die(self, how: str, after_s: float = 0.0) -> None:
        """Its process ends, whatever it was doing."""
        self.timeline.after(after_s, lambda: self._exit(how))

    def _exit(self, how: str) -> None:
        if self.alive:
            self.alive, self.job = False, None
            self._say(Exited(how))

    # ------------------------------------------------------------ what it does

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self.timeline.after(seconds, lambda: self._wake(action))

    def _wake(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.timeline.now < self._paused_until:
            self.timeline.at(self._paused_until, lambda: self._wake(action))
            return
        action()

    def _ready(self) -> None:
        self._say(Ready(model=self.model, load_s=0.5))

    def _work(self) -> None:
        """The end of a step, where the cancel word is looked at; or the beginning."""
        job = self.job
        if job is None:
            return
        if self.cancel == job.fence and self.behaviour != "deaf":
            self._end(JobCancelled(fence=job.fence, model=self.model))
            return
        self._step += 1
        self._tick += 1
        phase = "denoise" if self._step < self._total else "save"
        step = min(self._step, self._total)
        self.progress = Progress(fence=job.fence, phase=phase, step=step, total=self._total, tick=self._tick)
        self._show()
        if self._step == self._goes_wrong_at and self.behaviour not in ("finish", "slow", "deaf"):
            self._go_wrong(job)
        elif self._step <= self._total:
            self._later(self.step_s, self._work)
        else:
            self._finish(job)

    def _finish(self, job: RunJob) -> None:
        self._made()
        artefact = Artefact(name="video.mp4", media_type="video/mp4", size=1, sha256=f"{job.fence:064x}")
        result = Result(artefacts=(artefact,), seed=job.fence & 0xFFFF_FFFF)
        self._end(
            JobFinished(fence=job.fence, result=result, run_s=self.timeline.now - self.begun_at, model=self.model)
        )

    def _go_wrong(self, job: RunJob) -> None:
        match self.behaviour:
            case "error":
                self._end(JobFailed(fence=job.fence, kind="engine_error", message="it raised", model=self.model))
            case "invalid":
                self._end(JobFailed(fence=job.fence, kind="invalid_input", message="no such size", model=self.model))
            case "oom":
                self._end(JobFailed(fence=job.fence, kind="out_of_memory", message="too big"))
            case "fatal":
                self._end(JobFailed(fence=job.fence, kind="engine_crashed", message="illegal address", fatal=True))
                self.die("exit code 1", self.random.choice((0.1, 10.0)))
            case "die":
                self.die("killed by SIGSEGV")
            case "junk":
                self._say(Junk())
            case "close":
                self._say(Closed())

    def _end(self, word: FromEngine) -> None:
        self.job = None
        self._say(word)
