"""An agent core on a stage: the time is a number, broker and engine are what the test says."""

from __future__ import annotations

from msgspec.structs import replace

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Result, encode_spec
from workers.agent import effects as fx
from workers.agent import invariants
from workers.agent.core import AgentCore
from workers.agent.dirs import WorkerDirs
from workers.agent.identity import Identity
from workers.agent.spooled_results import SpooledResult
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
    Setup,
)
from workers.ipc.shared import Progress
from workers.supervisor.agent_policy import AgentPolicy

CARD = ModelCard(name="demo", engine="fake", output="video")
SETUP = Setup(models=(CARD,), preload="demo", device="cpu")
INFO = m.WorkerInfo(host="here", pid=7, device="cpu", models=(CARD,))
IDENTITY = Identity(name="cpu-0", boot="b1", info=INFO, setup=SETUP, dirs=WorkerDirs(artefacts="/home/artefacts"))
RESULT = Result(artefacts=(Artefact(name="video.mp4", media_type="video/mp4", size=3, sha256="0" * 64),), seed=5)
EPOCH = 3

#: Where a worker with a depot has its files, and a job with an input there.
FAR = WorkerDirs(artefacts="/home/artefacts", spool="/home/spool/cpu-0", inputs="/home/inputs")
SHA = "ab" * 32
SPEC = JobSpec(
    model="demo",
    output="video",
    prompt="x",
    width=16,
    height=16,
    num_inference_steps=2,
    seed=1,
    image=f"/edge/uploads/{SHA}.png",
)
WITH_INPUT = encode_spec(SPEC)


def fence(counter: int) -> int:
    """A fence as this broker gives them."""
    return EPOCH << 32 | counter


class Stage:
    """One core, the present moment, and the effects of the last event."""

    def __init__(
        self,
        checkpoint_s: float = 0.0,
        dirs: WorkerDirs = IDENTITY.dirs,
        left: tuple[SpooledResult, ...] = (),
        machines: int = 1,
        **policy: float,
    ) -> None:
        self.now = 1000.0
        setup = replace(SETUP, checkpoint_s=checkpoint_s)
        self.core = AgentCore(
            replace(IDENTITY, setup=setup, dirs=dirs, machines=machines), AgentPolicy(**policy), self.now, left
        )
        self.out: list[fx.Effect] = []

    # ---- time and events

    def pass_time(self, seconds: float) -> Stage:
        """Later; nothing else happens."""
        self.now += seconds
        return self

    def tick(self, after: float = 0.0) -> list[fx.Effect]:
        self.now += after
        self._out(self.core.tick(self.now))
        gone = bool(self.effects(fx.Exit))
        assert gone or self.core.next_deadline() > self.now, "a deadline that a tick does not meet"
        return self.out

    def broker(self, message: m.ToAgent | None) -> list[fx.Effect]:
        return self._out(self.core.from_broker(message, self.now))

    def engine(self, message: FromEngine) -> list[fx.Effect]:
        return self._out(self.core.from_engine(message, self.now))

    def words(
        self, counter: int, phase: str, step: int = 0, total: int = 0, tick: int = 1, kept: int = 0
    ) -> list[fx.Effect]:
        progress = Progress(fence=fence(counter), phase=phase, step=step, total=total, tick=tick, kept=kept)
        return self._out(self.core.progressed((progress,), self.now))

    def exited(self, how: str = "exit code 1", lost: str = "") -> list[fx.Effect]:
        return self._out(self.core.engine_exited(how, self.now, lost))

    def machine_stops(self, reason: str) -> list[fx.Effect]:
        """A machine is being stopped; "": all are there again."""
        self.core.engine_slot.engine.life.waits_for = "waiting for 1 of 2 machines" if reason else ""
        return self._out(self.core.machine_stops(reason, self.now))

    def rank_ended(self, how: str) -> list[fx.Effect]:
        return self._out(self.core.engine_closed(self.now, how))

    def leave(self, reason: str = "stopped by SIGTERM") -> list[fx.Effect]:
        return self._out(self.core.leave(reason, self.now))

    def end(self, reason: str = "stopped by SIGTERM") -> list[fx.Effect]:
        return self._out(self.core.stop(reason, self.now))

    def begin_failed(self, counter: int, reason: str) -> list[fx.Effect]:
        return self._out(self.core.begin_failed(fence(counter), reason, self.now))

    def put(self, counter: int = 1, fault: str = "") -> list[fx.Effect]:
        return self._out(self.core.files_put(f"j{counter}", fence(counter), fault, self.now))

    def delayed(self, counter: int, fault: str) -> list[fx.Effect]:
        return self._out(self.core.depot_failed(fence(counter), fault, self.now))

    def fetched(self, counter: int = 1, fault: str = "", *, gone: bool = False) -> list[fx.Effect]:
        return self._out(self.core.inputs_fetched(fence(counter), fault, self.now, gone=gone))

    def closed(self) -> list[fx.Effect]:
        return self._out(self.core.engine_closed(self.now))

    def _out(self, effects: list[fx.Effect]) -> list[fx.Effect]:
        self.out = effects
        invariants.check(self.core)
        return effects

    # ---- what came out

    def sent(self, kind: type[m.Message]) -> list[m.Message]:
        """Messages of this kind among the last effects."""
        return [
            effect.message
            for effect in self.out
            if isinstance(effect, fx.SendBroker) and isinstance(effect.message, kind)
        ]

    def effects(self, kind: type) -> list[fx.Effect]:
        return [effect for effect in self.out if isinstance(effect, kind)]

    def orders(self) -> list[fx.Effect]:
        """The last effects but messages and log lines: what happens to engine, files and process."""
        return [effect for effect in self.out if not isinstance(effect, (fx.SendBroker, fx.Note, fx.Report))]

    # ---- scenes

    def registered(self) -> Stage:
        """The engine is being started, the broker has said welcome."""
        self.tick()
        self.welcome()
        return self

    def welcome(self, epoch: int = EPOCH) -> list[fx.Effect]:
        return self.broker(m.Welcome(epoch=epoch))

    def idle(self) -> Stage:
        """Registered, and the engine is ready."""
        self.registered()
        self.engine(Ready(model="demo", load_s=1.0))
        return self

    def idle_again(self) -> None:
        """The next engine is ready."""
        self.engine(Ready(model="demo", load_s=1.0))

    def run(
        self, counter: int, job: str = "", predicted_s: float = 0.0, body: bytes = b"spec", *, alone: bool = False
    ) -> list[fx.Effect]:
        """The broker's order; by default job "j<counter>"."""
        job_id = job or f"j{counter}"
        return self.broker(
            m.Run(job_id=job_id, fence=fence(counter), lease_s=6.0, predicted_s=predicted_s, alone=alone, body=body)
        )

    def cancel(self, counter: int, grace_s: float = 0.0, job: str = "") -> list[fx.Effect]:
        return self.broker(m.Cancel(job_id=job or f"j{counter}", fence=fence(counter), grace_s=grace_s))

    def park(self, counter: int, job: str = "") -> list[fx.Effect]:
        return self.broker(m.Park(job_id=job or f"j{counter}", fence=fence(counter)))

    def ack(self, counter: int, *, accepted: bool = True) -> list[fx.Effect]:
        return self.broker(m.ResultAck(job_id=f"j{counter}", fence=fence(counter), accepted=accepted))

    def busy(self, counter: int = 1, predicted_s: float = 0.0) -> Stage:
        """Idle, then given job `counter`, which the engine has taken up."""
        self.idle()
        self.run(counter, predicted_s=predicted_s)
        self.words(counter, "")
        return self

    def tail(self, counter: int = 1, model: str = "demo", loras: tuple[str, ...] = ()) -> list[fx.Effect]:
        """The engine takes another job beside what is left of this one."""
        return self.engine(PostprocessBegun(fence=fence(counter), model=model, loaded_loras=loras))

    def next_requested(self, counter: int = 1) -> list[fx.Effect]:
        """The engine asks for the next job, to prepare it beside the last steps of this one."""
        return self.engine(NextRequested(fence=fence(counter)))

    def overlapped(self, *, begun: bool = True, alone: bool = False) -> Stage:
        """Job 1 is in its tail, job 2 has been given to the engine and, if `begun`, taken up."""
        self.busy(1)
        self.tail(1)
        self.run(2, alone=alone)
        if begun:
            self.words(2, "denoise", 1, 10)
        return self

    def finish(self, counter: int = 1, loras: tuple[str, ...] = ()) -> list[fx.Effect]:
        done = JobFinished(fence=fence(counter), result=RESULT, run_s=2.5, model="demo", loaded_loras=loras)
        return self.engine(done)

    def fail(self, counter: int = 1, kind: m.FailureKind = "engine_error", **fields: object) -> list[fx.Effect]:
        return self.engine(JobFailed(fence=fence(counter), kind=kind, model="demo", **fields))  # type: ignore[arg-type]

    def stop(self, counter: int = 1) -> list[fx.Effect]:
        return self.engine(JobCancelled(fence=fence(counter), model="demo"))

    def parked(self, counter: int = 1, kept: int = 3) -> list[fx.Effect]:
        return self.engine(JobParked(fence=fence(counter), kept=kept, model="demo"))

    def silence(self, seconds: float, every: float = 0.5) -> Stage:
        """The broker answers every heartbeat for this long; nothing else happens."""
        end = self.now + seconds
        while self.now < end:
            self.pass_time(min(every, end - self.now))
            self.broker(m.HeartbeatAck(epoch=EPOCH))
            self.tick()
        return self


def run_job(counter: int, body: bytes = b"spec", *, slot: int = 0, alone: bool = False) -> RunJob:
    """What the engine gets for `Stage.run(counter)`."""
    out_dir = f"/home/artefacts/j{counter}/{fence(counter)}"
    return RunJob(
        job_id=f"j{counter}",
        fence=fence(counter),
        body=body,
        out_dir=out_dir,
        slot=slot,
        alone=alone,
        checkpoints=f"/home/artefacts/.checkpoints/j{counter}",
    )


RESULT_BODY = codec.encode_body(RESULT)


def refused(stage: Stage) -> dict[int, str]:
    """Fence counter -> reason of what the last effects hand back."""
    return {message.fence - fence(0): message.reason for message in stage.sent(m.Refused)}


def failed(stage: Stage) -> dict[int, str]:
    """Fence counter -> kind of what the last effects say has failed."""
    return {message.fence - fence(0): message.kind for message in stage.sent(m.Failed)}


def held(stage: Stage) -> list[int]:
    return [item.fence - fence(0) for item in stage.core.capacity.held(stage.now)]
