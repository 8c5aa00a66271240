"""The broker's process: the real core, router and journal; only sockets and clock are made up, and the event loop is a few lines."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from broker.core import invariants
from broker.core.effects import PeerGone, Send
from broker.core.machine import Core, Policy
from broker.runtime.errors import IdTaken
from broker.shell.housekeeping import STALL_S
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import BACK, FRONT
from broker.shell.recovery import Recovery, subject
from broker.shell.router import Router
from broker.shell.server import BEAT_S, STOP_GRACE_S
from broker.wire import codec
from broker.wire import messages as m
from tests.simulation.checker import Checker
from tests.simulation.disk import Fuse, Killed, Room, WatchedJournal
from tests.simulation.facts import require
from tests.simulation.network import Connection
from tests.simulation.planted import Planted
from tests.simulation.timeline import Alarm

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Messages that one connection holds for a reader who does not read, before a send to it fails.
HIGH_WATER = 200


class Listener:
    """One ROUTER: reads its connections in turn, in any order between them and in order within each."""

    def __init__(self, prefix: bytes, fuse: Fuse, random: Random, checker: Checker) -> None:
        self.prefix = prefix
        self._checker = checker
        self._fuse = fuse
        self._random = random
        self._queues: dict[bytes, deque[bytes]] = {}

    def put(self, peer: bytes, frame: bytes) -> None:
        self._queues.setdefault(peer, deque()).append(frame)

    #: No keys: everybody who is connected may speak.
    keyed = False
    rest = None

    def sender(self) -> str:
        return ""

    def cut(self) -> None:
        raise AssertionError("the broker cuts a peer off, though nobody sends junk here")

    def receive(self) -> tuple[bytes, bytes, bool] | None:
        if not self._queues:
            return None
        self._fuse.burn("receive")
        peers = list(self._queues)
        peer = peers[0] if len(peers) == 1 else self._random.choice(peers)
        queue = self._queues[peer]
        frame = queue.popleft()
        if not queue:
            del self._queues[peer]
        if b"refused" in frame and peer[:1] == BACK:
            self._checker.hears(codec.from_agent(frame))
        return peer[1:], frame, False

    def readable(self) -> bool:
        return bool(self._queues)


class Sockets:
    """Both of them, and the way out."""

    peers = None

    def __init__(self, world: World, fuse: Fuse, random: Random) -> None:
        self.front = Listener(FRONT, fuse, random, world.checker)
        self.back = Listener(BACK, fuse, random, world.checker)
        self.routes: dict[bytes, Connection] = {}
        #: Every connection of this life: what comes over another one was sent to a process that is dead.
        self.known: set[bytes] = set()
        self._world = world
        self._fuse = fuse

    def send(self, peer: bytes, frame: bytes) -> bool:
        self._fuse.burn("before send")
        hasty = self._world.checker.sending(peer, frame)
        connection = self.routes.get(peer)
        if connection is None or len(connection.down) >= HIGH_WATER:
            return False
        if connection.alive:
            connection.down.send(frame)
        if hasty:
            self._world.broker.granted_hastily()
        return True


class WatchedRecovery(Recovery):
    """A core that raises is a finding, unless that was planted."""

    def __init__(self, world: World, core: Core, journal: WatchedJournal) -> None:
        super().__init__(core, journal)
        self._world = world
        self._met: Exception | None = None

    def recover(
        self, error: Exception, now: float, peer: bytes = b"", message: m.Message | PeerGone | None = None
    ) -> list[Send]:
        self._expect(error)
        return super().recover(error, now, peer, message)

    def _set_aside(self, job_id: str, error: Exception, now: float) -> bool:
        self._expect(error)
        return super()._set_aside(job_id, error, now)

    def _expect(self, error: Exception) -> None:
        if error is self._met:
            return
        self._met = error
        if isinstance(error, IdTaken):
            self._world.checker.taken(error.job_ids)
            self._world.broker.began_anew()
            return
        if not isinstance(error, Planted):
            raise error
        require(subject(error)[0] == error.job_id, "the job is told that the core raised over", error)
        self._world.broker.recovered(error)


class BrokerProcess:
    """All lives of the broker on one journal."""

    def __init__(self, world: World, policy: Policy, path: Path, random: Random) -> None:
        self.world = world
        self.policy = policy
        self.path = path
        self.random = random
        self._power = Random(random.random())
        self.timeline = world.timeline
        self.fuse = Fuse()
        self.room = Room()
        self.deaths: list[float] = []
        #: It dies right after so many grants of jobs that are not on disk; 0: not for that. Drawn apart, as customers' wishes are.
        self._hasty_left = 0 if world.plan.exact else Random(f"hasty {world.seed}").choice((0,) * 9 + (1, 2, 3))
        #: Steps of the wall clock between two lives.
        self.clock_offset = 0.0
        self.paused_until = 0.0
        self.wires: Sockets | None = None
        #: What has come while it was stopped.
        self._late: list[tuple[Connection, bytes]] = []
        self._pass = Alarm(self.timeline, self._run)
        self._beat = Alarm(self.timeline, self._on_beat)

    @property
    def up(self) -> bool:
        return self.wires is not None

    @property
    def serving(self) -> bool:
        """Whether its process is there and runs."""
        return self.up and self.timeline.now >= self.paused_until

    def now(self) -> float:
        return self.timeline.now + self.clock_offset

    # ------------------------------------------------------------ life

    def start(self) -> None:
        if self.up:
            return
        try:
            self._start()
        except Killed as boundary:
            self._die(str(boundary), 1.0)

    def _start(self) -> None:
        self.journal = WatchedJournal(self.path, self.fuse, self.world.checker)
        self.fuse.burn("raised epoch")
        self.core = Core(self.journal.epoch, self.policy, self.now())
        recovery = WatchedRecovery(self.world, self.core, self.journal)
        recovery.load(self.now())
        junk = PeerLimiter()
        self.wires = Sockets(self.world, self.fuse, self.random)
        self.router = Router(
            self.core, self.journal, self.wires, self.room, Metrics(junk), junk, self.timeline.clock, recovery
        )  # type: ignore[arg-type]
        self.world.trace("broker", "start", f"epoch {self.journal.epoch}")
        self._last_run_at = self.now()
        self._beat.set(self.timeline.now + BEAT_S)
        self._pass.set(self.timeline.now)
        for cable in self.world.cables():
            self.timeline.after(self.random.choice((0.001, 0.1, 2.0)), cable.connect)

    def granted_hastily(self) -> None:
        """A job was granted that is not on disk. Raises `Killed`."""
        self._hasty_left -= 1
        if self._hasty_left == 0:
            raise Killed("between a grant and the row of its job")

    def recovered(self, error: Planted) -> None:
        """The core raised as planted."""
        self.world.trace("broker", "raised", error)
        self.world.count(f"planted: {error.where}")
        self.world.checker.set_aside(error.job_id)
        self.began_anew()

    def began_anew(self) -> None:
        """The core is about to be filled anew: to the others, as if the broker had died for a moment."""
        self.world.disturb("broker")
        self.deaths.append(self.timeline.now)

    def kill(self, back_s: float) -> None:
        """`kill -9` between two passes."""
        if self.up:
            self._die("between passes", back_s)

    def _die(self, boundary: str, back_s: float) -> None:
        self.world.trace("broker", "killed", boundary)
        self.world.disturb("broker")
        self.world.count(f"broker killed: {boundary}")
        if boundary != "stopped" and self._power.random() < self.world.plan.power:
            self.world.count("broker lost power")
            self.journal.lose_power(self._power)
        else:
            self.journal.close()
        self.deaths.append(self.timeline.now)
        self.wires = None
        self._late.clear()
        self._pass.set(None)
        self._beat.set(None)
        for cable in self.world.cables():
            cable.cut(0.0)
        self.timeline.after(back_s, self.start)

    def end(self) -> None:
        """The world ends."""
        if self.up:
            self.wires = None
            self.journal.close()

    def stop(self, back_s: float) -> None:
        """SIGTERM: refuse new jobs for a moment, commit, and go."""
        if self.serving and not self.core.stopping:
            self.core.begin_stop()
            life = self.journal
            self.timeline.after(STOP_GRACE_S, lambda: self._stopped(back_s) if self.journal is life else None)

    def _stopped(self, back_s: float) -> None:
        if not self.up:
            return
        self._run()
        if not self.up:
            return
        try:
            self.router.commit(self.now())
        except Killed as boundary:
            self._die(str(boundary), back_s)
        else:
            self._die("stopped", back_s)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self.world.disturb("broker", seconds)
        self.paused_until = self.timeline.now + seconds
        self.timeline.at(self.paused_until, self._resume)

    def _resume(self) -> None:
        """It runs again; ZeroMQ's thread may need a moment longer to read what has come in the meantime."""
        if self.paused_until > self.timeline.now:
            return
        if self.random.random() < 0.5:
            self._run()
        late, self._late = self._late, []
        for connection, frame in late:
            self.arrived(connection, frame)
        self._run()
        for cable in self.world.cables():
            cable.connect()

    # ------------------------------------------------------------ network

    def arrived(self, connection: Connection, frame: bytes) -> None:
        """A message is in the socket's queue."""
        if self.wires is None or connection.peer not in self.wires.known:
            return
        if not self.serving:
            self._late.append((connection, frame))
            return
        listener = self.wires.front if connection.peer[:1] == FRONT else self.wires.back
        listener.put(connection.peer, frame)
        self._pass.set(self.timeline.now)

    def accept(self, connection: Connection) -> bool:
        if self.wires is None or not self.serving:
            return False
        self.wires.routes[connection.peer] = connection
        self.wires.known.add(connection.peer)
        if connection.peer[:1] == BACK:
            connection.down.send(b"")
        return True

    def routes(self) -> dict[bytes, Connection]:
        return {} if self.wires is None else self.wires.routes

    # ------------------------------------------------------------ the event loop

    def _run(self) -> None:
        """A pass, as `broker.shell.server` runs it."""
        if not self.serving:
            return
        now = self.now()
        try:
            if now - self._last_run_at > STALL_S:
                self.world.count("broker stalled")
                self.core.stalled(now - self._last_run_at, now)
            self._last_run_at = now
            more = self.router.run_pass(now)
        except Killed as boundary:
            self._die(str(boundary), self.random.choice((0.2, 2.0, 9.0)))
            return
        self.world.checker.broker_stepped()
        due = self.core.next_deadline()
        if more:
            self._pass.set(self.timeline.now)
        elif due is not None:
            self._pass.set(due - self.clock_offset + self.random.choice(self.world.plan.lags))

    def _on_beat(self) -> None:
        if not self.up:
            return
        self._beat.set(self.timeline.now + BEAT_S)
        if not self.serving:
            return
        if self.now() - self._last_run_at > STALL_S:
            self._run()
            return
        self._last_run_at = self.now()
        try:
            self.router.commit(self.now())
        except Killed as boundary:
            self._die(str(boundary), 2.0)

    def check(self) -> None:
        """Raise `BrokenInvariant` if a rule of the core does not hold."""
        invariants.check(self.core.state)
