"""The rank host's loop: polls the leader's socket, the engine processes and the signals; carries effects out. Decisions are `Host`'s."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from typing import assert_never

import zmq

from broker.runtime.log_actions import Action
from broker.runtime.signal_socket import STOP_SIGNALS, SignalSocket, caught
from workers.agent.clock import AwakeClock
from workers.agent.engine_process import REAP_S
from workers.agent.stats import Sampler
from workers.machines.host import DropRanks, Effect, Exit, GiveSetup, Host, KillRanks, Note, Send, StartRanks
from workers.machines.messages import Device
from workers.machines.sockets import HostSocket
from workers.rank.lives import Lives
from workers.supervisor.heartbeat_file import HeartbeatFile, WorkerBeat

logger = logging.getLogger(__name__)

_SAMPLE_S = 1.0


class RankShell:
    """Runs one rank host until its `Exit`."""

    def __init__(
        self,
        host: Host,
        leader: HostSocket,
        lives: Lives,
        sampler: Sampler,
        heartbeat_file: HeartbeatFile,
        clock: AwakeClock,
        stop_grace_s: float,
    ) -> None:
        self._host = host
        self._leader = leader
        self._lives = lives
        self._sampler = sampler
        self._heartbeat_file = heartbeat_file
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self._sample_at = clock.now()
        self._end: Exit | None = None

    def run(self) -> Exit:
        """Serve until the end; returns it."""
        with caught((*STOP_SIGNALS, signal.SIGCHLD)) as signals:
            try:
                while self._end is None:
                    self._serve(signals)
                    if self._end is None:
                        self._wait(signals)
            finally:
                self._lives.close()
                self._leader.close()
                self._heartbeat_file.remove()
        return self._end

    def _wait(self, signals: SignalSocket) -> None:
        poller = zmq.Poller()
        poller.register(self._leader.socket, zmq.POLLIN)
        poller.register(signals.fileno(), zmq.POLLIN)
        timeout_s = min(self._host.next_due, self._sample_at) - self._clock.now()
        for process in self._lives.processes:
            if process.closed:
                timeout_s = min(timeout_s, REAP_S)
            else:
                poller.register(process.fd, zmq.POLLIN | (zmq.POLLOUT if process.unsent else 0))
        if self._host.is_reaping:
            timeout_s = min(timeout_s, REAP_S)
        timeout_s = max(0.0, timeout_s)
        self._clock.waiting()
        poller.poll(int(timeout_s * 1000) + 1)
        if stall_s := self._clock.woke(timeout_s):
            logger.warning("stalled", extra={"action": Action.STALL, "seconds": round(stall_s, 3)})

    def _serve(self, signals: SignalSocket) -> None:
        for number in signals.take():
            if number in STOP_SIGNALS:
                self._apply(self._host.stop(f"stopped by {number.name}", self._stop_grace_s, self._clock.now()))
        # Checked before reading: all messages of a dead process are there to be read.
        ends = self._lives.ends()
        for life, rank, message in [*self._lives.messages()]:
            self._apply(self._host.reported(life, rank, message))
        for life, rank, how in ends:
            self._apply(self._host.ended(life, rank, how, self._clock.now()))
        for order in self._leader.receive():
            self._apply(self._host.receive(order, self._clock.now()))
        now = self._clock.now()
        if now >= self._sample_at:
            self._sample_at = now + _SAMPLE_S
            self._sample()
        self._apply(self._host.tick(now, self._leader.trouble()))
        beat = WorkerBeat(name="ranks", pid=os.getpid(), ready=bool(self._host.leader))
        self._heartbeat_file.beat((beat,), now)

    def _sample(self) -> None:
        shown = self._lives.shown
        stats = self._sampler.sample([one.pid for one in shown], [one.memory_mb() for one in shown])
        self._host.device = Device(
            memory_used_mb=stats.memory_used_mb,
            memory_total_mb=stats.memory_total_mb,
            utilisation=stats.utilisation,
            temperature_c=stats.temperature_c,
            health=stats.health,
        )

    def _apply(self, effects: list[Effect]) -> None:
        waiting = deque(effects)
        while waiting and self._end is None:
            waiting.extend(self._carry_out(waiting.popleft()))

    def _carry_out(self, effect: Effect) -> list[Effect]:
        match effect:
            case Send(message):
                self._leader.send(message)
            case StartRanks(order):
                try:
                    self._lives.start(order)
                except OSError as error:
                    how = f"it could not be started: {error}"
                    return [
                        one
                        for number in range(self._host.ranks)
                        for one in self._host.ended(order.life, number, how, self._clock.now())
                    ]
                logger.info("engine started", extra={"action": Action.ENGINE_STARTED, "detail": f"life {order.life}"})
            case GiveSetup(life, setup):
                self._lives.give(life, setup)
            case KillRanks(life):
                logger.info("engine killed", extra={"action": Action.ENGINE_KILLED, "detail": f"life {life}"})
                self._lives.kill(life)
            case DropRanks(life):
                self._lives.drop(life)
            case Note(text, warns):
                logger.log(logging.WARNING if warns else logging.INFO, text, extra={"action": Action.MACHINES})
            case Exit():
                if effect.reason:
                    logger.info("leaving", extra={"action": Action.LEAVING, "detail": effect.reason})
                self._end = effect
            case _:
                assert_never(effect)
        return []
