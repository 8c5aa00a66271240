"""The processes of `zoetrope serve`, which end with it: honcho's, tied to their parent, and its output, which may go away.

honcho has a process for each service, which reads what that prints. Services are in sessions of their own, so a signal to the terminal's
process group reaches none of them, and if honcho is killed nobody stops them: they would keep GPUs, port and home.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import queue
import signal
import sys
from types import FrameType
from typing import Any

from honcho.manager import Manager
from honcho.process import Popen, Process

_PR_SET_PDEATHSIG = 1

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Longest silence of processes that are being started.
_START_S = 10.0


class TiedProcess(Process):  # type: ignore[misc]  # honcho has no types
    """A service and the process that reads its output. When the manager is gone the reader is killed, and the service stops by SIGTERM."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        # The manager's handlers are inherited, and would stop its other services from here. Not ignored: the service would ignore them too.
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _pass_over)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        tie = _tie_of()
        if tie is not None:
            manager = multiprocessing.parent_process()
            tie(signal.SIGKILL, manager.pid if manager is not None else os.getppid())
            # A function of the library, loaded by now: between fork and exec nothing should be imported.
            self._child_ctor = functools.partial(Popen, preexec_fn=functools.partial(tie, signal.SIGTERM, os.getpid()))
        super().run(events, ignore_signals)


def stop_on_hangup() -> None:
    """Have a terminal that is closed stop this process as SIGTERM does, unless it was started to live on, as by `nohup`."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _terminate)


class TiedManager(Manager):  # type: ignore[misc]  # honcho has no types
    """honcho's manager, of tied processes. A signal that comes while they are started waits until each can be stopped."""

    def __init__(self, printer: Any) -> None:
        if sys.platform == "linux":
            # Since Python 3.14 a server would be the parent of the readers, and outlive this process.
            multiprocessing.set_start_method("fork", force=True)
        super().__init__(printer)
        self._process_ctor = TiedProcess

    def _start(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            super()._start()
            self._await_pids()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def _await_pids(self) -> None:
        """Wait until each process has reported its number, which it is stopped by."""
        later = []
        while not self._all_started():
            try:
                message = self.events.get(timeout=_START_S)
            except queue.Empty:
                break
            if message.type == "start":
                self._processes[message.name]["pid"] = message.data["pid"]
            later.append(message)
        for message in later:
            self.events.put(message)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _pass_over(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


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
