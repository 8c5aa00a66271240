"""The order that every process of a pool gets.

It bears no secret: it names the files of keys, on the machine that reads it. Owners of workers, of which each GPU has one, import it
and little else.
"""

from __future__ import annotations

from msgspec import Struct

from workers.launchers.plan import Limits


class Order(Struct, frozen=True, kw_only=True):
    """Orders to every process of a pool."""

    pool: str
    limits: Limits
    ray_address: str
    labels: dict[str, str]
    #: Of each of its machines.
    gpus_per_worker: int
    machines_per_worker: int = 1
    #: Class of workers whose work counts; "": any.
    gpu_class: str
    #: Interpreter of the workers; "": the one of the process that starts them.
    python: str
    #: What a worker is started with, but for its name.
    arguments: tuple[str, ...]
    #: What its processes on further machines are started with, but for the address of the first.
    rank_arguments: tuple[str, ...] = ()
    #: Before the names of the pool's workers.
    prefix: str
    #: Names of the models whose jobs the pool is for.
    models: tuple[str, ...]
    #: Directory in which logs are kept, on each machine.
    home: str
    url: str
    api_key_file: str
    threads: int
    stop_grace_s: float

    @property
    def gpus(self) -> int:
        """GPUs of a worker."""
        return self.gpus_per_worker * self.machines_per_worker
