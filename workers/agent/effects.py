"""All that the agent's core may have its shell do, and what the shell measures for it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from broker.runtime.log_actions import Action
from broker.wire.device import DeviceHealth
from broker.wire.jobspec import Artefact
from broker.wire.messages import Finished, Message
from workers.ipc.messages import RunJob, Setup
from workers.supervisor.messages import EngineReady, LoadTrouble, NameHeld


class SendBroker(Struct, frozen=True):
    """Send now or not at all: nothing waits for a broker that is not there; all that matters is sent again."""

    message: Message


class StartEngine(Struct, frozen=True):
    """Start an engine process with new shared counters and send it `setup`. Answered by `engine_exited`, at once if it cannot be
    started.
    """

    setup: Setup


class StartSpare(Struct, frozen=True):
    """Start an engine process that takes the place of the next `StartEngine`'s, unless there is one."""


class StartJob(Struct, frozen=True):
    """Make the attempt's directory, then give the job to the engine. Answered by `begin_failed` if the directory cannot be made."""

    message: RunJob


class RequestCancel(Struct, frozen=True):
    """Request that the engine stop the job of this fence, in this slot."""

    slot: int
    fence: int


class RequestPark(Struct, frozen=True):
    """Request that the engine hand the job of this fence, in this slot, back with a checkpoint."""

    slot: int
    fence: int


class KillEngine(Struct, frozen=True):
    """SIGKILL the engine's process group. Answered by `engine_exited` when it is gone."""

    reason: str


class RemoveDir(Struct, frozen=True):
    """The files of this attempt are garbage."""

    job_id: str
    fence: int


class KeepResult(Struct, frozen=True):
    """Keep a result on disk, of an attempt that was given to the engine `age_s` ago: its files are about to be put into the depot."""

    message: Finished
    age_s: float


class PutFiles(Struct, frozen=True):
    """Put these files of an attempt into the depot. Answered by `files_put`. `again`: an agent before this one may have put some."""

    job_id: str
    fence: int
    files: tuple[Artefact, ...]
    again: bool = False


class PutDraft(Struct, frozen=True):
    """Put what a parked job looks like into the depot, if there is anything."""

    job_id: str
    fence: int


class PutParked(Struct, frozen=True):
    """Put the newest checkpoints of a parked attempt into the depot, for so long. Answered by `files_put`."""

    job_id: str
    fence: int
    budget_s: float


class FetchInputs(Struct, frozen=True):
    """Fetch inputs of an attempt from the depot, with the checkpoints of this job ("": none) that are newer than those of this machine.

    Answered by `inputs_fetched`.
    """

    fence: int
    names: tuple[str, ...]
    job_id: str = ""


class Revoke(Struct, frozen=True):
    """Neither put nor fetch any more for this attempt."""

    fence: int


class DiscardFiles(Struct, frozen=True):
    """Remove what was put of this attempt into the depot."""

    job_id: str
    fence: int


class SetDepotKey(Struct, frozen=True):
    """Sign requests to the depot with this key."""

    key: str


class RemoveCheckpoints(Struct, frozen=True):
    """The job has ended for good: it will not go on from any of these."""

    job_id: str


class Report(Struct, frozen=True):
    """Send a message to the supervisor."""

    message: EngineReady | LoadTrouble | NameHeld


class Note(Struct, frozen=True, kw_only=True):
    """Write a line to the log."""

    action: Action
    level: Literal["debug", "info", "warning", "error"] = "info"
    job_id: str = ""
    fence: int = 0
    detail: str = ""
    trace_id: str = ""


class Exit(Struct, frozen=True):
    """Leave the loop and end the process with this code (`workers.supervisor.exit_codes`)."""

    code: int


#: Request to the depot.
DepotEffect = KeepResult | PutFiles | PutDraft | PutParked | FetchInputs | Revoke | DiscardFiles | SetDepotKey

Effect = (
    SendBroker
    | StartEngine
    | StartSpare
    | StartJob
    | RequestCancel
    | RequestPark
    | KillEngine
    | RemoveDir
    | DepotEffect
    | RemoveCheckpoints
    | Report
    | Note
    | Exit
)


class Stats(Struct, frozen=True, kw_only=True):
    """Measurements of device and engine, taken by the shell; -1 where not known."""

    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    utilisation: float = -1.0
    temperature_c: float = -1.0
    health: DeviceHealth = DeviceHealth()
