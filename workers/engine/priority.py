"""The scheduling policy of this process's threads."""

from __future__ import annotations

import contextlib
import os

_TASKS = "/proc/self/task"


def leave_real_time() -> None:
    """Give every thread of this process that has become a real-time one the usual policy again.

    SVT-AV1 makes its threads and the one that opens it so where it may, as root may: they would go before all else on the machine, and
    not end with the clip.
    """
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        for task in os.listdir(_TASKS):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.sched_getscheduler(int(task)) in (os.SCHED_FIFO, os.SCHED_RR):
                    os.sched_setscheduler(int(task), os.SCHED_OTHER, os.sched_param(0))
