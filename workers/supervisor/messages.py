"""Messages between the supervisor and its agents, on a socketpair, framed as in `ipc`.

The supervisor sends the configuration and then nothing; at the end of its stream the agent leaves. The agent reports what
the supervisor needs: whether its engine ever became ready, which processes to kill if the agent itself dies without a message, and whether
a name that was taken is its own again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from broker.runtime.credential_files import CredentialFiles
from broker.wire.jobspec import ModelCard
from broker.wire.loras import LoraMemory
from workers.models.model import ModelSetup
from workers.supervisor.agent_policy import AgentPolicy


class AgentConfig(Struct, frozen=True, kw_only=True, tag="config"):
    """Configuration of one agent; the first message on its link."""

    name: str
    #: The broker's endpoint for workers.
    endpoint: str
    #: File of the key that a tcp endpoint needs; "": it is ipc.
    key_file: str = ""
    #: Absolute directory of all artefacts.
    artefacts: str
    #: URL of the depot that files are put into; "": that directory is the depot. Then also where files wait, where fetched inputs are kept,
    #: and how many bytes of these.
    depot: str = ""
    #: URL of the object store that results are put into; "": they go to the depot as all else does.
    results_store: str = ""
    spool: str = ""
    inputs: str = ""
    input_cache_bytes: int = 0
    device: Literal["cuda", "cpu"]
    #: CUDA_VISIBLE_DEVICES of the engine's process; of each, where the worker is a group.
    visible: Annotated[tuple[str, ...], Meta(min_length=1)] = ("",)
    #: Machines of the group, this one among them, which has the ranks of `visible`; the others have as many each. Where this one waits
    #: for them, and the file of the key that all have.
    machines: int = 1
    rank_endpoint: str = ""
    rank_key_file: str = ""
    models: tuple[ModelCard, ...]
    #: By the model's name; one that is not named here is made ready as it is.
    setups: dict[str, ModelSetup] = field(default_factory=dict)
    #: File in which engines keep what jobs take; "": none.
    peaks: str = ""
    lora_memory: LoraMemory = LoraMemory()
    preload: str
    threads: int = 0
    dtype: str = "auto"
    overlap: bool = True
    checkpoint_s: float = 0.0
    credentials: CredentialFiles | None = None
    policy: AgentPolicy = AgentPolicy()
    log_level: str = "info"
    log_format: str = "text"
    #: Whether its name was taken by another process, and it has not been registered since.
    yields: bool = False
    #: How to start an engine; two flags with file descriptors are appended. Empty: the real one.
    engine_command: tuple[str, ...] = ()


class EngineProcess(Struct, frozen=True, kw_only=True, tag="engine"):
    """Ids of the engine's processes (each leads a process group of its own), by rank; none when there is no engine."""

    pids: tuple[int, ...] = ()


class EngineReady(Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine has its model in memory."""


class LoadTrouble(Struct, frozen=True, kw_only=True, tag="load_trouble"):
    """The engine could not load its model, or ended before it had."""

    message: Annotated[str, Meta(max_length=8192)]


class NameHeld(Struct, frozen=True, kw_only=True, tag="name_held"):
    """The broker has registered a worker that yields: its name is its own again."""


FromAgentProcess = EngineProcess | EngineReady | LoadTrouble | NameHeld
