"""One process of an engine as the agent holds it: the child, its socketpair, its shared counters.

Nothing here blocks: what the engine does not read is kept until it does, so that a stuck engine cannot stop the agent. The child leads a
process group of its own: killing it kills whatever it started, and signals meant for the supervisor's group do not reach it.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence

from msgspec import Struct

from workers.ipc.channel import Channel, pack
from workers.ipc.messages import FromEngine
from workers.ipc.shared import Progress, SharedCounters
from workers.supervisor.exit_codes import describe_exit
from workers.supervisor.process_groups import kill_group

#: One that is on its way out, as it was killed or has closed its socket, is polled this often in seconds: its end has no descriptor to poll
#: on every system.
REAP_S = 0.01


class EngineProcess:
    """A running process. Raises `OSError` when it cannot be started."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], meeting: socket.socket | None = None
    ) -> None:
        """`meeting`: the socket at which this process, rank 0 of a group, listens for the others; it stays the caller's to close."""
        self._socket, theirs = socket.socketpair()
        self._counters = SharedCounters.create()
        self._outgoing = bytearray()
        self._channel = Channel(self._socket, FromEngine)
        #: Whether the stream has ended, or is not listened to any more.
        self.closed = False
        inherited = {"--socket": theirs.fileno(), "--words": self._counters.fd}
        if meeting is not None:
            inherited["--meeting"] = meeting.fileno()
        try:
            self._process = subprocess.Popen(
                [*command, *(str(one) for pair in inherited.items() for one in pair)],
                pass_fds=tuple(inherited.values()),
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError:
            self._release()
            raise
        finally:
            theirs.close()
        self._socket.setblocking(False)

    @property
    def pid(self) -> int:
        """Process id, and that of its group."""
        return self._process.pid

    @property
    def fd(self) -> int:
        """To poll for messages."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something to do when the socket takes more."""
        return bool(self._outgoing) and not self.closed

    def send(self, message: Struct) -> None:
        """Send, or keep until the engine reads. An engine that is gone is noticed by `poll`. Raises `IpcError` for a message too long."""
        self._outgoing += pack(message)
        self.flush()

    def flush(self) -> None:
        """Send what was kept, as far as the socket takes it."""
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            # The other end is gone; `receive` still has what it sent before.
            self._outgoing.clear()

    def receive(self) -> list[Struct]:
        """Read the messages that have arrived. Raises `IpcError` for an invalid one; nothing is read after that."""
        if self.closed:
            return []
        self.closed = True
        messages, ended = self._channel.drain()
        self.closed = ended
        return messages

    def progress(self) -> tuple[Progress, ...]:
        """Read its shared counters, slot by slot."""
        return self._counters.progress()

    def memory_mb(self) -> tuple[int, int]:
        """(used, total) from its shared counters."""
        return self._counters.memory()

    def request_cancel(self, slot: int, fence: int) -> None:
        """Set the cancel flag of a slot."""
        self._counters.slots[slot].request_cancel(fence)

    def request_park(self, slot: int, fence: int) -> None:
        """Set the park flag of a slot."""
        self._counters.slots[slot].request_park(fence)

    @property
    def name(self) -> str:
        """Name of its machine, where that is another; "": it is this one."""
        return ""

    @property
    def lost(self) -> str:
        """Reason why its machine is gone, where that is another; "": it is this one."""
        return ""

    def poll(self) -> str | None:
        """Return how it has ended, in words; None while it runs."""
        code = self._process.poll()
        return describe_exit(code) if code is not None else None

    def wait(self) -> None:
        """Wait for its end, which must be near."""
        self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL to its group; nothing once it is reaped."""
        if self._process.poll() is None:
            kill_group(self._process.pid)

    def release(self) -> None:
        """Give back descriptors, after its end; what is left of its group is killed."""
        kill_group(self._process.pid)
        self._release()

    def _release(self) -> None:
        self.closed = True
        self._socket.close()
        self._counters.close()
