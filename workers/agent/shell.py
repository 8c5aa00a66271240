"""The agent's loop: polls the broker's socket, the engine's socketpair, the supervisor's link and the signals; carries effects out.

A pass serves in this order: signals and link, engine, broker, time. So whatever has arrived is known before any deadline is judged, and an
engine's result before the message that would make it late. No decision is made here; they are `core`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from typing import assert_never

import zmq

from broker.runtime.log_actions import Action
from broker.runtime.signal_socket import STOP_SIGNALS, SignalSocket, caught
from broker.wire import codec
from workers.agent import effects as fx
from workers.agent.broker_socket import BrokerSocket
from workers.agent.clock import AwakeClock
from workers.agent.core import AgentCore
from workers.agent.engine_group import EngineGroup
from workers.agent.engine_process import REAP_S
from workers.agent.engine_start import EngineStarter
from workers.agent.machines import Machines
from workers.agent.spare_engine import SpareEngine
from workers.agent.stats import Sampler
from workers.agent.worker_files import WorkerFiles
from workers.depot.orders import Delay, Fetch, Put, PutCheckpoints
from workers.ipc.channel import Channel, IpcError
from workers.ipc.messages import RunJob, Setup
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_UNWANTED
from workers.supervisor.messages import AgentConfig, EngineProcess

logger = logging.getLogger(__name__)

#: How often the engine's shared counters are read while it has a job: a step shorter than this shows late, never wrong.
_COUNTERS_S = 0.05
_SAMPLE_S = 1.0


class AgentShell:
    """Runs one core until its `Exit`."""

    def __init__(
        self,
        core: AgentCore,
        config: AgentConfig,
        link: Channel,
        sampler: Sampler,
        broker: BrokerSocket,
        clock: AwakeClock,
        files: WorkerFiles,
        machines: Machines,
    ) -> None:
        self._core = core
        self._link: Channel | None = link
        self._sampler = sampler
        self._broker = broker
        self._clock = clock
        self._files = files
        self._engine: EngineGroup | None = None
        self._machines = machines
        self._spare = SpareEngine(EngineStarter(config, os.environ, machines), config.models)
        self._close_reported = False
        self._sample_at = clock.now()
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serve until the core leaves; returns the exit code."""
        with caught(STOP_SIGNALS) as signals:
            try:
                self._serve_machines()
                self._apply(self._core.tick(self._clock.now()))
                while self._exit_code is None:
                    self._wait(signals)
                    self._serve(signals)
            finally:
                self._end_engine()
                self._machines.close(*_dismissal(self._core, self._exit_code))
                self._files.close()
                self._broker.close()
        return self._exit_code

    # ------------------------------------------------------------ one pass

    def _wait(self, signals: SignalSocket) -> None:
        poller = zmq.Poller()
        poller.register(self._broker.socket, zmq.POLLIN)
        poller.register(signals.fileno(), zmq.POLLIN)
        if self._link is not None:
            poller.register(self._link.sock.fileno(), zmq.POLLIN)
        if self._files.transfers is not None:
            poller.register(self._files.transfers.fileno(), zmq.POLLIN)
        self._machines.register(poller)
        for rank in self._engine.open_ranks if self._engine is not None else ():
            poller.register(rank.fd, zmq.POLLIN | (zmq.POLLOUT if rank.unsent else 0))
        timeout_s = self._patience()
        self._clock.waiting()
        # Rounded up: waking a millisecond too early means to wait again for nothing.
        poller.poll(int(timeout_s * 1000) + 1)
        stall_s = self._clock.woke(timeout_s)
        if stall_s:
            logger.warning("stalled", extra={"action": Action.STALL, "seconds": round(stall_s, 3)})

    def _patience(self) -> float:
        wake_at = min(self._core.next_deadline(), self._sample_at, self._machines.next_due)
        timeout_s = max(0.0, wake_at - self._clock.now())
        if self._engine is not None and (self._engine.closed or self._core.engine_slot.engine.life.state == "stopping"):
            return min(timeout_s, REAP_S)
        return min(timeout_s, _COUNTERS_S) if self._core.engine_slot.attempts else timeout_s

    def _serve(self, signals: SignalSocket) -> None:
        self._serve_signals(signals)
        self._serve_link()
        self._serve_machines()
        self._serve_engine()
        self._serve_transfers()
        self._serve_broker()
        now = self._clock.now()
        if now >= self._sample_at:
            self._sample_at = now + _SAMPLE_S
            self._sample()
        self._apply(self._core.tick(now))

    def _serve_signals(self, signals: SignalSocket) -> None:
        for number in signals.take():
            self._apply(self._core.stop(f"stopped by {number.name}", self._clock.now()))

    def _serve_link(self) -> None:
        if self._link is None:
            return
        try:
            _, ended = self._link.drain()
        except IpcError:
            ended = True
        if ended:
            self._link.sock.close()
            self._link = None
            self._apply(self._core.leave("the supervisor is gone", self._clock.now()))

    def _serve_machines(self) -> None:
        self._machines.serve(self._clock.now())
        self._core.engine_slot.engine.life.waits_for = self._machines.waits_for
        if self._machines.stops:
            self._spare.end(self._engine.pids if self._engine is not None else ())
        if self._machines.stops or self._core.capacity.machine_stops:
            self._apply(self._core.machine_stops(self._machines.stops, self._clock.now()))

    def _serve_engine(self) -> None:
        engine = self._engine
        if engine is None:
            return
        # Checked before reading: all messages of a dead process are there to be read.
        how = engine.poll()
        now = self._clock.now()
        engine.flush()
        try:
            for message in engine.receive():
                self._apply(self._core.from_engine(message, now))  # type: ignore[arg-type]  # the channel decodes this union
        except IpcError as error:
            self._apply(self._core.engine_closed(now, f"it broke the protocol: {error}"))
        engine_slot = self._core.engine_slot
        if engine_slot.attempts or engine_slot.engine.life.state == "loading":
            self._apply(self._core.progressed(engine.progress(), now))
        if how is not None:
            lost = engine.lost
            self._release_engine()
            self._apply(self._core.engine_exited(how, now, lost))
        elif engine.first_end:
            self._apply(self._core.engine_closed(now, engine.first_end))
        elif engine.closed and not self._close_reported:
            self._close_reported = True
            self._apply(self._core.engine_closed(now))

    def _serve_transfers(self) -> None:
        for outcome in self._files.transfers.take() if self._files.transfers is not None else ():
            now = self._clock.now()
            if isinstance(outcome, Delay):
                self._apply(self._core.depot_failed(outcome.fence, outcome.fault, now))
                continue
            match outcome.order:
                case Put(job_id=job_id, fence=fence):
                    self._apply(self._core.files_put(job_id, fence, outcome.fault, now))
                case PutCheckpoints(kept=kept):
                    self._apply(self._core.files_put(kept.job_id, kept.fence, outcome.fault, now))
                case Fetch(fence=fence):
                    self._apply(self._core.inputs_fetched(fence, outcome.fault, now, gone=outcome.gone))

    def _serve_broker(self) -> None:
        try:
            for message in self._broker.receive():
                self._apply(self._core.from_broker(message, self._clock.now()))
        except codec.VersionError as error:
            self._apply(
                self._core.leave(f"the broker speaks another protocol: {error}", self._clock.now(), EXIT_UNWANTED)
            )

    def _sample(self) -> None:
        engine = self._engine
        pids, shown = (engine.pids, engine.memory_mb()) if engine is not None else ((), ())
        self._spare.check(pids)
        for attempt in self._core.engine_slot.attempts:
            self._files.show_previews(attempt.job_id, attempt.fence)
            every_s = self._core.policy.checkpoint_put_s
            self._files.put_checkpoints(attempt.job_id, attempt.fence, every_s, self._clock.now())
        stats = self._machines.with_theirs(self._sampler.sample(pids, shown))
        self._apply(self._core.measured(stats, self._clock.now()))

    # ------------------------------------------------------------ effects

    def _apply(self, effects: list[fx.Effect]) -> None:
        """Carry effects out, in order; what they lead to at once comes behind them."""
        waiting = deque(effects)
        while waiting and self._exit_code is None:
            waiting.extend(self._carry_out(waiting.popleft()))

    def _carry_out(self, effect: fx.Effect) -> list[fx.Effect]:
        match effect:
            case fx.SendBroker(message):
                self._broker.send(message)
            case fx.StartEngine(setup):
                return self._start_engine(setup)
            case fx.StartSpare():
                self._spare.start()
            case fx.StartJob(job):
                return self._start_job(job)
            case fx.RequestCancel(slot, fence):
                if self._engine is not None:
                    self._engine.request_cancel(slot, fence)
            case fx.RequestPark(slot, fence):
                if self._engine is not None:
                    self._engine.request_park(slot, fence)
            case fx.KillEngine(reason):
                self._kill_engine(reason)
            case fx.RemoveDir(job_id, fence):
                self._files.remove_dir(job_id, fence)
            case fx.RemoveCheckpoints(job_id):
                self._files.remove_checkpoints(job_id)
            case (
                fx.KeepResult()
                | fx.PutFiles()
                | fx.PutDraft()
                | fx.PutParked()
                | fx.FetchInputs()
                | fx.Revoke()
                | fx.DiscardFiles()
                | fx.SetDepotKey()
            ):
                self._files.carry_out(effect, self._core.policy)
            case fx.Report(message):
                self._notify_supervisor(message)
            case fx.Note():
                _log(effect)
            case fx.Exit(code):
                self._exit_code = code
            case _:
                assert_never(effect)
        return []

    def _start_engine(self, setup: Setup) -> list[fx.Effect]:
        try:
            engine = self._spare.take()
        except OSError as error:
            return self._core.engine_exited(f"it could not be started: {error}", self._clock.now())
        self._engine = engine
        self._close_reported = False
        engine.send(setup)
        self._notify_supervisor(EngineProcess(pids=engine.pids))
        for pid in engine.pids:
            logger.info("engine started", extra={"action": Action.ENGINE_STARTED, "pid": pid})
        return []

    def _start_job(self, job: RunJob) -> list[fx.Effect]:
        try:
            self._files.make_dir(job.job_id, job.fence)
            if self._engine is not None:
                self._engine.send(job)
        except (OSError, ValueError) as error:
            return self._core.begin_failed(job.fence, str(error), self._clock.now())
        return []

    def _kill_engine(self, reason: str) -> None:
        level = logging.WARNING if self._core.leaving is None else logging.INFO
        logger.log(level, "engine killed", extra={"action": Action.ENGINE_KILLED, "detail": reason})
        if self._engine is not None:
            self._engine.kill()

    def _release_engine(self) -> None:
        if self._engine is not None:
            self._engine.release(self._spare.pids)
            self._engine = None
            self._notify_supervisor(EngineProcess())

    def _end_engine(self) -> None:
        """End the engine: it must not outlive this loop, whatever ended that."""
        self._spare.end(self._engine.pids if self._engine is not None else ())
        if self._engine is not None:
            self._engine.kill()
            self._engine.poll()
            self._release_engine()

    def _notify_supervisor(self, message: object) -> None:
        if self._link is not None:
            with contextlib.suppress(OSError):  # gone: its end of the stream shows it in the next pass
                self._link.send(message)  # type: ignore[arg-type]


def _dismissal(core: AgentCore, code: int | None) -> tuple[bool | None, str]:
    """Whether the worker has ended for good, as it was drained, or dismissed by the broker; None: another agent of it may start."""
    if code == EXIT_LEFT and core.capacity.draining and core.stop_at is None:
        return True, "the worker was drained"
    return (False, "the broker does not want the worker") if code == EXIT_UNWANTED else (None, "")


def _log(note: fx.Note) -> None:
    extra = {
        "action": note.action,
        "job_id": note.job_id,
        "fence": note.fence or "",
        "trace_id": note.trace_id,
        "detail": note.detail,
    }
    logger.log(getattr(logging, note.level.upper()), note.action.replace("_", " "), extra=extra)
