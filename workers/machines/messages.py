"""Messages between the leader of a group over several machines and its rank hosts, one a frame: msgpack, and no pickle.

Both sides send their whole state each second (`Orders`, `Beat`): a message that is lost is made up for by the next, and one of an engine
start before (`life`) or of a leader before (`leader`) is known by its number and dropped.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from broker.wire.device import DeviceHealth
from broker.wire.submission import MAX_GPUS
from workers.ipc.messages import FromEngine, Setup

#: Raised where a message changes its meaning: both sides of a group are of one version.
PROTOCOL = 2

#: Bytes of the largest message: a setup has the cards of all models.
MAX_FRAME = 2 * 1024 * 1024

_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Text = Annotated[str, Meta(max_length=2048)]
_Life = Annotated[int, Meta(ge=1)]


class Device(Struct, frozen=True, kw_only=True):
    """Measurements of a machine's ranks together; -1 where not known."""

    memory_used_mb: float = 0.0
    memory_total_mb: float = 0.0
    utilisation: float = -1.0
    temperature_c: float = -1.0
    health: DeviceHealth = DeviceHealth()


class LifeState(Struct, frozen=True, kw_only=True):
    """Engine processes of one life on a machine."""

    life: _Life
    #: How each has ended, by its number on this machine; None: it runs.
    ends: Annotated[tuple[str | None, ...], Meta(max_length=MAX_GPUS)]
    #: Whether they were given their setup.
    is_set_up: bool = False


class Join(Struct, frozen=True, kw_only=True, tag="join"):
    """Request for a place in the group; sent each second until there is an answer."""

    protocol: int
    #: Drawn at each start of a rank host.
    boot: _Name
    #: Name of its machine.
    host: _Name
    #: Number of GPUs.
    ranks: Annotated[int, Meta(ge=1, le=MAX_GPUS)]


class Beat(Struct, frozen=True, kw_only=True, tag="beat"):
    """All lives that there are on this machine; sent each second, and at once when that changes."""

    boot: _Name
    #: The highest life that it was ordered to start.
    latest_life: Annotated[int, Meta(ge=0)] = 0
    lives: Annotated[tuple[LifeState, ...], Meta(max_length=16)] = ()
    device: Device = Device()
    #: Why it is being stopped: it ends once no life is ordered any more, or when its grace is over. "": it is not.
    stops: _Text = ""


class FromRank(Struct, frozen=True, kw_only=True, tag="from_rank"):
    """Message of an engine process, by its number on this machine."""

    boot: _Name
    life: _Life
    number: Annotated[int, Meta(ge=0, lt=MAX_GPUS)]
    message: FromEngine


class Leave(Struct, frozen=True, kw_only=True, tag="leave"):
    """This rank host ends, and its engine processes with it; also the answer to `Dismiss`."""

    boot: _Name
    #: Why it was stopped; "": it ends for another reason.
    stops: _Text = ""


class LifeOrder(Struct, frozen=True, kw_only=True):
    """Engine processes that a machine is to have: its ranks are numbered from `first`, of so many; rank 0 listens at `host` and `port`."""

    life: _Life
    first: Annotated[int, Meta(ge=1)]
    of: Annotated[int, Meta(ge=2)]
    host: _Name
    port: Annotated[int, Meta(ge=1, le=65_535)]
    #: What they import before the setup comes, as `--spare` of an engine; "": nothing.
    imports: _Text = ""
    #: Packages that they do as if they were not installed.
    without: _Text = ""


class Orders(Struct, frozen=True, kw_only=True, tag="orders"):
    """A place in the group, and all lives that there are to be; others are killed. Sent each second, and at once when that changes."""

    #: Drawn at each start of a leader.
    leader: _Name
    lives: Annotated[tuple[LifeOrder, ...], Meta(max_length=16)] = ()


class SetUp(Struct, frozen=True, kw_only=True, tag="set_up"):
    """Give this to each engine process of a life."""

    leader: _Name
    life: _Life
    setup: Setup


class Wait(Struct, frozen=True, kw_only=True, tag="wait"):
    """There is no place now."""

    reason: _Text


class Refuse(Struct, frozen=True, kw_only=True, tag="refuse"):
    """There will be no place: end. `why`: it has another number of GPUs, or is not needed (no place, another version)."""

    why: Literal["count", "unwanted"]
    reason: _Text


class Dismiss(Struct, frozen=True, kw_only=True, tag="dismiss"):
    """The group has ended for good: end. `drained`: by an operator's request; else the broker dismissed it."""

    leader: _Name
    drained: bool
    reason: _Text


ToLeader = Join | Beat | FromRank | Leave
ToHost = Orders | SetUp | Wait | Refuse | Dismiss

encode = msgspec.msgpack.Encoder().encode
_to_leader: msgspec.msgpack.Decoder[ToLeader] = msgspec.msgpack.Decoder(ToLeader)
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class MessageError(ValueError):
    """The bytes are no message of this protocol."""


def to_leader(frame: bytes) -> ToLeader:
    """Decode a message of a rank host. Raises `MessageError`."""
    try:
        return _to_leader.decode(frame)
    except _UNREADABLE as error:
        raise MessageError(str(error)[:200]) from None


def to_host(frame: bytes) -> ToHost:
    """Decode a message of a leader. Raises `MessageError`."""
    try:
        return _to_host.decode(frame)
    except _UNREADABLE as error:
        raise MessageError(str(error)[:200]) from None
