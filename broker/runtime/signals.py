"""Stop signals during start-up: SIGTERM and SIGINT end a process that is still starting, with code 0, after tidying up.

Installed first of all by every `__main__`, since the imports alone take a second. Where a process begins to serve, its loop takes the
signals over and gives them back when it has ended. What had been begun is undone on the way out, by `with` and `finally`. Around an event
loop a signal raises nothing (`hold`).
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

_NUMBERS = (signal.SIGTERM, signal.SIGINT)

_stop_requested = False
_held = False


def obey(argv: Sequence[str]) -> None:
    """Let both signals end the process from now on, unless `argv` begins with the name of a subcommand: breaking that off is no success.

    One that was set to be ignored (SIGINT of a shell's background job) stays so.
    """
    if argv and not argv[0].startswith("-"):
        return
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def check() -> None:
    """Raise `SystemExit` if a signal to stop has come. Call before serving: raised while garbage is collected, it is dropped."""
    if _stop_requested:
        raise SystemExit(0)


def hold() -> None:
    """Note a signal only, from now on, for `received`, to be read once the event loop handles them itself. Raises `SystemExit` if one came
    before.

    To be called before the loop is made. Raised while it starts or closes, `SystemExit` can leave it marked as running; then it cannot be
    closed, and the process ends with an error.
    """
    global _held
    _held = True
    check()


def received() -> bool:
    """Whether a signal to stop came before the loop handled signals."""
    return _stop_requested


def deaf() -> None:
    """Ignore both signals from now on: the process is ending anyway. Ignored, since blocking does so for one thread alone."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End the process with this code, also if signals still come."""
    deaf()
    # The interpreter's last collection takes msgspec's struct types apart in an order that now and then it does not survive (0.22.0): a
    # segmentation fault in place of the code. What is frozen is left out of it.
    gc.freeze()
    sys.exit(code)


def _leave(_number: int, _frame: FrameType | None) -> None:
    global _stop_requested
    deaf()
    # A second signal may have come before that; it must not break off the tidying that the first began.
    if not _stop_requested:
        _stop_requested = True
        if not _held:
            raise SystemExit(0)
