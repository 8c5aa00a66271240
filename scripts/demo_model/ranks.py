"""Training in several processes that share each step, as `torchrun` starts them; everything here is a no-op in a single one.

Two processes of one thread each get more out of two busy cores than one process of two threads, which wait for each other at every
operation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

#: The others wait this long for the first one's autoencoder.
_TIMEOUT = timedelta(hours=6)


def join() -> None:
    """Join the group of processes, when torchrun's variables name one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo", timeout=_TIMEOUT)


def leave() -> None:
    """Leave the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Wait until all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    dist.all_reduce(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))
