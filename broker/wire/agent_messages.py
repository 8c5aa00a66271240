"""Messages between agents and the broker."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from broker.wire.device import DeviceHealth
from broker.wire.failures import FailureKind
from broker.wire.jobspec import Profile
from broker.wire.loras import LoraNames
from broker.wire.terms import (
    Age,
    Count,
    DepotWait,
    EngineState,
    Fence,
    Held,
    Id,
    KnownId,
    Loading,
    Message,
    Name,
    Seconds,
    Short,
)

Remedy = Literal["none", "anew", "yield"]

# ---------------------------------------------------------------- agent -> broker


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """This worker is here. Answered by `Welcome` or `WorkerRejected`.

    Sent at start, after a probe (an empty frame) and after `Identify`.
    """

    name: Name
    #: Random, of each start of the agent process: distinguishes a reconnect from a restart.
    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    #: Highest fence this process ever received.
    seen: Fence
    #: How many more jobs it can take now, absolute.
    free: Count
    held: Annotated[tuple[Held, ...], Meta(max_length=64)] = ()
    #: Whether it takes the name only if no live worker has it: it lost the name before, and must not take it back from its holder.
    yields: bool = False
    #: A `WorkerInfo`.
    body: bytes


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Alive, with this much room and these attempts; each second, and soon when something changes. Answered by `HeartbeatAck`."""

    seen: Fence
    free: Count
    held: Annotated[tuple[Held, ...], Meta(max_length=64)] = ()
    engine: EngineState = "ready"
    #: The model in memory; "" when none.
    model: Short = ""
    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    #: Percent; -1 when not known.
    utilisation: float = -1.0
    temperature_c: float = -1.0
    draining: bool = False
    health: DeviceHealth = DeviceHealth()
    #: LoRAs beside the weights of `model`, the most recently used first.
    loaded_loras: LoraNames = ()
    #: Of an engine that is loading.
    loading: Loading | None = None
    #: None: it waits for nothing.
    depot: DepotWait | None = None


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The attempt was not taken (no room, engine not ready, draining), or is handed back; it goes back to the queue."""

    job_id: KnownId
    fence: Fence
    free: Count = 0
    reason: Annotated[str, Meta(max_length=1024)] = ""
    #: As `Age` for one that is handed back; -1: it was never taken.
    age_s: Annotated[float, Meta(ge=-1, le=1e10)] = -1.0
    #: As in `Held`.
    kept: Count = 0


class Finished(Message, frozen=True, kw_only=True, tag="finished"):
    """The files are on disk. Resent until `ResultAck`."""

    job_id: KnownId
    fence: Fence
    free: Count = 0
    #: Seconds from start in the engine to the last fsync.
    run_s: Seconds = 0.0
    age_s: Age = 0.0
    #: A `Result`.
    body: bytes


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The attempt failed. Resent until `ResultAck`."""

    job_id: KnownId
    fence: Fence
    kind: FailureKind
    message: Annotated[str, Meta(max_length=2048)] = ""
    free: Count = 0
    age_s: Age = 0.0


class Cancelled(Message, frozen=True, kw_only=True, tag="cancelled"):
    """The attempt was stopped by request. Resent until `ResultAck`."""

    job_id: KnownId
    fence: Fence
    free: Count = 0
    age_s: Age = 0.0


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """This worker leaves; what it holds goes back to the queue."""

    reason: Short = ""
    #: Whether it was drained or dismissed: what it holds is handed back, and no worker was lost under it.
    orderly: bool = False


# ---------------------------------------------------------------- broker -> agent


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """Registered."""

    epoch: int
    heartbeat_s: Seconds = 1.0
    lost_s: Seconds = 6.0
    #: Key with which this worker signs its requests to the depot; "": there is none.
    depot_key: Short = ""


class Identify(Message, frozen=True, kw_only=True, tag="who"):
    """The address is unknown: register with `Hello`."""


class WorkerRejected(Message, frozen=True, kw_only=True, tag="bye"):
    """Dismissal of a worker, which ends. `remedy` is whether this name can be served from here later.

    `none`: never (your protocol is unknown, the name is not your key's). `anew`: by a new process, at once. `yield`: by a new process that
    waits until no other process bears the name.
    """

    reason: Short = ""
    remedy: Remedy = "none"


class Run(Message, frozen=True, kw_only=True, tag="run"):
    """Run this attempt. Answered by the next heartbeat, or by its result, or by `Refused`."""

    job_id: Id
    fence: Fence
    lease_s: Seconds
    attempt: Count = 1
    #: "offload" after an out-of-memory: trade speed for memory.
    profile: Profile = "normal"
    #: Predicted run time; 0 when not known.
    predicted_s: Seconds = 0.0
    #: No other job in the same engine: this one crashed before, and if it does again it must be known whose fault it is.
    alone: bool = False
    #: The job spec.
    body: bytes
    #: Denoising steps that earlier attempts left in a checkpoint, as far as is known.
    kept: Count = 0
    #: At this denoising step: write a checkpoint and a preview, and hand the attempt back. 0: never.
    park_at: Count = 0


class HeartbeatAck(Message, frozen=True, kw_only=True, tag="heartbeat_ack"):
    """The broker's loop is alive; agents count silence from the last of these."""

    epoch: int = 0


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop this attempt. Resent with every `HeartbeatAck` until its result is in. `grace_s` 0: the agent's own rule (2 steps + 2 s)."""

    job_id: KnownId
    fence: Fence
    grace_s: Seconds = 0.0


class Park(Message, frozen=True, kw_only=True, tag="park"):
    """Write a checkpoint at the next denoising step of this attempt, and hand it back (`Refused`).

    Resent with every `HeartbeatAck` until it is handed back or over: one that is past its last step ends as usual. Sent only of a model
    that resumes.
    """

    job_id: KnownId
    fence: Fence


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """Finish what you hold, take no more."""

    #: Hand back what you hold instead, each attempt as for `Park` where its model resumes.
    hand_back: bool = False


class Undrain(Message, frozen=True, kw_only=True, tag="undrain"):
    """Take jobs again: `Drain` is taken back. A worker that is being stopped, or leaves already, leaves all the same."""


class ResultAck(Message, frozen=True, kw_only=True, tag="result_ack"):
    """The result is committed (`accepted`), or it lost and its files are garbage. Stop resending either way."""

    job_id: KnownId
    fence: Fence
    accepted: bool
