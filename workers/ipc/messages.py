"""Messages between an agent and its engine: every struct that crosses their socketpair."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from broker.runtime.credential_files import CredentialFiles
from broker.wire.jobspec import ModelCard, Profile, Result
from broker.wire.loras import LoraMemory
from broker.wire.messages import FailureKind
from workers.ipc.shared import SLOTS
from workers.models.model import ModelSetup

#: Environment of an engine: packages that it does as if they were not installed, separated by commas.
ENGINE_WITHOUT = "ZOETROPE_ENGINE_WITHOUT"


class Setup(Struct, frozen=True, kw_only=True, tag="setup"):
    """First message: the models this engine may load, and the one to load now. Answered by `Ready` or `LoadFailed`."""

    models: tuple[ModelCard, ...]
    preload: str
    #: "cpu" or "cuda"; only its own GPU is visible to the process.
    device: str
    #: torch CPU threads; 0 leaves torch's default.
    threads: int = 0
    #: "auto" (bf16 on a GPU that has it, else float32), or a torch dtype name.
    dtype: str = "auto"
    #: Whether a job's postprocessing may run beside the next job.
    overlap: bool = True
    #: By the model's name; one that is not named here is made ready as it is.
    setups: dict[str, ModelSetup] = field(default_factory=dict)
    #: File in which is kept what jobs take; "": it is not kept.
    peaks: str = ""
    lora_memory: LoraMemory = LoraMemory()
    #: Seconds of denoising between two checkpoints; 0: none are written but where a job is parked.
    checkpoint_s: float = 0.0
    #: What the files of jobs are signed with; None: they are not.
    credentials: CredentialFiles | None = None


class RunJob(Struct, frozen=True, kw_only=True, tag="run"):
    """Draw this. Answered by one of `JobEnding` with the same fence, and perhaps by `NextRequested` and `PostprocessBegun` before."""

    job_id: str
    fence: int
    #: The job spec's bytes, as the client's edge wrote them.
    body: bytes
    #: Existing empty directory for the files.
    out_dir: str
    profile: Profile = "normal"
    #: Which row of the shared counters is this job's.
    slot: Annotated[int, Meta(ge=0, lt=SLOTS)] = 0
    #: Begin when nothing else is going on, and let nothing else begin before its end.
    alone: bool = False
    #: Directory of the job's checkpoints, which may not exist yet; "": none are written, and none is looked for.
    checkpoints: str = ""
    #: Denoising steps that earlier attempts left in a checkpoint, as far as is known.
    kept: int = 0
    #: After this denoising step write a checkpoint and a draft (`job_files.draft_names`) of each output, and end as `JobParked`; 0: never.
    park_at: int = 0


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine can take a job; `model` is in memory."""

    model: str
    load_s: float = 0.0


class LoadFailed(Struct, frozen=True, kw_only=True, tag="load_failed"):
    """The model to preload cannot be loaded; the engine exits after this."""

    model: str
    message: Annotated[str, Meta(max_length=8192)]


class NextRequested(Struct, frozen=True, kw_only=True, tag="next"):
    """This job is about to be denoised: the next one may be given now, to be prepared beside its last steps."""

    fence: int


class PostprocessBegun(Struct, frozen=True, kw_only=True, tag="postprocess"):
    """The rest of this job runs beside the next one: the engine takes another. `model` is in memory."""

    fence: int
    model: str = ""
    #: Beside its weights, the most recently used first.
    loaded_loras: tuple[str, ...] = ()


class JobFinished(Struct, frozen=True, kw_only=True, tag="finished"):
    """All files are written, fsynced and hashed."""

    fence: int
    result: Result
    run_s: float
    #: The model now in memory, and the LoRAs beside its weights, the most recently used first.
    model: str = ""
    loaded_loras: tuple[str, ...] = ()


class JobFailed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The job failed. `fatal`: the process is not to be trusted any more (poisoned CUDA context) and exits after this."""

    fence: int
    kind: FailureKind
    message: Annotated[str, Meta(max_length=8192)] = ""
    fatal: bool = False
    model: str = ""
    loaded_loras: tuple[str, ...] = ()


class JobCancelled(Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The job stopped where the cancel flag reached it; the engine is clean and can take the next."""

    fence: int
    model: str = ""
    loaded_loras: tuple[str, ...] = ()


class JobParked(Struct, frozen=True, kw_only=True, tag="parked"):
    """The job stopped after a step, on request; `kept` of its denoising steps lie in a checkpoint. The engine can take the next."""

    fence: int
    kept: int
    model: str = ""
    loaded_loras: tuple[str, ...] = ()


ToEngine = Setup | RunJob

JobEnding = JobFinished | JobFailed | JobCancelled | JobParked

FromEngine = Ready | LoadFailed | NextRequested | PostprocessBegun | JobFinished | JobFailed | JobCancelled | JobParked
