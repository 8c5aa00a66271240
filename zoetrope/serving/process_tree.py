"""The processes of `zoetrope serve`, which end with it: honcho's, tied to their parent, and its output, which may go away.

honcho has a process for each service, which reads what that prints. Services are in sessions of their own, so a signal to the terminal's
process group reaches none of them, and if honcho is killed nobody stops them: they would keep GPUs, port and home.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from types import FrameType
from typing import Any

from honcho.manager import Manager
from honcho.process import Popen, Process

_PR_SET_PDEATHSIG = 1


class TiedProcess(Process):  # type: ignore[misc]  # honcho has no types
    """A service and the process that reads its output. When the manager is gone the reader is killed, and the service stops by SIGTERM."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._manager = os.getpid()

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        tie = _tie_of()
        if tie is not None:
            tie(signal.SIGKILL, self._manager)
            # A function of the library, loaded by now: between fork and exec nothing should be imported.
            self._child_ctor = functools.partial(Popen, preexec_fn=functools.partial(tie, signal.SIGTERM, os.getpid()))
        super().run(events, ignore_signals)


def stop_on_hangup() -> None:
    """Have a terminal that is closed stop this process as SIGTERM does, unless it was started to live on, as by `nohup`."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Readers of output inherit it, and ignore SIGTERM.
        signal.signal(signal.SIGHUP, _terminate)


def manager(printer: Any) -> Manager:
    """honcho's manager, of tied processes."""
    made = Manager(printer)
    made._process_ctor = TiedProcess
    return made


def _terminate(_number: int, _frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _tie_of() -> Any:
    """Return the function that has the kernel signal this process when its parent ends; None where there is no such thing."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def tie(number: int, parent: int) -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os._exit(1)

    return tie
