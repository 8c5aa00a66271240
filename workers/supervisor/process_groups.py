"""Ends of other processes: a whole tree killed, orphans adopted and reaped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection

import psutil

_PR_SET_CHILD_SUBREAPER = 36

#: How long the kernel may take to end a process that was killed.
_DYING_S = 1.0


#: The variable by which a process is known as a descendant of this one: in it, the id of the adopting process and when that started.
_MARK = "_ZT_ADOPTER"

_adopting = False


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is out of reach. Linux only.

    Processes that are started from now on are marked as this one's, unless they are already another's who adopts.
    """
    global _adopting
    _adopting = True
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ.setdefault(_MARK, f"{os.getpid()}-{psutil.Process().create_time()}")


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads, and to its descendants in groups of their own; one that is gone is no error."""
    # Listed before: afterwards they have another parent.
    descendants = _descendants(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _kill(descendants)


def kill_orphans(spared: Collection[int] = ()) -> None:
    """SIGKILL to all descendants of a process that adopts orphans, and reap them. All its children but the `spared` have ended."""
    if not _adopting:
        return
    kept = {*spared, *(process.pid for pid in spared for process in _descendants(pid))}
    orphans = [process for process in _descendants(os.getpid()) if process.pid not in kept]
    _kill(orphans)
    psutil.wait_procs(orphans, timeout=_DYING_S)


def end_strangers(known: set[int]) -> None:
    """SIGKILL to the orphans of ended descendants, and reap all ended children but the `known` ones, which the caller reaps.

    A process may have children that are not its own to kill: of what ran in it before (`exec`), and as PID 1 of a container whatever
    was started there from outside. These do not bear its mark, and are reaped only.
    """
    if not _adopting:
        return
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            if child.pid in known:
                continue
            if _is_ours(child):
                _kill([child, *_descendants(child.pid)])
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def _is_ours(process: psutil.Process) -> bool:
    try:
        return bool(process.environ().get(_MARK) == os.environ.get(_MARK))
    except psutil.Error:  # it has ended, or is another user's
        return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
