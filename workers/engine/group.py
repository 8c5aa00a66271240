"""Processes of a group, and the exchange between them besides tensors: over sockets of their own (gloo), in bytes that are no pickle.

A call here waits until all ranks have made the same; which one follows from the votes before (`votes`). A rank
that dies is noticed by the others in a fraction of a second; one that only hangs is its agent's affair, which ends all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models._modeling_parallel import ParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from broker.wire.failures import FailureKind
from workers.engine.errors import EngineError
from workers.engine.rank import Rank

#: Seconds that the processes of a group wait for each other when they begin.
_MEET_S = 600

#: The same for a rank that waits for rank 0, which may be idle, encode or decode: the agent detects whether it hangs.
_ALWAYS = timedelta(days=3650)

#: Seconds in which all ranks come to what computes together, once they have agreed to: a step of the largest models takes less.
_TENSORS = timedelta(seconds=1800)

#: Bytes of the largest job that is given to the other ranks; a broker accepts no larger one.
MAX_ORDER = 512 * 1024

#: Bytes of a rank's reason of failure.
_REASON = 4096

#: Typed as wholes, which the libraries are not.
_dist: Any = dist
_Parallel: Any = ParallelConfig
_ContextParallel: Any = ContextParallelConfig
_mesh: Any = init_device_mesh


class GroupLost(EngineError):
    """The ranks of a group are no longer at the same place; only new processes can go on."""

    kind = FailureKind.ENGINE_CRASHED
    fatal = True


class GroupOutOfMemory(GroupLost):
    """Memory ran out inside a pass that several ranks compute."""

    kind = FailureKind.OUT_OF_MEMORY


class Group:
    """All ranks of one group. Making it waits for the others."""

    def __init__(self, rank: Rank, device: str) -> None:
        self.rank = rank
        if rank.host in ("127.0.0.1", "localhost", "::1"):
            # No other program is to reach their sockets.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        try:
            _dist.init_process_group(
                backend, store=_store(rank), rank=rank.number, world_size=rank.of, timeout=_TENSORS
            )
            self._control = _dist.new_group(backend="gloo", timeout=_ALWAYS)
            self.sequence_of_all = _parallel(
                _mesh(device, (1, rank.of), mesh_dim_names=("ring", "ulysses")), rank, device
            )
            self.sequence_of_half: Any = None
            self.branches: Any = None
            if rank.of % 2 == 0:
                names = ("guidance", "ring", "ulysses")
                pairs = _mesh(device, (2, 1, rank.of // 2), mesh_dim_names=names)
                self.branches = pairs["guidance"].get_group()
                if rank.of > 2:
                    self.sequence_of_half = _parallel(pairs, rank, device)
        except (RuntimeError, OSError) as error:
            raise GroupLost(f"{rank}: the processes of the group cannot meet: {error}") from error

    @property
    def branch(self) -> int:
        """Branch of guidance, 0 or 1, that this rank computes where both are shared."""
        return self.rank.number // max(1, self.rank.of // 2)

    def highest(self, values: Sequence[int], patience: timedelta | None = None) -> list[int]:
        """Return the highest of each number over all ranks. Raises `GroupLost`, after `patience` too."""
        numbers = torch.tensor(values, dtype=torch.int64)
        self._wait(_dist.all_reduce(numbers, _dist.ReduceOp.MAX, self._control, async_op=True), patience)
        return [int(number) for number in numbers]

    def broadcast(self, data: bytes | bytearray = b"") -> bytes:
        """Return the bytes of rank 0, in all ranks. Raises `GroupLost`."""
        length = torch.tensor([len(data)], dtype=torch.int64)
        self._wait(_dist.broadcast(length, 0, self._control, async_op=True))
        size = int(length[0])
        if not size:
            return b""
        content = torch.zeros(size, dtype=torch.uint8)
        if self.rank.number == 0:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._wait(_dist.broadcast(content, 0, self._control, async_op=True))
        return content.numpy().tobytes()

    def reasons(self, own: bytes) -> list[bytes]:
        """Exchange reasons of a failure, by rank, cut to a few kilobytes. Raises `GroupLost`."""
        own_bytes = torch.zeros(_REASON, dtype=torch.uint8)
        if own:
            own_bytes[: len(own[:_REASON])] = torch.frombuffer(bytearray(own[:_REASON]), dtype=torch.uint8)
        gathered = [torch.zeros(_REASON, dtype=torch.uint8) for _ in range(self.rank.of)]
        self._wait(_dist.all_gather(gathered, own_bytes, self._control, async_op=True))
        return [one.numpy().tobytes().rstrip(b"\0") for one in gathered]

    def _wait(self, work: Any, patience: timedelta | None = None) -> None:
        try:
            work.wait(patience or _ALWAYS)
        except RuntimeError as error:
            raise GroupLost(f"{self.rank}: another rank is gone, or did not come in time") from error


def _store(rank: Rank) -> Any:
    """Store by which the processes of a group meet. Rank 0 has the socket from its agent: its port cannot be another's."""
    waits = timedelta(seconds=_MEET_S)
    if rank.number:
        return _dist.TCPStore(rank.host, rank.port, rank.of, False, waits, wait_for_workers=False)
    return _dist.TCPStore(
        rank.host, rank.port, rank.of, True, waits, wait_for_workers=False, master_listen_fd=rank.listener
    )


def _parallel(mesh: Any, rank: Rank, device: str) -> Any:
    """Configuration by which diffusers splits sequences of any length over the ranks of a mesh, in attention by heads (Ulysses)."""
    config = _Parallel(
        context_parallel_config=_ContextParallel(ulysses_degree=mesh["ulysses"].size(), ulysses_anything=True)
    )
    config.setup(rank.number, rank.of, torch.device(device), mesh=mesh)
    return config
