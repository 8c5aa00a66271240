"""The engine's process as the agent keeps it: started, killed, given up; the model in its memory; whether the device can be used.

Its state and its times are `EngineLife`'s; what must happen is emitted as an effect.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.runtime.log_actions import Action
from broker.wire.loras import short_list
from workers.agent import effects as fx
from workers.agent.engine_life import EngineLife
from workers.agent.truncate import MAX_TEXT, clip
from workers.ipc.messages import LoadFailed, Ready, Setup
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.messages import EngineReady, LoadTrouble


class Engine:
    """Process, model and device of one worker."""

    def __init__(self, setup: Setup, policy: AgentPolicy, emit: Callable[[fx.Effect], None], now: float) -> None:
        self.life = EngineLife(policy, now)
        #: The model in memory; "" when none. LoRAs beside its weights, as a heartbeat names them.
        self.model = ""
        self.loaded_loras: tuple[str, ...] = ()
        #: Why the device is not to be used; "": it is.
        self.fault = ""
        self._setup = setup
        self._policy = policy
        self._emit = emit
        self._load_trouble = ""
        #: Whether this process was sent SIGKILL, which may not have taken effect yet.
        self._killed = False
        #: Ids of the jobs in a row that ran out of memory in this process.
        self._out_of_memory: set[str] = set()

    def holds(self, model: str, loaded_loras: tuple[str, ...] = ()) -> None:
        """Note what is in its memory."""
        self.model, self.loaded_loras = model, short_list(loaded_loras)

    def ready(self, message: Ready, now: float) -> None:
        """The model is in memory."""
        self.life.ready(now)
        self.model = message.model
        self._emit(fx.Report(EngineReady()))
        if self._policy.spare_engine:
            self._emit(fx.StartSpare())
        self._emit(fx.Note(action=Action.ENGINE_READY, detail=f"{message.model} loaded in {message.load_s:.1f} s"))

    def load_failed(self, message: LoadFailed, now: float) -> None:
        """The model cannot be loaded, and the process ends."""
        named = message.message.startswith(("model ", "[models."))
        self._load_trouble = (
            message.message if named else f"model {message.model!r} cannot be loaded: {message.message}"
        )
        self.life.ending(now)
        self._emit(fx.Note(action=Action.LOAD_FAILED, level="error", detail=self._load_trouble))

    def finished_one(self) -> None:
        """A job was finished: neither process nor memory is at fault."""
        self.life.finished_one()
        self._out_of_memory.clear()

    def failed_one(self) -> None:
        """A job failed for another reason than lack of memory."""
        self._out_of_memory.clear()

    def has_leaked(self, job_id: str, now: float) -> str:
        """Note that this job ran out of memory; why to replace the process now, else "".

        A job that is tried again counts once: it may be too large.
        """
        self._out_of_memory.add(job_id)
        jobs = len(self._out_of_memory)
        if self.life.state in ("idle", "busy") and self.life.has_leaked(jobs, now):
            return f"{jobs} jobs in a row ran out of memory"
        return ""

    def closed(self, now: float) -> None:
        """It closed its socket, and its process is still there."""
        if self.life.state in ("loading", "idle", "busy"):
            self.life.ending(now)

    def broken(self, reason: str, now: float) -> None:
        """Kill what is left of it, unless that has been done."""
        if not self._killed:
            self.kill(reason, now, blamed=True)

    def exited(self, how: str, now: float, *, blamed: bool) -> None:
        """The process is gone, or could not be started; the next one is planned, unless the device is broken. `blamed`: it may have ended
        for a fault of its own."""
        self._out_of_memory.clear()
        delay_s = self.life.exited(now, blamed=blamed)
        self.holds("")
        then = f"next start in {delay_s:g} s"
        if self.fault:
            self.life.hold_back()
            then = "not started again, as the device is broken"
        self._emit(fx.Note(action=Action.ENGINE_EXITED, level="warning", detail=f"{how}; {then}"))

    def report_load_trouble(self, how: str) -> None:
        """Return why its process, which is gone, never had its model."""
        trouble = clip(self._load_trouble or f"the engine ended before its model was loaded: {how}", MAX_TEXT)
        self.life.could_not_load(trouble)
        if not self.life.waits_for:
            # Else a machine was lost meanwhile, which is no fault of the model.
            self._emit(fx.Report(LoadTrouble(message=trouble)))

    def condemn(self, fault: str) -> None:
        """The device is broken: no more jobs, and no other process once this one has ended."""
        self.fault = fault
        if not self.life.alive:
            self.life.hold_back()
        self._emit(fx.Note(action=Action.DEVICE_FAULT, level="error", detail=f"no more jobs: {fault}"))

    def abandon(self, now: float) -> None:
        """The process is gone, and there will be no other."""
        self.life.exited(now)
        self.holds("")

    def timers(self, now: float) -> bool:
        """Start or kill it when that is due; whether it must be given up, as even SIGKILL has not ended it."""
        life = self.life
        if life.start_at is not None and now >= life.start_at and not life.waits_for:
            life.spawn(now)
            self._load_trouble, self._killed = "", False
            self._emit(fx.StartEngine(self._setup))
        elif life.load_by is not None and now >= life.load_by:
            self._load_trouble = f"model {self._setup.preload!r} did not load in {self._policy.load_budget_s:g} s"
            self.kill(self._load_trouble, now, blamed=True)
        elif life.kill_at is not None and now >= life.kill_at:
            self.kill("it did not end by itself", now, blamed=True)
        elif life.unkillable_at is not None and now >= life.unkillable_at:
            life.unkillable_at = None
            self._emit(fx.Note(action=Action.ENGINE_UNKILLABLE, level="error"))
            return True
        return False

    def kill(self, reason: str, now: float, *, blamed: bool) -> None:
        """SIGKILL the process, which must be alive. `blamed`: for a fault of its own."""
        self._killed = True
        self.life.killed(now, blamed=blamed)
        self._emit(fx.KillEngine(reason))
