"""Names of workers that no two processes of a service share, from what their launcher sets in the environment."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

#: The value of `name_prefix` that stands for one from here.
AUTO = "auto"

_LONGEST = 64
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")


def automatic(environ: Mapping[str, str], host: str | None = None) -> str:
    """The pod's name, else the Slurm task's, else that of the host, with the GPU where the launcher shows this process only some of them.

    The devices visible to a process are counted from 0, so two processes of one host would both call theirs `gpu-0`.
    """
    if pod := environ.get("POD_NAME"):
        return _prefix(pod)
    if job := environ.get("SLURM_JOB_ID"):
        array = environ.get("SLURM_ARRAY_TASK_ID", "")
        return _prefix("-".join(part for part in ("slurm", job, array, environ.get("SLURM_PROCID", "0")) if part))
    shown = environ.get("CUDA_VISIBLE_DEVICES", "")
    return _prefix(f"{host or socket.gethostname()}-{shown}" if shown else host or socket.gethostname())


def _prefix(text: str) -> str:
    # What distinguishes names is at the end more often than not.
    return _OTHER.sub("-", text).strip("-")[-(_LONGEST - 1) :] + "."
