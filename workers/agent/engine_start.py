"""Starts of an agent's engine: its processes on this machine, and those of its group on others.

Rank 0 of a group inherits the socket at which the others find it, so that no other process can take its port between the choice and the
meeting, however long a spare engine waits.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence

from workers.agent.engine_environ import Meeting, engine_environs, listening, without
from workers.agent.engine_group import EngineGroup, Rank
from workers.agent.engine_process import EngineProcess
from workers.agent.machines import Machines
from workers.machines.endpoint import device_of
from workers.supervisor.messages import AgentConfig


class EngineStarter:
    """Starts engines of one agent."""

    def __init__(self, config: AgentConfig, environ: Mapping[str, str], machines: Machines) -> None:
        self._config = config
        self._environ = environ
        self._machines = machines
        self._of = config.machines * len(config.visible)
        self._network = device_of(machines.address) if config.machines > 1 else ""

    def start(self, imports: str = "") -> EngineGroup:
        """Start all processes of an engine; `imports`: what they import before their setup comes. Raises `OSError`."""
        command = (*self._config.engine_command, *(("--spare", imports) if imports else ()))
        if self._of == 1:
            return started(command, engine_environs(self._config, self._environ))
        with contextlib.closing(listening(self._machines.address, self._of)) as listener:
            port = listener.getsockname()[1]
            theirs = self._machines.start(port, imports, without(self._config))
            meeting = Meeting(of=self._of, host=self._machines.host, port=port, network=self._network)
            try:
                return started(
                    command, engine_environs(self._config, self._environ, meeting), meeting=listener, theirs=theirs
                )
            except OSError:
                for rank in theirs:
                    rank.release()
                raise


def started(
    command: Sequence[str],
    environs: Sequence[Mapping[str, str]],
    *,
    meeting: socket.socket | None = None,
    theirs: Sequence[Rank] = (),
) -> EngineGroup:
    """Start a process for each of these environments, and make an engine of them and of those on other machines. Raises `OSError`."""
    own: list[EngineProcess] = []
    try:
        for environ in environs:
            own.append(EngineProcess(command, environ, None if own else meeting))
    except OSError:
        for rank in own:
            rank.kill()
            rank.wait()
            rank.release()
        raise
    return EngineGroup([*own, *theirs])
