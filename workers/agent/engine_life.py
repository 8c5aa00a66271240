"""The life of the engine process in the agent: one table, and the times that go with each state.

- `down`: no process; one is started at `start_at` (back-off), or not yet when that is None.
- `loading`: the process is there, its model is not; `load_by` is the end of its patience.
- `idle`: takes a job, though the postprocessing of the last one may still run in it. `busy`: takes none, it draws one.
- `stopping`: killed, or about to end by itself (it reported so, or closed its socket); it takes nothing any more. `kill_at` is when an
engine
  that was to end by itself is killed, `unkillable_at` when a killed one is given up.

Only `exited` leads out of `stopping`: a GPU is free when the process is gone, not when a signal was sent.
"""

from __future__ import annotations

from typing import Literal, cast

from msgspec import structs

from broker.wire.jobspec import Phase
from broker.wire.messages import EngineState, Loading
from workers.agent.errors import EngineStateError
from workers.ipc.shared import Progress
from workers.supervisor import restart
from workers.supervisor.agent_policy import AgentPolicy

State = Literal["down", "loading", "idle", "busy", "stopping"]
Event = Literal["spawn", "ready", "run", "done", "stop", "exit"]

#: state -> event -> next state. A missing pair is a bug and raises `EngineStateError`.
TABLE: dict[State, dict[Event, State]] = {
    "down": {"spawn": "loading"},
    "loading": {"ready": "idle", "stop": "stopping", "exit": "down"},
    "idle": {"run": "busy", "stop": "stopping", "exit": "down"},
    "busy": {"done": "idle", "stop": "stopping", "exit": "down"},
    "stopping": {"exit": "down"},
}

#: State in heartbeats.
_SHOWN: dict[State, EngineState] = {
    "down": "restarting",
    "loading": "loading",
    "idle": "ready",
    "busy": "busy",
    "stopping": "restarting",
}


class _Process:
    """Facts of the engine's present process, or of the last one."""

    def __init__(self, spawned_at: float, shows: Loading | None = None) -> None:
        self.spawned_at = spawned_at
        #: Making ready, as it shows it.
        self.shows = shows
        self.ready_at: float | None = None
        #: Whether it has finished a job.
        self.proved = False
        #: Whether its end is its own fault.
        self.blamed = True

    @property
    def load_error(self) -> str:
        """Reason why it, or the process before it, could not load the model; "" when that could be loaded."""
        return self.shows.error if self.shows is not None else ""


class EngineLife:
    """State, deadlines and restarts of one agent's engine."""

    def __init__(self, policy: AgentPolicy, now: float) -> None:
        self._policy = policy
        self.state: State = "down"
        self.start_at: float | None = now
        self.load_by: float | None = None
        self.kill_at: float | None = None
        self.unkillable_at: float | None = None
        self._starts = 0
        self._streak = 0
        self._memory_streak = 0
        self._process = _Process(now)
        #: What it waits for before a process is started, in words; "": nothing.
        self.waits_for = ""

    def _move(self, event: Event) -> None:
        try:
            self.state = TABLE[self.state][event]
        except KeyError:
            raise EngineStateError(f"the engine is {self.state}, it cannot {event} (life {self._starts})") from None

    @property
    def shown(self) -> EngineState:
        """The state in a heartbeat's words."""
        return "starting" if self._starts == 0 else _SHOWN[self.state]

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.state != "down"

    def hold_back(self) -> None:
        """Start no process before `let_start`."""
        self.start_at = None

    def let_start(self, now: float) -> None:
        """Allow a start again."""
        self.start_at = now

    def spawn(self, now: float) -> None:
        """A process is being started."""
        self._move("spawn")
        self._starts += 1
        self.start_at = None
        self.load_by = now + self._policy.load_budget_s
        self._process = _Process(now, shows=Loading(error=self._process.load_error))

    def ready(self, now: float) -> None:
        """The model is in memory."""
        self._move("ready")
        self.load_by = None
        self._process.shows = None
        self._process.ready_at = now

    def observe(self, progress: Progress) -> None:
        """Take what its process shows of making the model ready."""
        if self.state == "loading" and progress.phase:
            self._process.shows = Loading(
                phase=cast("Phase", progress.phase),
                step=progress.step,
                total=progress.total,
                error=self._process.load_error,
            )

    def loading(self, now: float) -> Loading | None:
        """Stage of making ready that keeps it from taking a job; None when none does."""
        if self.waits_for and self.state == "down":
            return Loading(phase="", error=self.waits_for)
        if self._process.shows is None or (self.state != "loading" and not self._process.load_error):
            return None
        return structs.replace(self._process.shows, age_s=max(0.0, now - self._process.spawned_at))

    def could_not_load(self, error: str) -> None:
        """Its process is gone, and its model was never ready: the reason that the next one reports until it is."""
        self._process.shows = Loading(error=error)

    def run(self) -> None:
        """Note that it was given a job."""
        self._move("run")

    def free(self) -> None:
        """Note that it takes a job again, if it was busy: it has ended the last one, or come to its postprocessing."""
        if self.state == "busy":
            self._move("done")

    def finished_one(self) -> None:
        """Note that it has finished a job."""
        self._process.proved = True

    def has_leaked(self, jobs: int, now: float) -> bool:
        """Whether to replace it, now that so many jobs in a row ran out of memory; if so, that counts as done."""
        if self._process.ready_at is None:
            return False
        choice = restart.decide_memory(
            self._memory_streak,
            jobs=jobs,
            finished=self._process.proved,
            served_s=now - self._process.ready_at,
            load_s=self._process.ready_at - self._process.spawned_at,
        )
        self._memory_streak = choice.streak
        return choice.replace

    def ending(self, now: float) -> None:
        """Note that it is about to end by itself."""
        self._move("stop")
        self.load_by = None
        self.kill_at = now + self._policy.exit_s

    def killed(self, now: float, *, blamed: bool) -> None:
        """SIGKILL is on its way. `blamed`: for a fault of the engine."""
        if self.state != "stopping":
            self._move("stop")
        self.load_by = self.kill_at = None
        self.unkillable_at = now + self._policy.unkillable_s
        self._process.blamed = blamed

    def exited(self, now: float, *, blamed: bool = True) -> float:
        """The process is gone, and may be to blame for it. Seconds until the next is started."""
        self._move("exit")
        healthy = self._process.ready_at is not None and (
            self._process.proved or now - self._process.ready_at >= self._policy.good_life_s
        )
        choice = restart.decide(self._streak, healthy=healthy, blamed=blamed and self._process.blamed)
        self._streak = choice.streak
        self.load_by = self.kill_at = self.unkillable_at = None
        self.start_at = now + choice.delay_s
        return choice.delay_s

    @property
    def was_ready(self) -> bool:
        """Whether this life got as far as a loaded model."""
        return self._process.ready_at is not None

    def deadlines(self) -> list[float]:
        """Times at which something is to be done."""
        start_at = None if self.waits_for else self.start_at
        times = (start_at, self.load_by, self.kill_at, self.unkillable_at)
        return [at for at in times if at is not None]
