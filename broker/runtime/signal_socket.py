"""Signals as bytes on a socket, so that a poll loop reads them like everything else."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence

#: Requests to stop.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalSocket:
    """Readable when one of its signals has come."""

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call."""
        try:
            return [signal.Signals(number) for number in self._reader.recv(256)]
        except BlockingIOError:
            return []


def _ignored(number: signal.Signals) -> bool:
    """Whether this process was started to live on: `nohup` ignores SIGHUP, a shell's background job SIGINT."""
    return number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def caught(numbers: Sequence[signal.Signals]) -> Iterator[SignalSocket]:
    """Turn these signals into readable bytes; main thread only. The handlers before are put back at the end."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handled = [number for number in numbers if not _ignored(number)]
        old = {number: signal.signal(number, lambda _number, _frame: None) for number in handled}
        try:
            yield SignalSocket(reader)
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)
