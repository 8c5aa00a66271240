"""One engine process: what it shows, what it says, and all the ways in which it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

from broker.wire.jobspec import Artefact, Result
from workers.ipc.messages import (
    FromEngine,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobParked,
    NextRequested,
    PostprocessBegun,
    Ready,
    RunJob,
)
from workers.ipc.shared import SLOTS, Progress

if TYPE_CHECKING:
    from tests.simulation.world import World

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


class PeerLimiter(Struct, frozen=True):
    """Bytes that are no message."""


class Closed(Struct, frozen=True):
    """The socket is closed, the process is there."""


Word = FromEngine | Exited | PeerLimiter | Closed


class Script(Struct, frozen=True, kw_only=True):
    """What a job will do."""

    behaviour: str
    #: Steps of denoising, and behind them those of the tail; how long each takes; how long the agent thinks it does before it has seen one.
    steps: int
    tail: int = 1
    step_s: float
    predicted_step_s: float = 0.0
    #: Its tail lets another job in; it does not fit beside another's tail.
    overlaps: bool = False
    patient: bool = False
    #: It asks for the next job so many steps before it is denoised; 0: never.
    asks_before: int = 0
    #: No third job fits beside its tail and the one that is drawn.
    crowds: bool = False
    loras: tuple[str, ...] = ()


class Work:
    """One job in an engine."""

    def __init__(self, job: RunJob, script: Script, random: Random, made: Callable[[], None]) -> None:
        self.job = job
        self.script = script
        self.made = made
        self.begun_at: float | None = None
        #: It has asked for the next job, to prepare it beside its last steps.
        self.wanted = False
        self.postprocessing = False
        #: It has gone wrong without a word: it does nothing any more.
        self.stopped = False
        #: It has given up its turn, and is about to be answered.
        self.over = False
        self.step, self.tick = -1, 0
        #: Steps that lie in a checkpoint; those of one that is being written, 0: none is.
        self.kept = self.writing = 0
        slow = script.behaviour in ("deaf", "slow")
        self.steps = script.steps * (6 if slow else 1)
        self.tail = script.tail * (6 if slow and script.overlaps else 1)
        harmless = slow or script.behaviour == "finish"
        self.goes_wrong_at = -1 if harmless else random.randint(0, self.steps + self.tail - 1)

    @property
    def fence(self) -> int:
        return self.job.fence

    @property
    def may_park(self) -> bool:
        """Whether it can leave off after its next step."""
        return not self.stopped and not self.postprocessing and 0 <= self.step < self.steps - 1

    def progress(self) -> Progress:
        """What its words show."""
        last = self.steps + self.tail - 1
        phase = "denoise" if self.step < self.steps else "decode" if self.step < last else "save"
        step = min(self.step, self.steps)
        return Progress(fence=self.fence, phase=phase, step=step, total=self.steps, tick=self.tick, kept=self.kept)


class Engine:
    """One process, from its start to its end: at most three jobs: in its tail, drawn, and prepared."""

    def __init__(
        self,
        world: World,
        random: Random,
        say: Callable[[Word], None],
        show: Callable[[], None],
        checkpoints: dict[str, int],
        kept: Callable[[str, int], None],
    ) -> None:
        """`say` puts a word into the agent's end of the socketpair, `show` lets it look at the shared words.

        `checkpoints`: those on this machine's disk; `kept` is told of another one.
        """
        self.world = world
        self._checkpoints = checkpoints
        self._kept = kept
        self.timeline = world.timeline
        self.random = random
        self.model = world.plan.models[0]
        #: LoRAs beside its weights, the most recently used first.
        self.loras: tuple[str, ...] = ()
        #: The counters of each slot.
        self.shown: list[Progress | None] = [None] * SLOTS
        self.cancel = [0] * SLOTS
        self.park = [0] * SLOTS
        self.alive = True
        #: The agent has killed it. / It has broken down before that, and is not heard any more.
        self.doomed = False
        self.at_fault = False
        #: In the order in which they came.
        self.works: list[Work] = []
        self._say = say
        self._show = show
        self.paused_until = 0.0
        self._later(random.choice((0.1, 0.5, 2.0)), self._ready)

    # ------------------------------------------------------------ what is done to it

    def run(self, job: RunJob, script: Script, made: Callable[[], None]) -> None:
        """Take a job. `made` is called when its files are on disk."""
        assert self.alive, "a job for a dead engine"
        there = [(work.job.job_id, work.fence) for work in self.works]
        assert all(work.postprocessing or work.wanted for work in self.works), (
            f"job {job.fence:#x} for an engine that draws one of {there}"
        )
        assert len(self.works) < SLOTS, f"job {job.fence:#x} for an engine that has {there}"
        assert all(work.job.slot != job.slot for work in self.works), f"a slot for two: {job.fence:#x}, {there}"
        work = Work(job, script, self.random, made)
        self._find(work)
        self.works.append(work)
        self._later(0.001 if script.behaviour == "die at once" else 0.05, lambda: self._take_up(work))

    def request_cancel(self, slot: int, fence: int) -> None:
        """The agent sets a cancel word."""
        self.cancel[slot] = fence
        for work in self.works:
            if work.begun_at is None and work.fence == fence:
                self._later(0.02, lambda work=work: self._take_up(work))

    def request_park(self, slot: int, fence: int) -> None:
        """The agent sets a park word."""
        self.park[slot] = fence

    def pause(self, seconds: float) -> None:
        self.paused_until = max(self.paused_until, self.timeline.now + seconds)

    def kill(self, after_s: float) -> None:
        """The agent kills it."""
        self.doomed = True
        self.timeline.after(after_s, lambda: self._exit("killed by SIGKILL"))

    def die(self, how: str, after_s: float = 0.0) -> None:
        """Its process ends, by itself or by a stranger's hand, whatever it was doing."""
        self._break_down()
        self.timeline.after(after_s, lambda: self._exit(how))

    def _break_down(self) -> None:
        if self.alive and not self.doomed:
            self.at_fault = True
            self.world.checker.crashed(self.works)

    def _exit(self, how: str) -> None:
        if self.alive:
            self.alive = False
            self.works.clear()
            self._say(Exited(how))

    # ------------------------------------------------------------ what it does

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self.timeline.after(seconds, lambda: self._wake(action))

    def _wake(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.timeline.now < self.paused_until:
            self.timeline.at(self.paused_until, lambda: self._wake(action))
            return
        action()

    def _ready(self) -> None:
        self._say(Ready(model=self.model, load_s=0.5))

    def _tell(self, word: FromEngine) -> None:
        if not self.at_fault:
            self._say(word)

    def cancelled(self, work: Work) -> bool:
        """Whether the cancel word of its slot is for this job."""
        return self.cancel[work.job.slot] == work.fence

    def hears(self, patience_s: float) -> bool:
        """Whether all that is cancelled hears of it within so long."""
        asleep = self.paused_until + patience_s > self.timeline.now
        return not asleep and not any(
            self.cancelled(work)
            and (work.stopped or work.script.behaviour == "deaf" or work.script.step_s + 0.1 > patience_s)
            for work in self.works
        )

    def _take_up(self, work: Work) -> None:
        """Begin a job, unless it must wait for the tail or the last steps before it."""
        if work.begun_at is not None or work not in self.works or self.at_fault:
            return
        prepared = self._before(work) is not None
        if len(self.works) > 1 and (work.job.alone or work.script.patient or (prepared and work.kept)):
            self.world.count("overlap: waits to be alone" if work.job.alone else "overlap: waits")
            if self.cancelled(work):
                self.world.count("overlap: cancelled while it waited")
                self._end(work, JobCancelled(fence=work.fence, model=self.model, loaded_loras=self.loras))
            return
        if work.script.behaviour == "die at once":
            self.die("killed by SIGSEGV")
            return
        if prepared:
            three = any(one.postprocessing for one in self.works)
            self.world.count("overlap: prepared beside a tail" if three else "overlap: prepared")
        work.begun_at = self.timeline.now
        self._load(work.script.loras)
        self.world.checker.begins(work, [other for other in self.works if other is not work])
        self._work(work)

    def _load(self, loras: tuple[str, ...]) -> None:
        """Bring a job's LoRAs beside the weights, where there is room for two."""
        if loras:
            self.world.count("loras: loaded" if set(loras) - set(self.loras) else "loras: there already")
            self.loras = (*loras, *(name for name in self.loras if name not in loras))[:2]

    def _find(self, work: Work) -> None:
        """Go on from the newest checkpoint of the job that is whole, whichever attempt wrote it."""
        kept = self._checkpoints.get(work.job.job_id, 0)
        if kept and self.random.random() < self.world.plan.torn:
            self.world.count("checkpoint: lost or torn")
            kept = self._checkpoints[work.job.job_id] = self.random.randint(0, kept - 1)
        if kept:
            self.world.count("checkpoint: gone on from")
            if kept > work.job.kept:
                self.world.count("checkpoint: gone on from a newer one than the broker knew of")
        work.kept, work.step = kept, kept - 1 if kept else -1

    def _keep(self, work: Work, steps: int) -> None:
        """So many steps of the job are on disk."""
        self._checkpoints[work.job.job_id] = max(steps, self._checkpoints.get(work.job.job_id, 0))
        work.kept, work.writing = steps, 0
        self._kept(work.job.job_id, work.fence)

    def _work(self, work: Work) -> None:
        """The end of a step, where the cancel word is looked at; or the beginning."""
        if work.stopped or work not in self.works:
            return
        script = work.script
        if self.cancelled(work) and script.behaviour != "deaf":
            before = self._before(work)
            self.world.count(
                "overlap: cancelled in its tail"
                if work.postprocessing
                else "overlap: cancelled while it was prepared"
                if before is not None
                else "cancelled while drawn"
            )
            self._end(work, JobCancelled(fence=work.fence, model=self.model, loaded_loras=self.loras))
            return
        if self._parks(work):
            self.world.count("parked")
            self._keep(work, work.step)
            self.world.checker.parked(work, work.step)
            word = JobParked(fence=work.fence, kept=work.step, model=self.model, loaded_loras=self.loras)
            self._end(work, word)
            return
        work.tick += 1
        if work.step >= 0 and self._before(work) is not None:
            # It is prepared, and waits for its first step: it lives.
            self.shown[work.job.slot] = work.progress()
            self._later(min(script.step_s, 0.1), lambda: self._work(work))
            return
        if work.step + 1 == work.steps and any(other.postprocessing for other in self.works):
            # Its tail waits for the one before it. It lives: nobody need be woken to see that.
            self.shown[work.job.slot] = work.progress()
            self._later(script.step_s, lambda: self._work(work))
            return
        work.step += 1
        if work.writing:
            self._keep(work, work.writing)
        if self.world.plan.checkpoint_steps and 0 < work.step <= work.steps:
            due = work.step % self.world.plan.checkpoint_steps == 0 or work.step == work.steps
            work.writing = work.step if due else 0
        self.shown[work.job.slot] = work.progress()
        self._show()
        if work.step == work.steps and script.overlaps and not work.job.alone:
            work.postprocessing = True
            self._tell(PostprocessBegun(fence=work.fence, model=self.model, loaded_loras=self.loras))
        self._ask_for_next()
        if work.step == work.goes_wrong_at:
            self._go_wrong(work)
        elif work.step < work.steps + work.tail:
            self._later(script.step_s, lambda: self._work(work))
        else:
            self._finish(work)

    def _before(self, work: Work) -> Work | None:
        """The job that is drawn, and behind which this one is prepared, or waits."""
        drawn = next((one for one in self.works if not one.postprocessing and not one.over), work)
        return drawn if drawn is not work and not work.postprocessing and not work.over else None

    def _ask_for_next(self) -> None:
        """Who takes its last steps, and has nothing beside them but a tail that leaves room, asks for the next job."""
        drawn = next((one for one in self.works if not one.postprocessing and not one.over), None)
        if (
            drawn is None
            or drawn.begun_at is None
            or drawn.wanted
            or any(one.postprocessing and one.script.crowds for one in self.works)
            or drawn.job.alone
        ):
            return
        if 1 <= drawn.step < drawn.steps <= drawn.step + drawn.script.asks_before:
            drawn.wanted = True
            if len(self.works) > 1:
                tail = any(one.postprocessing for one in self.works)
                self.world.count(f"overlap: asks {'beside a tail' if tail else 'before the one before is answered'}")
            self._tell(NextRequested(fence=drawn.fence))

    def _parks(self, work: Work) -> bool:
        """Whether it has taken a step, has further ones to take, and is to be handed back."""
        asked = self.park[work.job.slot] == work.fence or 0 < work.job.park_at <= work.step
        return asked and not work.postprocessing and 0 < work.step < work.steps

    def _finish(self, work: Work) -> None:
        assert work.begun_at is not None
        work.made()
        fence, run_s = work.fence, self.timeline.now - work.begun_at
        artefact = Artefact(name="video.mp4", media_type="video/mp4", size=1, sha256=f"{fence:064x}")
        result = Result(artefacts=(artefact,), seed=fence & 0xFFFF_FFFF)
        self._end(work, JobFinished(fence=fence, result=result, run_s=run_s, model=self.model, loaded_loras=self.loras))

    def _go_wrong(self, work: Work) -> None:
        fence = work.fence
        if work.postprocessing:
            self.world.count("overlap: went wrong in its tail")
        match work.script.behaviour:
            case "error":
                self._end(
                    work,
                    JobFailed(
                        fence=fence, kind="engine_error", message="it raised", model=self.model, loaded_loras=self.loras
                    ),
                )
            case "invalid":
                self._end(
                    work,
                    JobFailed(
                        fence=fence,
                        kind="invalid_input",
                        message="no such size",
                        model=self.model,
                        loaded_loras=self.loras,
                    ),
                )
            case "oom":
                self._end(work, JobFailed(fence=fence, kind="out_of_memory", message="too big"))
            case "fatal":
                self.world.checker.crashed([work])
                self._tell(JobFailed(fence=fence, kind="engine_crashed", message="illegal address", fatal=True))
                self.works.remove(work)
                self.die("exit code 1", self.random.choice((0.1, 10.0)))
            case "die":
                self.die("killed by SIGSEGV")
            case "hang":
                work.stopped = True
                self.world.checker.hangs(work)
            case "junk":
                self._speak_no_more(PeerLimiter(), work)
            case "close":
                self._speak_no_more(Closed(), work)

    def _speak_no_more(self, word: Word, work: Work) -> None:
        work.stopped = True
        if not self.at_fault:
            self._break_down()
            self.at_fault = True
            self._say(word)

    def _end(self, work: Work, word: FromEngine) -> None:
        """Answer a job; where another was prepared behind it, that one has the turn already, and may say something before."""
        behind = work.wanted and not work.postprocessing and self.works[-1] is not work and self._before(work) is None
        if behind and self.random.random() < 0.5:
            work.over = work.stopped = True
            self._later(self.random.choice((0.05, 0.5, 1.5)), lambda: self._answer(work, word))
        else:
            self._answer(work, word)

    def _answer(self, work: Work, word: FromEngine) -> None:
        if work not in self.works:
            return
        self.works.remove(work)
        self._tell(word)
        self._ask_for_next()
        for other in [*self.works]:
            self._take_up(other)
