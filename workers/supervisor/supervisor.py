"""Supervisor: keeps an agent process running for each worker.

- An agent that dies is started again with back-off (`restart`); the engine it leaves behind is killed first, with all that this started,
  so that its GPU is free.
- One whose name another process took yields: it waits, takes the name only when no other bears it, and yields no more once it has it.
- One that leaves on purpose (`exits`) is not: when all have, so does the supervisor. SIGUSR1 starts those that were drained again.
- A stop is passed on as SIGTERM; what is still there after `STOP_S` is killed. honcho kills its children after five seconds, so
  this must be less. If the supervisor itself dies, the links close and the agents leave.
- When no worker ever got its model into memory and each has failed twice, the fault is in the settings: the supervisor reports it and
  ends. Later failures are a worker's own, and it keeps trying.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.runtime.signal_socket import STOP_SIGNALS, SignalSocket, caught
from workers.ipc.channel import Channel, IpcError
from workers.supervisor import restart
from workers.supervisor.exit_codes import (
    EXIT_LEFT,
    EXIT_NAME_TAKEN,
    EXIT_NO_MODEL,
    EXIT_RESTART,
    EXIT_SETTINGS,
    EXIT_UNWANTED,
    describe_exit,
)
from workers.supervisor.heartbeat_file import HeartbeatFile, WorkerBeat
from workers.supervisor.messages import AgentConfig, EngineProcess, EngineReady, FromAgentProcess, LoadTrouble, NameHeld
from workers.supervisor.process_groups import end_strangers, kill_group

logger = logging.getLogger(__name__)

AGENT_COMMAND = (sys.executable, "-m", "workers.agent")

#: From SIGTERM to SIGKILL.
STOP_S = 3.5

#: An agent that lived this long was healthy: its next death is the first of a new count.
_GOOD_LIFE_S = 60.0

#: Failures to load, of each worker, that end the supervisor if no worker ever succeeded.
_HOPELESS = 2

#: Starts drained workers again.
_BACK_SIGNAL = signal.SIGUSR1

_ON_PURPOSE = (EXIT_LEFT, EXIT_SETTINGS, EXIT_UNWANTED)


class _Process:
    """One process of an agent, and the link to it."""

    def __init__(self, config: AgentConfig, command: Sequence[str], now: float) -> None:
        """Start it and hand it its configuration. Raises `OSError` when there is no such program, or no room for another process."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*command, "--name", config.name, "--link", str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
            except OSError:
                ours.close()
                raise
        self.started_at = now
        self.pid = self._process.pid
        self._link: Channel | None = Channel(ours, FromAgentProcess)
        # A new process reads this as soon as Python is up; a socket buffer holds it but for a very long list of models.
        ours.settimeout(10.0)
        with contextlib.suppress(OSError):  # it died at once: `poll` will show it
            self._link.send(config)
        ours.setblocking(False)

    @property
    def link_socket(self) -> socket.socket | None:
        """Descriptor to poll for its messages; None once it has closed its end."""
        return self._link.sock if self._link is not None else None

    def messages(self) -> Sequence[Struct]:
        """Return its messages since the last call, and close the link if its end is closed."""
        if self._link is None:
            return ()
        messages: Sequence[Struct]
        try:
            messages, ended = self._link.drain()
        except IpcError:
            messages, ended = [], True
        if ended:
            self.close()
        return messages

    def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            self._link.sock.close()
            self._link = None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


class AgentProcess:
    """Agent process over its restarts."""

    def __init__(self, config: AgentConfig, command: Sequence[str], now: float) -> None:
        self.config = config
        self.start_at: float | None = now
        #: The exit code with which it left on purpose.
        self.left: int | None = None
        self.was_ready = False
        #: Whether its engine has a model in memory now.
        self.ready = False
        #: Failures to load since the last success, and the last one in words.
        self.troubles = 0
        self.trouble = ""
        self._command = command
        self._process: _Process | None = None
        self._engine_pids: tuple[int, ...] = ()
        self._streak = 0
        self._end_requested = False

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Process id; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def link_socket(self) -> socket.socket | None:
        """Descriptor to poll for its messages."""
        return self._process.link_socket if self._process is not None else None

    def start(self, now: float) -> None:
        """Start a process and hand it its configuration."""
        self.start_at = None
        try:
            self._process = _Process(self.config, self._command, now)
        except OSError as error:
            self._note_trouble(f"the agent cannot be started: {error}")
            self._plan(now, 0.0, blamed=True)
            return
        logger.info(
            "agent started", extra={"action": Action.AGENT_STARTED, "worker": self.config.name, "pid": self.pid}
        )

    def listen(self) -> None:
        """Read its messages."""
        for message in self._process.messages() if self._process is not None else ():
            match message:
                case EngineProcess(pids=pids):
                    self._engine_pids = pids
                    self.ready = False
                case EngineReady():
                    self.was_ready = self.ready = True
                    self.troubles = 0
                case NameHeld():
                    self.config = replace(self.config, yields=False)
                case LoadTrouble(message=text):
                    self._note_trouble(text)

    def reap(self, now: float) -> None:
        """Notice that it has ended, and plan its next start."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        self.listen()
        self._process.close()
        lived_s = now - self._process.started_at
        self._process = None
        self.ready = False
        self.kill_engine()
        how = describe_exit(code)
        logger.info("agent ended", extra={"action": Action.AGENT_ENDED, "worker": self.config.name, "detail": how})
        if code in _ON_PURPOSE:
            self.left = code
        if self._end_requested or code in _ON_PURPOSE:
            return
        if code == EXIT_NAME_TAKEN:
            self.config = replace(self.config, yields=True)
            pause_s = self.config.policy.name_taken_s
            self.start_at = now + pause_s
            detail = f"another process bears its name; tried again in {pause_s:g} s"
            logger.warning(
                "worker waits", extra={"action": Action.NAME_TAKEN, "worker": self.config.name, "detail": detail}
            )
            return
        if code > 0 and code != EXIT_RESTART:
            self._note_trouble(f"the agent ended: {how}")
        self._plan(now, lived_s, blamed=code != EXIT_RESTART)

    def _plan(self, now: float, lived_s: float, *, blamed: bool) -> None:
        choice = restart.decide(self._streak, healthy=lived_s >= _GOOD_LIFE_S, blamed=blamed)
        self._streak = choice.streak
        self.start_at = now + choice.delay_s

    def _note_trouble(self, text: str) -> None:
        self.troubles += 1
        self.trouble = text
        logger.error("worker in trouble", extra={"action": Action.TROUBLE, "worker": self.config.name, "detail": text})

    def come_back(self, now: float) -> None:
        """Start it again if it was drained."""
        if self.left == EXIT_LEFT and not self._end_requested:
            self.left = None
            self.start_at = now

    def terminate(self) -> None:
        """SIGTERM; never to be started again."""
        self.start_at = None
        self._end_requested = True
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to agent and engine."""
        if self._process is not None:
            self._process.kill()
        self.kill_engine()

    def kill_engine(self) -> None:
        """Send SIGKILL to the engine that it reported last, if any."""
        for pid in self._engine_pids:
            kill_group(pid)
        self._engine_pids = ()


class Supervisor:
    """Runs the agents of these configurations."""

    def __init__(
        self,
        configs: Sequence[AgentConfig],
        command: Sequence[str] = AGENT_COMMAND,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_file: str = "",
    ) -> None:
        self._clock = clock
        self._heartbeat_file = HeartbeatFile(heartbeat_file)
        self.agents = [AgentProcess(config, command, clock()) for config in configs]
        #: Why it ended by itself, in a sentence; "" when it did not.
        self.fault = ""
        self._kill_at: float | None = None
        self._code: int | None = None

    def run(self) -> int:
        """Until all have left, or a signal stops it. Returns the exit code."""
        with caught((*STOP_SIGNALS, _BACK_SIGNAL, signal.SIGCHLD)) as signals:
            try:
                while self._serve():
                    self._wait(signals)
                    for number in signals.take():
                        if number in STOP_SIGNALS:
                            self._stop(EXIT_LEFT, f"stopped by {number.name}")
                        elif number == _BACK_SIGNAL:
                            for agent in self.agents:
                                agent.come_back(self._clock())
            finally:
                for agent in self.agents:
                    agent.kill()
                self._heartbeat_file.remove()
        if self._code is not None:
            return self._code
        return max((agent.left or EXIT_LEFT for agent in self.agents), default=EXIT_LEFT)

    def _serve(self) -> bool:
        """Make one pass; return whether there is anything left to wait for."""
        now = self._clock()
        for agent in self.agents:
            agent.listen()
            agent.reap(now)
        end_strangers({agent.pid for agent in self.agents})
        self._judge()
        if self._kill_at is not None and now >= self._kill_at:
            for agent in self.agents:
                agent.kill()
            self._kill_at = None
        for agent in self.agents:
            if agent.start_at is not None and now >= agent.start_at:
                agent.start(now)
        beats = tuple(WorkerBeat(agent.config.name, agent.pid, agent.ready) for agent in self.agents)
        self._heartbeat_file.beat(beats, now)
        return any(agent.running or agent.start_at is not None for agent in self.agents)

    def _judge(self) -> None:
        """End it when no worker can load its model."""
        trying = [agent for agent in self.agents if agent.left is None]
        if self._code is not None or not trying or any(agent.was_ready for agent in self.agents):
            return
        if all(agent.troubles >= _HOPELESS for agent in trying):
            self.fault = f"no worker can load its model: {trying[0].trouble}"
            self._stop(EXIT_NO_MODEL, self.fault)

    def _stop(self, code: int, reason: str) -> None:
        """End all agents, each within its grace; at a second call, at once."""
        again = self._code is not None
        grace_s = 0.0 if again else max((agent.config.policy.stop_grace_s for agent in self.agents), default=0.0)
        if not again:
            logger.info("stopping", extra={"action": Action.STOPPING, "detail": reason})
            self._code = code
        self._kill_at = min(self._kill_at or math.inf, self._clock() + grace_s + STOP_S)
        for agent in self.agents:
            agent.terminate()

    def _wait(self, signals: SignalSocket) -> None:
        times = [agent.start_at for agent in self.agents if agent.start_at is not None]
        if self._kill_at is not None:
            times.append(self._kill_at)
        if self._heartbeat_file.due_at is not None:
            times.append(self._heartbeat_file.due_at)
        timeout = max(0.0, min(times) - self._clock()) if times else None
        with selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            for agent in self.agents:
                if agent.link_socket is not None:
                    selector.register(agent.link_socket, selectors.EVENT_READ)
            selector.select(timeout)
