"""Ends of other processes: a whole tree killed, orphans adopted and reaped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

import psutil

_PR_SET_CHILD_SUBREAPER = 36

#: How long the kernel may take to end a process that was killed.
_DYING_S = 1.0


_adopting = False


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is out of reach. Linux only.

    For a process that starts no children but its own kind's: from now on all others are killed or reaped.
    """
    global _adopting
    _adopting = True
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads, and to its descendants in groups of their own; one that is gone is no error."""
    # Asked before: afterwards they have another parent.
    descendants = _descendants(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _kill(descendants)


def kill_orphans() -> None:
    """SIGKILL to all descendants of a process that adopts orphans, and reap them. Its only child has ended."""
    if not _adopting:
        return
    orphans = _descendants(os.getpid())
    _kill(orphans)
    psutil.wait_procs(orphans, timeout=_DYING_S)


def reap_strangers(known: set[int]) -> None:
    """Reap children that have ended and are not `known`: a process that adopts orphans, as PID 1 does, has to."""
    if not _adopting:
        return
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            if child.pid not in known:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)


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
