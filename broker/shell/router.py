"""One pass of the broker: drain both sockets, call the core, commit once, then send.

Nothing is sent before its facts are on disk: the messages of a pass wait for the pass's one commit, which is also what makes
many jobs share one fsync. Only what the core calls early goes before it: the grant of a job, which does not depend on its row. So no worker
waits for the disk, and a job starts while its acceptance is on its way there.

The back is drained before the front, so that a flood of requests cannot make workers look silent, and no lease expires while messages
that would renew it are still waiting to be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from broker.core import invariants
from broker.core.effects import Effect, PeerGone, Send
from broker.core.jobs import IllegalMove
from broker.core.lookups import NOTHING
from broker.core.machine import Core
from broker.runtime.errors import JournalConflict
from broker.runtime.log_actions import Action
from broker.shell.executor import Executor
from broker.shell.journal.disk import Disk
from broker.shell.journal.journal import Journal
from broker.shell.lookups import look_up
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import DECODERS, FRONT, Listener, Sockets
from broker.shell.pass_costs import COSTS
from broker.shell.peer_access import PeerAccess
from broker.shell.recovery import Recovery
from broker.shell.stimuli import KEPT_BYTES, Stimuli, without_body
from broker.wire import codec
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: Messages a pass takes in all, and how many of them the back may use: the front is never shut out.
PASS_MESSAGES = 256
_BACK_SHARE = 224

_FRONT_LETTER = FRONT[0]

#: How long expiry waits for the back to be read dry; a peer that floods it must not stop the clock.
_PATIENCE_S = 2.0


class Router:
    """Moves bytes between sockets, core and journal. Has no clock and never waits."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        wires: Sockets,
        disk: Disk,
        metrics: Metrics,
        limiter: PeerLimiter,
        seconds: Callable[[], float],
        recovery: Recovery | None = None,
        stimuli: Stimuli | None = None,
        *,
        check_invariants: bool = False,
    ) -> None:
        """`seconds` measures commits. `recovery`: what has loaded the core, if anything has. `check_invariants`: after every pass."""
        self._stimuli = stimuli or Stimuli(None)
        self._check_invariants = check_invariants
        self._recovery = recovery or Recovery(core, journal)
        self._core = core
        self._journal = journal
        self._wires = wires
        self._disk = disk
        self._metrics = metrics
        self._seconds = seconds
        self._executor = Executor(journal, metrics)
        self._access = PeerAccess(limiter, wires, self._executor, self._gone)
        #: Since when something is due and the back has not been read dry.
        self._waiting_since: float | None = None

    def run_pass(self, now: float) -> bool:
        """One pass; True when more is waiting to be read. Raises `ShellError` when the broker cannot go on."""
        self._executor.log_transitions = logger.isEnabledFor(logging.INFO)
        self._core.set_refusing(self._disk.shortage)
        taken, back_dry = self._drain(self._wires.back, _BACK_SHARE, now)
        self._drain(self._wires.front, PASS_MESSAGES - taken, now)
        if self._may_expire(back_dry, now):
            self._stimuli.ring.append((now, b"", None))
            self._attempt(lambda: self._core.tick(now), now)
        if self._check_invariants:
            self._attempt(self._checked, now)
        self._commit_and_send(now)
        # Reading and sending may both have consumed the descriptor's edge, so its silence means nothing: check.
        return self._wires.front.rest is not None or self._wires.back.readable() or self._wires.front.readable()

    def _checked(self) -> list[Effect]:
        """Raise `BrokenInvariant` when a rule of the core does not hold: what this pass staged is not committed then."""
        invariants.check(self._core.state, self._journal.deliveries.of_job)
        return []

    def _may_expire(self, back_dry: bool, now: float) -> bool:
        """Whether something is due and every message that could renew a lease has been read, or has been waited for long enough."""
        due = self._core.next_deadline()
        if due is None or due > now:
            return False
        if back_dry:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= _PATIENCE_S

    def commit(self, now: float, *, lazy: bool = True) -> bool:
        """Make what is staged durable, with or without the rows that may be lost; False when it had to be discarded: see `recovery`."""
        self._executor.durable = False
        if not self._journal.dirty:
            return True
        started = self._seconds()
        try:
            rows = self._journal.commit(lazy=lazy)
        except JournalConflict as error:
            self._recover(error, now)
            return False
        self._disk.check_journal()
        self._metrics.commits.add(self._seconds() - started, rows)
        try:
            self._core.committed()
        except Exception as error:
            self._recover(error, now)
            return False
        return True

    def _attempt(
        self,
        step: Callable[[], list[Effect]],
        now: float,
        peer: bytes = b"",
        message: m.Message | PeerGone | None = None,
    ) -> None:
        """Call the core and carry out its effects. What it raises over one job must not stop the others."""
        try:
            self._executor.carry_out(step())
        except codec.DecodeError:
            raise
        except Exception as error:
            self._recover(error, now, peer, message)

    def _recover(
        self, error: Exception, now: float, peer: bytes = b"", message: m.Message | PeerGone | None = None
    ) -> None:
        """Discard everything since the last commit, unsent messages too. Raises the error when the broker cannot go on."""
        if isinstance(error, IllegalMove | invariants.BrokenInvariant):
            path = self._stimuli.dump(f"{type(error).__name__}: {error}", self._journal.epoch, now)
            extra = {"action": Action.STIMULI, "path": str(path) if path else None}
            logger.error("the core broke a rule of its own; its last messages are kept for a replay", extra=extra)
        self._executor.clear()
        self._executor.sends += self._recovery.recover(error, now, peer, message)
        self._metrics.failures = self._recovery.failures

    # ------------------------------------------------------------ in

    def _drain(self, listener: Listener, budget: int, now: float) -> tuple[int, bool]:
        """(messages taken, whether the socket was read dry).

        The rest of a frame with costly requests (`COSTS`) waits for the next pass; any other may go `MAX_BATCH` - 1 messages over the
        budget.
        """
        prefix, keyed, receive = listener.prefix, listener.keyed, listener.receive
        needs, step, keep = self._core.needs, self._core.receive, self._stimuli.ring.append
        access, received, carry_out = self._access, self._metrics.received, self._executor.carry_out
        shut = access.shut
        workers = self._core.state.pool.workers
        rest, listener.rest = listener.rest, None
        taken = 0
        while taken < budget:
            if rest is not None:
                (peer, messages, whole), rest = rest, None
            else:
                arrived = receive()
                if arrived is None:
                    return taken, True
                routing_id, frame, further = arrived
                peer = prefix + routing_id
                messages = self._decoded(listener, peer, frame, further, now)
                taken += len(messages) or 1
                whole = len(frame) <= KEPT_BYTES * len(messages)
            left = iter(messages)
            for message in left:
                if message is None:
                    continue
                if shut and peer in shut:  # for a message of this frame
                    break
                try:
                    if keyed and type(message) is m.Hello and not access.admits_name(listener, peer, message.name, now):
                        continue
                    received[type(message)] += 1
                    keep((now, peer, message if whole else without_body(message)))
                    lookup = needs(peer, message)
                    found = NOTHING if lookup is None else look_up(self._journal, lookup, now)
                    carry_out(step(peer, message, now, found))
                except codec.DecodeError as error:
                    access.note_invalid(listener, peer, "decode", str(error), now)
                except Exception as error:  # as in `_attempt`, which would cost a call a message
                    self._recover(error, now, peer, message)
                if type(message) in COSTS and (cost := COSTS[type(message)](message, len(workers))):
                    taken += cost
                    if taken >= budget:
                        later = [*left]
                        listener.rest = (peer, later, whole) if later else None
                        break
        return taken, False

    def _decoded(
        self, listener: Listener, peer: bytes, frame: bytes, further: bool, now: float
    ) -> Sequence[m.Message | None]:
        """The messages of a frame; none if its peer may not send any, or if it is not of this protocol."""
        access = self._access
        if (access.shut and peer in access.shut) or (listener.keyed and not access.admits(listener, peer, now)):
            return ()
        if further:
            access.refuse_frames(listener, peer, frame, now)
            return ()
        try:
            return DECODERS[listener.prefix](frame)
        except codec.VersionError as error:
            access.refuse_version(listener, peer, error, now)
        except codec.DecodeError as error:
            access.note_invalid(listener, peer, "decode", str(error), now)
        return ()

    def _gone(self, peer: bytes, now: float) -> None:
        """Report to the core that nothing more is to be exchanged with this peer."""
        message = PeerGone()
        self._attempt(lambda: self._core.receive(peer, message, now, NOTHING), now, peer, message)

    # ------------------------------------------------------------ out

    def _commit_and_send(self, now: float) -> None:
        """Send what is early, pack the events, commit, send the rest, report to the core the peers that could not be
        reached, and repeat for the effects of that."""
        work = self._executor
        while True:
            gone: dict[bytes, None] = {}
            if work.early:
                early, work.early = work.early, []
                self._send(early, gone)
            state = self._core.state
            if state.changed or state.gone or state.steps.stepped:
                self._attempt(self._core.notify_watchers, now)
            if work.idle and not gone:
                return
            sends, work.sends = work.sends, []
            if work.durable and not self.commit(now, lazy=False):
                continue
            if sends:
                self._send(sends, gone)
                self._core.sent()
            for peer in gone:
                self._gone(peer, now)

    def _send(self, sends: list[Send], gone: dict[bytes, None]) -> None:
        """Send; a peer that cannot be reached is put into `gone`, and gets nothing more in this pass: what it missed is sent anew.

        Messages to one edge go in one frame. A worker is rarely sent two at once, and gets a frame for each.
        """
        counts, send_frame, encode = self._metrics.sent, self._wires.send, codec.encode
        to_edges: dict[bytes, list[m.Message]] = {}
        for send in sends:
            peer, message = send.peer, send.message
            if peer[0] == _FRONT_LETTER and message.v == m.PROTOCOL:
                if peer in to_edges:
                    to_edges[peer].append(message)
                else:
                    to_edges[peer] = [message]
            elif peer in gone:
                self._metrics.unsent += 1
            elif send_frame(peer, encode(message)):
                counts[type(message)] += 1
            else:
                self._note_gone(peer, 1, gone)
        for peer, messages in to_edges.items():
            if peer in gone:
                self._metrics.unsent += len(messages)
            elif all(send_frame(peer, frame) for frame in codec.join(map(encode, messages))):
                for message in messages:
                    counts[type(message)] += 1
            else:
                self._note_gone(peer, len(messages), gone)

    def _note_gone(self, peer: bytes, unsent: int, gone: dict[bytes, None]) -> None:
        self._metrics.unsent += unsent
        gone[peer] = None
        logger.info("peer gone", extra={"action": Action.PEER_GONE, "peer": peer.hex()})
