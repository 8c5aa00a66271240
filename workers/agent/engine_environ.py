"""Environments of an engine's processes: the device that each sees, and how the ranks of a group find each other."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Mapping

from workers.ipc.messages import ENGINE_WITHOUT
from workers.models import optional_packages
from workers.supervisor.messages import AgentConfig

#: How whoever started this service may have numbered it among others: no engine is to take it for its own number.
_OF_OTHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"
)  # fmt: skip

#: Below the range from which Linux takes ports of connections: what is free stays free until rank 0 listens, unless another asks for it.
_PORTS = range(20_000, 32_000)
_TRIES = 100

#: Where all ranks are on this machine.
_HERE = "127.0.0.1"


def engine_environs(config: AgentConfig, environ: Mapping[str, str]) -> tuple[dict[str, str], ...]:
    """The environment of each process: one device, numbered as NVIDIA's tools do, and what torch and diffusers read when they are imported.

    What the service's own environment sets of the latter stands. Those of a group find each other at a port that is free now.
    """
    usual = {"HF_ENABLE_PARALLEL_LOADING": "1"}
    if "PYTORCH_ALLOC_CONF" not in environ:
        # Jobs of many sizes leave holes that the next does not fit in. The old name, which every torch reads.
        usual["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    common = {
        **usual,
        **{name: value for name, value in environ.items() if name not in _OF_OTHERS},
        # CUDA's own order is the fastest first: index 1 could be another GPU than the one that is measured as 1.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "ZOETROPE_LOG_LEVEL": config.log_level,
        "ZOETROPE_LOG_FORMAT": config.log_format,
        ENGINE_WITHOUT: ",".join(optional_packages.left_out(config.models, config.setups)),
    }
    size = len(config.visible)
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": _HERE, "MASTER_PORT": str(free_port())} if size > 1 else {}
    return tuple(
        {**common, **meeting, **({"RANK": str(rank)} if meeting else {}), "CUDA_VISIBLE_DEVICES": visible}
        for rank, visible in enumerate(config.visible)
    )


def free_port() -> int:
    """A port at which nobody listens now. Raises `OSError` where none is found."""
    for port in random.sample(_PORTS, _TRIES):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise OSError(f"no port of {_PORTS.start} to {_PORTS.stop - 1} is free, at {_TRIES} tries")
