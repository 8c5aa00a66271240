"""Peers that do what peers under measurement may do: hang, break, be absent."""

from __future__ import annotations

import sys
import threading

from bench.peers.peerkit import DoneNotifier, PeerAdapter, Unavailable


class Quick(PeerAdapter):
    """Runs each job as it is handed in; a killed worker's job is started once more, a killed queue forgets every other job."""

    versions = "quick 1.0"
    again = True

    def __init__(self, mode, room, done):
        super().__init__(mode, room, done)
        self._teller = DoneNotifier(str(done.path))
        self._kept = []

    def close(self):
        self._teller.close()
        super().close()

    def start_server(self):
        self.server_started = True

    def start_workers(self, count):
        for number, seconds in self._kept:
            self._teller.run(number, seconds)

    def submit(self, number, seconds):
        self._number = number
        self._teller.started(number, seconds)
        if seconds < 1:
            self._teller.done(number)

    def submit_all(self, numbers, seconds):
        for number in numbers:
            self.submit(number, seconds)

    def fill(self, numbers):
        self._kept = [(number, -1.0) for number in numbers[::2]]

    def kill_server(self):
        self.server_started = False

    def kill_worker(self, pid):
        if self.again:
            self._teller.run(self._number, 0.0)

    def given_up(self, number):
        return "" if self.again else "the call fails, and nothing runs it again"


class Forgetful(Quick):
    """Does not start a killed worker's job again, and says so."""

    again = False


class Broken(Quick):
    """Its library raises."""

    def start_server(self):
        raise RuntimeError("no such thing\nsecond line")


class Absent(Quick):
    """Its server is not installed."""

    def __init__(self, mode, room, done):
        raise Unavailable("its server is not installed")


class Hanging(Quick):
    """Leaves a process of its own session behind, says which, and never comes back."""

    def start_server(self):
        child = self.spawn([sys.executable, "-c", "import threading; threading.Event().wait()"], set())
        (self.room / "pid").write_text(str(child.pid))
        threading.Event().wait()
