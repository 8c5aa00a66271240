"""The broker's event loop: turns of passes, timers, the stop.

Plain sockets on their FD. `zmq.asyncio` would cost five times the CPU. The FD is edge-like: it signals that something *changed*, and any
send or receive may swallow the signal, so every pass ends by polling the sockets, and runs again if they have more.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

from broker.core.machine import Core
from broker.runtime import signals
from broker.runtime.log_actions import Action
from broker.shell.clock import Timeline
from broker.shell.housekeeping import Housekeeping
from broker.shell.net.sockets import Sockets
from broker.shell.router import Router

logger = logging.getLogger(__name__)

#: Housekeeping; also the longest that a lazy row waits for its commit.
BEAT_S = 0.25

#: From the signal to the end: long enough for the refusals to leave (LINGER is 0), short enough for any supervisor.
STOP_GRACE_S = 0.3

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """Runs passes until a signal stops it."""

    def __init__(self, core: Core, wires: Sockets, router: Router, clock: Timeline, house: Housekeeping) -> None:
        self._core = core
        self._wires = wires
        self._router = router
        self._clock = clock
        self._house = house
        self._again: asyncio.Handle | None = None
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = 0.0
        self._beat_timer: asyncio.TimerHandle | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises `ShellError` when the broker cannot go on."""
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        for listener in (self._wires.back, self._wires.front):
            self._loop.add_reader(listener.fd, self._turn)
        for number in _STOP_SIGNALS:
            self._handlers[number] = signal.getsignal(number)
            self._loop.add_signal_handler(number, self.stop)
        front, back = (",".join(listener.endpoints) for listener in (self._wires.front, self._wires.back))
        logger.info("serving", extra={"action": Action.SERVING, "front": front, "back": back})
        self._house.start()
        self._beat()
        if signals.received():
            self.stop()
        try:
            await self._done
        finally:
            self._forget_callbacks()
        self._router.commit(self._clock())

    def stop(self) -> None:
        """Refuse new jobs, and end in a moment; called again, end at once."""
        if self._core.stopping:
            self._finish()
            return
        self._core.begin_stop()
        logger.info("stopping", extra={"action": Action.STOPPING})
        self._loop.call_later(STOP_GRACE_S, self._finish)

    def _finish(self) -> None:
        self._turn()
        if not self._done.done():
            self._done.set_result(None)

    def _forget_callbacks(self) -> None:
        for listener in (self._wires.back, self._wires.front):
            self._loop.remove_reader(listener.fd)
        self._give_signals_back()
        for handle in (self._again, self._wake, self._beat_timer):
            if handle is not None:
                handle.cancel()

    def _give_signals_back(self) -> None:
        """Put the handlers of before back. Signals are blocked meanwhile: the loop itself leaves the system's default, a sudden end."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        for number, handler in self._handlers.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    # ------------------------------------------------------------ turns of the loop

    def _turn(self) -> None:
        """Run a pass, and plan the next one."""
        if self._done.done():
            return
        try:
            self._pass()
        except Exception as error:  # the loop's outermost point: asyncio would log it and go on with a broken broker
            self._done.set_exception(error)

    def _pass(self) -> None:
        now = self._clock()
        self._house.alive(now)
        more = self._router.run_pass(now)
        if more and self._again is None:
            self._again = self._loop.call_soon(self._turn_again)
        self._set_wake(now)

    def _turn_again(self) -> None:
        self._again = None
        self._turn()

    def _set_wake(self, now: float) -> None:
        """Be woken at the core's next deadline, if that is before the next beat (which checks it anyway)."""
        due = self._core.next_deadline()
        if due is None or due - now >= BEAT_S or due == self._wake_at:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = due
        self._wake = self._loop.call_later(max(0.0, due - now), self._woken)

    def _woken(self) -> None:
        self._wake, self._wake_at = None, 0.0
        self._turn()

    def _beat(self) -> None:
        """Housekeeping, and a pass: nothing depends on it but the timely end of lazy rows."""
        self._beat_timer = self._loop.call_later(BEAT_S, self._beat)
        if self._done.done():
            return
        self._turn()
        try:
            self._house.run()
        except Exception as error:  # as in `_turn`
            if not self._done.done():
                self._done.set_exception(error)
