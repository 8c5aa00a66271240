"""The agent's logic: no socket, no process, no clock. Events and the time come in, effects (`effects`) go out.

Rules:

- At most three jobs are in the engine (`engine_slot`): one in its postprocessing, one that is denoised, and one that is prepared. A job's
  end makes a result, which waits in `unacked_results` until it is acknowledged.
- What it has room for is `capacity`'s; what the broker orders of an attempt is obeyed by its fence (`broker_orders`); reports without a
request are sent when they are due (`reporter`).
- What is here: the entrances, the broker's epoch, and how the worker drains, stops and leaves.

The first `tick` starts the engine, unless the name may be another process's, and sends `Hello`. No peer can make an entrance raise;
`EngineStateError` is a bug here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

from broker.runtime.log_actions import Action
from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.broker_orders import BrokerOrders
from workers.agent.capacity import Capacity
from workers.agent.engine_slot import EngineSlot
from workers.agent.identity import Identity
from workers.agent.registration import Registration
from workers.agent.reporter import Reporter
from workers.agent.spooled_results import SpooledResult
from workers.agent.truncate import MAX_REASON, MAX_TEXT, clip
from workers.agent.unacked_results import UnackedResults
from workers.ipc.messages import FromEngine, JobParked, NextRequested, PostprocessBegun
from workers.ipc.shared import Progress
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_NAME_TAKEN, EXIT_RESTART, EXIT_UNWANTED
from workers.supervisor.messages import NameHeld

#: How to end when the broker dismisses this worker.
_EXITS: dict[m.Remedy, int] = {"none": EXIT_UNWANTED, "anew": EXIT_RESTART, "yield": EXIT_NAME_TAKEN}


class AgentCore:
    """Worker's side of the protocol with the broker, and keeper of its engine."""

    def __init__(self, identity: Identity, policy: AgentPolicy, now: float, left: Sequence[SpooledResult] = ()) -> None:
        """`left`: results that an agent of this name before did not get into the depot."""
        self.identity = identity
        self.policy = policy
        self._out: list[fx.Effect] = []
        emit, remote = self._out.append, identity.dirs.remote
        self.registration = Registration(policy, now, phase=crc32(identity.boot.encode()) / 2**32)
        self.unacked_results = UnackedResults(policy.resend_s)
        self.engine_slot = EngineSlot(identity, policy, self.unacked_results, emit, now)
        self.capacity = Capacity(self.engine_slot, self.unacked_results, policy)
        self.orders = BrokerOrders(
            self.engine_slot, self.unacked_results, self.capacity, self.registration, emit, remote=remote
        )
        self.reporter = Reporter(
            identity, self.registration, self.unacked_results, self.engine_slot, self.capacity, self.orders, emit
        )
        if identity.yields:
            # The name may be another process's, and that one may have the GPU: no engine before the broker confirms that it is ours.
            self.engine_slot.engine.life.hold_back()
        self.epoch = 0
        self.orders.resume(left, now)
        #: After a signal to stop, with grace: when what is held is handed back all the same.
        self.stop_at: float | None = None
        #: Once leaving: the exit code, and when to go even if the engine is still there.
        self.leaving: tuple[int, float] | None = None

    def next_deadline(self) -> float:
        """Return the latest time for the next `tick`."""
        if self.leaving is not None:
            return self.leaving[1]
        detached_at = self.registration.detached_at
        times = [self.registration.next_due(self.capacity.shown()), *self.engine_slot.deadlines(detached_at)]
        if self.registration.registered and (due := self.unacked_results.next_due()) is not None:
            times.append(due)
        if self.capacity.draining:
            times.append(detached_at)
        if self.stop_at is not None:
            times.append(self.stop_at)
        return min(times)

    # ------------------------------------------------------------ entrances

    def tick(self, now: float) -> list[fx.Effect]:
        """Do what is due."""
        if self.leaving is not None:
            if now >= self.leaving[1]:
                self._out.append(fx.Exit(self.leaving[0]))
            return self._flush_effects(now)
        if self.registration.lapse(now):
            self._out.append(fx.Note(action=Action.BROKER_SILENT, level="warning"))
        if self.capacity.draining and now >= self.registration.detached_at:
            self._leave("drained, and the broker is gone", EXIT_LEFT, now, orderly=True)
        elif self.stop_at is not None and now >= self.stop_at:
            self._leave("stopped; the grace is over", EXIT_LEFT, now, orderly=True)
        else:
            self.engine_slot.timers(now, self.registration.detached_at)
        return self._flush_effects(now)

    def from_broker(self, message: m.ToAgent | None, now: float) -> list[fx.Effect]:
        """A message of the broker; None for its probe."""
        if self.leaving is None:
            self.registration.note_message(now)
            self._handle(message, now)
        return self._flush_effects(now)

    def _handle(self, message: m.ToAgent | None, now: float) -> None:
        match message:
            case None | m.Identify():
                self.registration.unregister(now)
            case m.Welcome():
                self._on_welcome(message, now)
            case m.Run():
                self.orders.run(message, now)
            case m.Cancel():
                self.orders.cancel(message, now)
            case m.ResultAck():
                self.orders.acknowledged(message)
            case m.Park():
                self.orders.park(message, now)
            case m.Drain():
                self.capacity.draining = True
                if message.hand_back:
                    self.engine_slot.control.park_all(self.identity.leaves, now)
            case m.Undrain():
                # A stop with grace is no drain, and stays.
                if self.capacity.draining and self.stop_at is None:
                    self.capacity.draining = False
                    self._out.append(fx.Note(action=Action.UNDRAINED))
            case m.WorkerRejected():
                if message.remedy == "anew":
                    self.orders.drop_results()
                self._leave(message.reason, _EXITS[message.remedy], now, goodbye=False)
            case _:  # HeartbeatAck: the link is alive, no more
                pass

    def from_engine(self, message: FromEngine, now: float) -> list[fx.Effect]:
        """A message of the engine."""
        if self.leaving is None:
            self.engine_slot.receive(message, now)
            if isinstance(message, NextRequested | PostprocessBegun | JobParked) and self.capacity.free:
                # The room is there now, and no result reports it.
                self.registration.beat_now(now)
        return self._flush_effects(now)

    def progressed(self, progress: Iterable[Progress], now: float) -> list[fx.Effect]:
        """Take the engine's shared counters: often while there is an attempt, and once more when the process is gone."""
        self.engine_slot.observe(progress, now)
        return self._flush_effects(now)

    def measured(self, stats: fx.Stats, now: float) -> list[fx.Effect]:
        """New numbers for the heartbeat. A device that is broken gets no more jobs; what its engine has runs to its end."""
        self.reporter.stats = stats
        if stats.health.fault and not self.engine_slot.engine.fault:
            self.engine_slot.engine.condemn(stats.health.fault)
            if self.leaving is None:
                # As in `stop`: known before anything is handed back.
                self.reporter.send_heartbeat(now, at_once=True)
                self.engine_slot.control.hand_back_fetching(f"the device is broken: {stats.health.fault}", now)
        return self._flush_effects(now)

    def begin_failed(self, fence: int, reason: str, now: float) -> list[fx.Effect]:
        """The job of this fence could not be given to the engine."""
        self.engine_slot.control.begin_failed(fence, reason, now)
        return self._flush_effects(now)

    def inputs_fetched(self, fence: int, fault: str, now: float, *, gone: bool = False) -> list[fx.Effect]:
        """The inputs of this attempt are here, unless there is a `fault`; `gone`: the depot does not keep one of them any more."""
        if self.leaving is None:
            self.engine_slot.control.inputs_fetched(fence, fault, now, gone=gone)
            if self.capacity.free:
                self.registration.beat_now(now)
        return self._flush_effects(now)

    def files_put(self, job_id: str, fence: int, fault: str, now: float) -> list[fx.Effect]:
        """The files of this attempt are in the depot, unless there is a `fault`: then it has failed. Or the checkpoints of a parked one are
        there, or will not be."""
        if self.engine_slot.parked.waits(job_id, fence):
            self.engine_slot.parked.put(fence, now)
        elif not fault:
            self.unacked_results.is_put(fence, now)
        else:
            text = clip(f"its files cannot be put into the depot: {fault}", MAX_TEXT)
            self.orders.withdraw(
                m.Failed(job_id=job_id, fence=fence, kind=m.FailureKind.ENGINE_ERROR, message=text), now
            )
        return self._flush_effects(now)

    def depot_failed(self, fence: int, fault: str, now: float) -> list[fx.Effect]:
        """Files or inputs of this attempt could not be moved; it is tried again."""
        self.capacity.depot_failed(fence, clip(fault, MAX_REASON))
        return self._flush_effects(now)

    def engine_closed(self, now: float, broken: str = "") -> list[fx.Effect]:
        """The engine closed its socket, and its process is still there. `broken`: why it cannot go on, as it sent what is no message, or
        one of its processes is gone and the others are not yet."""
        if broken:
            self.engine_slot.engine.broken(broken, now)
        else:
            self.engine_slot.engine.closed(now)
        return self._flush_effects(now)

    def machine_stops(self, reason: str, now: float) -> list[fx.Effect]:
        """A machine of the group is being stopped, for this reason ("": none is): hand back what can be parked, and end the engine once it
        has no attempt."""
        slot, known = self.engine_slot, self.capacity.machine_stops
        if self.leaving is None and reason and not known:
            self.capacity.machine_stops = reason
            # As in `stop`: known before anything is handed back.
            self.reporter.send_heartbeat(now, at_once=True)
            slot.control.park_all(reason, now)
            self._out.append(fx.Note(action=Action.MACHINES, level="warning", detail=reason))
        state = slot.engine.life.state
        if self.leaving is None and not slot.attempts:
            if reason and state in ("loading", "idle", "busy"):
                slot.engine.kill(reason, now, blamed=False)
            elif not reason and state != "stopping" and not slot.parked:
                self.capacity.machine_stops = ""
        return self._flush_effects(now)

    def engine_exited(self, how: str, now: float, lost: str = "") -> list[fx.Effect]:
        """The engine's process is gone, or could not be started. `lost`: why a machine of the group is gone, whose processes' end is not
        the engine's fault."""
        if self.leaving is None:
            self.engine_slot.exited(how, now, lost)
        else:
            self.engine_slot.abandon(now)
            self._out.append(fx.Exit(self.leaving[0]))
        return self._flush_effects(now)

    def stop(self, reason: str, now: float) -> list[fx.Effect]:
        """A signal to end: hand back what can be parked, finish the rest while the grace lasts. Without grace, or at a second signal:
        `leave`.
        """
        if self.leaving is None and self.stop_at is None and self.policy.stop_grace_s > 0:
            self.capacity.draining = True
            # Known before anything is handed back: a short step ends before the next heartbeat would be due.
            self.reporter.send_heartbeat(now, at_once=True)
            self.engine_slot.control.park_all(self.identity.leaves, now)
            self.stop_at = now + self.policy.stop_grace_s
            self._out.append(
                fx.Note(action=Action.DRAINING, detail=f"{reason}; {self.policy.stop_grace_s:g} s at most")
            )
            return self._flush_effects(now)
        if self.leaving is None:
            self._leave(reason, EXIT_LEFT, now, orderly=True)
        return self._flush_effects(now)

    def leave(self, reason: str, now: float, code: int = EXIT_LEFT) -> list[fx.Effect]:
        """Hand everything back and go, as something else has ended."""
        if self.leaving is None:
            self._leave(reason, code, now)
        return self._flush_effects(now)

    # ------------------------------------------------------------ the broker's messages

    def _on_welcome(self, message: m.Welcome, now: float) -> None:
        if message.epoch < self.epoch:
            # Epochs of one journal only grow. The fences of this one would look old to us for ever: start afresh.
            self.orders.drop_results()
            self._leave("the broker has another journal", EXIT_RESTART, now)
            return
        self.epoch = message.epoch
        if self.identity.dirs.remote:
            self._out.append(fx.SetDepotKey(message.depot_key))
            self.orders.put_resumed()
        self.registration.welcomed(message.heartbeat_s, now)
        if self.reporter.yields:
            self.reporter.yields = False
            if not self.engine_slot.engine.fault:
                self.engine_slot.engine.life.let_start(now)
            self._out.append(fx.Report(NameHeld()))
        self.unacked_results.send_all_now(now)
        self._out.append(fx.Note(action=Action.REGISTERED, detail=f"epoch {message.epoch}"))

    def _leave(self, reason: str, code: int, now: float, *, goodbye: bool = True, orderly: bool = False) -> None:
        if goodbye:
            # What is done counts, if it gets there before the goodbye that hands the rest back.
            self.unacked_results.send_all_now(now)
            self.reporter.send_results(now)
            self.engine_slot.parked.hand_back_all(now)
            self._out.append(fx.SendBroker(m.Goodbye(reason=clip(reason, MAX_REASON), orderly=orderly)))
        self.leaving = (code, now + self.policy.leave_s)
        self.capacity.leaving = True
        self._out.append(fx.Note(action=Action.LEAVING, detail=reason))
        if self.engine_slot.engine.life.alive:
            self.engine_slot.engine.kill(reason, now, blamed=False)
        else:
            self._out.append(fx.Exit(code))

    # ------------------------------------------------------------ sending

    def _flush_effects(self, now: float) -> list[fx.Effect]:
        """Send what is due, and hand out all effects of this entrance."""
        if self.leaving is None and self.capacity.draining and self.capacity.is_empty:
            self._leave("drained", EXIT_LEFT, now, orderly=True)
        if self.leaving is None:
            self.reporter.send_due(now)
        effects = self._out[:]
        self._out.clear()
        return effects
