"""End with the parent: for launchers that may be killed at any time."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from broker.runtime.settings import SettingsError

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends. Linux only.

    Raises `SettingsError` elsewhere, and where the parent has ended before the request was made.
    """
    if sys.platform != "linux":
        raise SettingsError("die_with_parent: only Linux signals a process at its parent's end")
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SettingsError("die_with_parent: the parent has ended already")
