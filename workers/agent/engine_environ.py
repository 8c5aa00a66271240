"""Environments of an engine's processes: the device visible to each, and how the ranks of a group find each other."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from workers.ipc.messages import ENGINE_WITHOUT
from workers.models import optional_packages
from workers.supervisor.messages import AgentConfig

#: Variables in which the launcher of this service may have numbered it among others: no engine is to take it for its own number.
_OF_OTHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"
)  # fmt: skip


class Meeting(Struct, frozen=True, kw_only=True):
    """Meeting of the ranks of a group: rank 0 of so many listens there. `first`: number of the first on this machine."""

    of: int
    host: str
    port: int
    first: int = 0
    #: Network device of this machine that leads to the others; "": whatever the libraries choose.
    network: str = ""


def engine_environs(
    config: AgentConfig, environ: Mapping[str, str], meeting: Meeting | None = None
) -> tuple[dict[str, str], ...]:
    """The environment of each process of an agent's engine on this machine."""
    return environs_of(
        config.visible,
        environ,
        {
            "ZOETROPE_LOG_LEVEL": config.log_level,
            "ZOETROPE_LOG_FORMAT": config.log_format,
            ENGINE_WITHOUT: without(config),
        },
        meeting,
    )


def without(config: AgentConfig) -> str:
    """Packages that this agent's engine does as if they were not installed, as its environment has them."""
    return ",".join(optional_packages.left_out(config.models, config.setups))


def environs_of(
    visible: Sequence[str], environ: Mapping[str, str], ours: Mapping[str, str], meeting: Meeting | None
) -> tuple[dict[str, str], ...]:
    """The environment of each process: one device, numbered as NVIDIA's tools do, and what torch and diffusers read when they are imported.

    What the service's own environment sets of the latter stands; `ours` is what the engine itself reads.
    """
    usual = {"HF_ENABLE_PARALLEL_LOADING": "1"}
    if "PYTORCH_ALLOC_CONF" not in environ:
        # Jobs of many sizes leave holes that the next does not fit in. The old name, which every torch reads.
        usual["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if meeting is not None and meeting.network:
        # Gloo would take the address that the machine's own name has, which on many is one that no other machine reaches.
        usual |= {"GLOO_SOCKET_IFNAME": meeting.network, "NCCL_SOCKET_IFNAME": f"={meeting.network}"}
    common = {
        **usual,
        **{name: value for name, value in environ.items() if name not in _OF_OTHERS},
        # CUDA's own order is the fastest first: index 1 could be another GPU than the one that is measured as 1.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **ours,
    }
    return tuple(
        {**common, **_place(meeting, number, len(visible)), "CUDA_VISIBLE_DEVICES": one}
        for number, one in enumerate(visible)
    )


def _place(meeting: Meeting | None, number: int, here: int) -> dict[str, str]:
    """A process's place in its group."""
    if meeting is None:
        return {}
    return {
        "RANK": str(meeting.first + number),
        "WORLD_SIZE": str(meeting.of),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": str(meeting.port),
    }


def listening(address: str, ranks: int) -> socket.socket:
    """A socket at which rank 0 of a group listens at this address from now on, at a port that the system chooses. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((address, 0))
        listener.listen(ranks)
    except OSError:
        listener.close()
        raise
    return listener
