"""The agent's logic: no socket, no process, no clock. Events and the time come in, effects (`effects`) go out.

Rules:

- At most two jobs are in the engine (`engine_slot`): one that is denoised, and before it one in its postprocessing. A job's end makes a
  result, which waits in `unacked_results` until it is acknowledged.
- What is said of capacity is absolute: `free` is 1 only when a `Run` would be taken now.
- A fence is taken at most once: a `Run` whose fence is not above all fences received is a repetition, or comes too late.
- A cancel touches the engine only if the engine holds that very fence.
- Nothing waits for the broker: a `SendBroker` may be lost, and everything that matters is said again by a later one.

The first `tick` starts the engine, unless the name may be another process's, and says `Hello`. No peer can make an entrance raise;
`EngineStateError` is a bug here.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from msgspec import Struct

from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.dirs import WorkerDirs
from workers.agent.engine_slot import EngineSlot
from workers.agent.registration import Registration
from workers.agent.truncate import MAX_REASON, MAX_TEXT, clip
from workers.agent.unacked_results import UnackedResults, keeps_files
from workers.ipc.messages import FromEngine, JobParked, PostprocessBegun, Setup
from workers.ipc.shared import Progress
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_NAME_TAKEN, EXIT_RESTART, EXIT_UNWANTED
from workers.supervisor.messages import NameHeld

#: How to end when the broker dismisses this worker.
_EXITS: dict[m.Remedy, int] = {"none": EXIT_UNWANTED, "anew": EXIT_RESTART, "yield": EXIT_NAME_TAKEN}


class Identity(Struct, frozen=True, kw_only=True):
    """Constants of an agent's life."""

    name: str
    #: Drawn at each start.
    boot: str
    info: m.WorkerInfo
    setup: Setup
    dirs: WorkerDirs
    #: Whether the name was taken by another process before this one started.
    yields: bool = False


class AgentCore:
    """Worker's side of the protocol with the broker, and keeper of its engine."""

    def __init__(self, identity: Identity, policy: AgentPolicy, now: float) -> None:
        self.identity = identity
        self.policy = policy
        self._out: list[fx.Effect] = []
        self.registration = Registration(policy, now, phase=crc32(identity.boot.encode()) / 2**32)
        self.unacked_results = UnackedResults(policy.resend_s)
        self.engine_slot = EngineSlot(
            identity.setup, policy, self.unacked_results, self._out.append, now, identity.dirs
        )
        #: Whether the name may be another process's now: see `Hello`. Until it is not, no engine is started: the other's may have the GPU.
        self.yields = identity.yields
        if self.yields:
            self.engine_slot.engine.hold_back()
        #: Highest fence ever received.
        self.seen = 0
        self.epoch = 0
        self.draining = False
        #: Once asked to stop, with grace: when what is held is handed back all the same.
        self.stop_at: float | None = None
        #: Once leaving: the exit code, and when to go even if the engine is still there.
        self.leaving: tuple[int, float] | None = None
        self.stats = fx.Stats()

    # ------------------------------------------------------------ what the shell asks

    def refusal_reason(self) -> str:
        """Return the reason why a `Run` would be refused now; "" when it would be taken."""
        if self.leaving is not None:
            return "the worker is leaving"
        if self.draining:
            return "the worker is draining"
        if refusal_reason := self.engine_slot.refusal_reason():
            return refusal_reason
        if len(self.unacked_results) >= self.policy.max_unacknowledged:
            return f"{len(self.unacked_results)} results wait for acknowledgement"
        if (put_bytes := self.unacked_results.put_bytes) > self.policy.spool_bytes:
            return f"{put_bytes / 1e6:.0f} MB of results wait to be put into the depot"
        return ""

    @property
    def free(self) -> int:
        """Return the number of jobs that would be taken now."""
        return 0 if self.refusal_reason() else 1

    def held(self, now: float) -> tuple[m.Held, ...]:
        """The attempts in the engine, and all that wait for acknowledgement."""
        return tuple(attempt.held(now) for attempt in self.engine_slot.attempts) + self.unacked_results.held(now)

    def next_deadline(self) -> float:
        """Return the latest time for the next `tick`."""
        if self.leaving is not None:
            return self.leaving[1]
        detached_at = self.registration.detached_at
        times = [self.registration.next_due(self._shown()), *self.engine_slot.deadlines(detached_at)]
        if self.registration.registered and (due := self.unacked_results.next_due()) is not None:
            times.append(due)
        if self.draining:
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
        if self.draining and now >= self.registration.detached_at:
            self._leave("drained, and the broker is gone", EXIT_LEFT, now, orderly=True)
        elif self.stop_at is not None and now >= self.stop_at:
            self._leave("stopped; the grace is over", EXIT_LEFT, now, orderly=True)
        else:
            self.engine_slot.timers(now, self.registration.detached_at)
        return self._flush_effects(now)

    def from_broker(self, message: m.ToAgent | None, now: float) -> list[fx.Effect]:
        """A message of the broker; None for its probe."""
        if self.leaving is None:
            self.registration.heard(now)
            self._told(message, now)
        return self._flush_effects(now)

    def _told(self, message: m.ToAgent | None, now: float) -> None:
        match message:
            case None | m.Identify():
                self.registration.forgotten(now)
            case m.Welcome():
                self._on_welcome(message, now)
            case m.Run():
                self._on_run(message, now)
            case m.Cancel():
                self._on_cancel(message, now)
            case m.ResultAck():
                self._on_ack(message)
            case m.Park():
                self._on_park(message, now)
            case m.Drain():
                self.draining = True
                if message.hand_back:
                    self.engine_slot.park_all(now)
            case m.Undrain():
                self._undrain()
            case m.WorkerRejected():
                self._leave(message.reason, _EXITS[message.remedy], now, goodbye=False)
            case _:  # HeartbeatAck: having been heard is all
                pass

    def from_engine(self, message: FromEngine, now: float) -> list[fx.Effect]:
        """A message of the engine."""
        if self.leaving is None:
            self.engine_slot.told(message, now)
            if isinstance(message, PostprocessBegun | JobParked) and self.free:
                # The room is there now, and no result tells of it.
                self.registration.beat_now(now)
        return self._flush_effects(now)

    def progressed(self, progress: Iterable[Progress], now: float) -> list[fx.Effect]:
        """Take the engine's shared words: often while there is an attempt, and once more when the process is gone."""
        self.engine_slot.observe(progress, now)
        return self._flush_effects(now)

    def measured(self, stats: fx.Stats, now: float) -> list[fx.Effect]:
        """New numbers for the heartbeat. A device that is broken gets no more jobs; what it has runs to its end."""
        self.stats = stats
        if stats.health.fault and not self.engine_slot.fault:
            self.engine_slot.condemn(stats.health.fault)
        return self._flush_effects(now)

    def begin_failed(self, fence: int, reason: str, now: float) -> list[fx.Effect]:
        """The job of this fence could not be given to the engine."""
        self.engine_slot.begin_failed(fence, reason, now)
        return self._flush_effects(now)

    def inputs_fetched(self, fence: int, fault: str, now: float, *, gone: bool = False) -> list[fx.Effect]:
        """The inputs of this attempt are here, unless there is a `fault`; `gone`: the depot does not keep one of them any more."""
        if self.leaving is None:
            self.engine_slot.inputs_fetched(fence, fault, now, gone=gone)
            if self.free:
                self.registration.beat_now(now)
        return self._flush_effects(now)

    def files_put(self, job_id: str, fence: int, fault: str, now: float) -> list[fx.Effect]:
        """The files of this attempt are in the depot, unless there is a `fault`: then it has failed."""
        if not fault:
            self.unacked_results.is_put(fence, now)
        else:
            text = clip(f"its files cannot be put into the depot: {fault}", MAX_TEXT)
            self._withdraw(m.Failed(job_id=job_id, fence=fence, kind=m.FailureKind.ENGINE_ERROR, message=text), now)
        return self._flush_effects(now)

    def engine_closed(self, now: float) -> list[fx.Effect]:
        """The engine closed its socket, and its process is still there."""
        self.engine_slot.closed(now)
        return self._flush_effects(now)

    def engine_broken(self, reason: str, now: float) -> list[fx.Effect]:
        """The engine sent what is no message."""
        self.engine_slot.kill(f"it broke the protocol: {reason}", now, blamed=True)
        return self._flush_effects(now)

    def engine_exited(self, how: str, now: float) -> list[fx.Effect]:
        """The engine's process is gone, or could not be started."""
        if self.leaving is None:
            self.engine_slot.exited(how, now)
        else:
            self.engine_slot.abandon(now)
            self._out.append(fx.Exit(self.leaving[0]))
        return self._flush_effects(now)

    def stop(self, reason: str, now: float) -> list[fx.Effect]:
        """Asked to end: hand back what can be parked, finish the rest while the grace lasts. Without grace, or asked again: `leave`."""
        if self.leaving is None and self.stop_at is None and self.policy.stop_grace_s > 0:
            self.draining = True
            # Known before anything is handed back: a short step ends before the next heartbeat would be due.
            self.registration.beat_now(now)
            self._beat_if_due(now)
            self.engine_slot.park_all(now)
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
            self._leave("the broker has another journal", EXIT_RESTART, now)
            return
        self.epoch = message.epoch
        if self.identity.dirs.remote:
            self._out.append(fx.SetDepotKey(message.depot_key))
        self.registration.welcomed(message.heartbeat_s, now)
        if self.yields:
            self.yields = False
            if not self.engine_slot.fault:
                self.engine_slot.engine.let_start(now)
            self._out.append(fx.Report(NameHeld()))
        self.unacked_results.send_all_now(now)
        self._out.append(fx.Note(action=Action.REGISTERED, detail=f"epoch {message.epoch}"))

    def _on_run(self, run: m.Run, now: float) -> None:
        if self.engine_slot.holds(run.job_id, run.fence) or self.unacked_results.waits(run.job_id, run.fence):
            self.registration.beat_now(now)  # the broker has not heard that it is held here
        elif answer := self.unacked_results.answer(run.job_id, run.fence, self.free, now):
            self._send(answer)
        elif run.fence <= self.seen:
            self._refuse(run, "its fence is not above those received")
        else:
            self.seen = run.fence
            if refusal_reason := self.refusal_reason():
                self._refuse(run, refusal_reason)
            else:
                self.engine_slot.begin(run, now)

    def _on_cancel(self, cancel: m.Cancel, now: float) -> None:
        # It cannot overtake its `Run`, but it can arrive where that was lost: the fence is spent then, too.
        self.seen = max(self.seen, cancel.fence)
        if self.engine_slot.cancel(cancel, now):
            return
        if self._withdraw(m.Cancelled(job_id=cancel.job_id, fence=cancel.fence), now):
            return
        if answer := self.unacked_results.answer(cancel.job_id, cancel.fence, self.free, now):
            self._send(answer)
        else:
            self._refuse(cancel, "this attempt is not held here")

    def _on_park(self, park: m.Park, now: float) -> None:
        self.seen = max(self.seen, park.fence)
        if self.engine_slot.park(park.job_id, park.fence, now) or self.unacked_results.waits(park.job_id, park.fence):
            return
        if answer := self.unacked_results.answer(park.job_id, park.fence, self.free, now):
            self._send(answer)
        else:
            self._refuse(park, "this attempt is not held here")

    def _refuse(self, order: m.Run | m.Cancel | m.Park, reason: str) -> None:
        self._send(m.Refused(job_id=order.job_id, fence=order.fence, free=self.free, reason=reason))
        self._out.append(fx.Note(action=Action.REFUSED, job_id=order.job_id, fence=order.fence, detail=reason))

    def _undrain(self) -> None:
        """Take jobs again. A stop with grace is no drain, and stays."""
        if self.draining and self.stop_at is None:
            self.draining = False
            self._out.append(fx.Note(action=Action.UNDRAINED))

    def _on_ack(self, ack: m.ResultAck) -> None:
        message = self.unacked_results.acknowledge(ack.fence, accepted=ack.accepted)
        if message is not None and keeps_files(message):
            remote = self.identity.dirs.remote
            if remote or not ack.accepted:
                self._out.append(fx.RemoveDir(message.job_id, message.fence))
            if remote and not ack.accepted:
                self._out.append(fx.DiscardFiles(message.job_id, message.fence))
        if isinstance(message, m.Finished | m.Cancelled) and ack.accepted:
            self._out.append(fx.RemoveCheckpoints(message.job_id))

    def _withdraw(self, result: m.Failed | m.Cancelled, now: float) -> bool:
        """End an attempt like this whose files are being put; False when there is none."""
        if not self.unacked_results.withdraw(result, now):
            return False
        self._out += [
            fx.Revoke(result.fence),
            fx.RemoveDir(result.job_id, result.fence),
            fx.DiscardFiles(result.job_id, result.fence),
        ]
        action = Action(f"attempt_{type(result).__name__.lower()}")
        detail = getattr(result, "message", "its files were being put into the depot")
        self._out.append(fx.Note(action=action, job_id=result.job_id, fence=result.fence, detail=detail))
        return True

    def _leave(self, reason: str, code: int, now: float, *, goodbye: bool = True, orderly: bool = False) -> None:
        if goodbye:
            # What is done counts, if it gets there before the goodbye that hands the rest back.
            self.unacked_results.send_all_now(now)
            self._send_due(now)
            self._send(m.Goodbye(reason=clip(reason, MAX_REASON), orderly=orderly))
        self.leaving = (code, now + self.policy.leave_s)
        self._out.append(fx.Note(action=Action.LEAVING, detail=reason))
        if self.engine_slot.engine.alive:
            self.engine_slot.kill(reason, now, blamed=False)
        else:
            self._out.append(fx.Exit(code))

    # ------------------------------------------------------------ sending

    def _flush_effects(self, now: float) -> list[fx.Effect]:
        """Say what is due, and hand out all effects of this entrance."""
        if self.leaving is None and self.draining and not self.engine_slot.attempts and not len(self.unacked_results):
            self._leave("drained", EXIT_LEFT, now, orderly=True)
        if self.leaving is None:
            if self.registration.hello_due(now):
                self._send_hello(now)
            self._send_due(now)
            self._beat_if_due(now)
        effects = self._out[:]
        self._out.clear()
        return effects

    def _shown(self) -> object:
        """Return the state whose change makes a heartbeat due sooner."""
        return (
            self.free,
            self.engine_slot.shown,
            self.engine_slot.model,
            self.engine_slot.loaded_loras,
            self.draining,
            tuple(attempt.shown for attempt in self.engine_slot.attempts),
            self.unacked_results.fences(),
            self.engine_slot.fault,
        )

    def _send_due(self, now: float) -> None:
        if self.registration.registered:
            for message in self.unacked_results.due(now, self.free):
                self._send(message)

    def _send_hello(self, now: float) -> None:
        hello = m.Hello(
            name=self.identity.name,
            boot=self.identity.boot,
            seen=self.seen,
            free=self.free,
            held=self.held(now),
            yields=self.yields,
            body=codec.encode_body(self.identity.info),
        )
        self._send(hello)

    def _beat_if_due(self, now: float) -> None:
        if self.registration.beat_due(self._shown(), now):
            self._send_heartbeat(now)

    def _send_heartbeat(self, now: float) -> None:
        self._send(
            m.Heartbeat(
                seen=self.seen,
                free=self.free,
                held=self.held(now),
                engine=self.engine_slot.shown,
                model=self.engine_slot.model,
                memory_used_mb=self.stats.memory_used_mb,
                memory_total_mb=self.stats.memory_total_mb,
                utilisation=self.stats.utilisation,
                temperature_c=self.stats.temperature_c,
                draining=self.draining,
                health=self.stats.health,
                loaded_loras=self.engine_slot.loaded_loras,
                loading=self.engine_slot.engine.loading(now),
            )
        )

    def _send(self, message: m.Message) -> None:
        self._out.append(fx.SendBroker(message))
