"""Engine processes of the lives that a rank host has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from workers.agent.engine_environ import Meeting, environs_of
from workers.agent.engine_process import EngineProcess
from workers.ipc.channel import IpcError
from workers.ipc.messages import ENGINE_WITHOUT, FromEngine, Setup
from workers.machines.endpoint import address_towards, device_of
from workers.machines.messages import LifeOrder
from workers.supervisor.process_groups import kill_orphans


class Lives:
    """Processes by life: one for each of these devices. `leader`: its host and port; `home`: where engines keep what is theirs."""

    def __init__(
        self,
        command: Sequence[str],
        visible: Sequence[str],
        environ: Mapping[str, str],
        leader: tuple[str, int],
        home: Path,
    ) -> None:
        self._command = tuple(command)
        self._visible = visible
        self._environ = environ
        self._leader = leader
        self._home = home
        self._lives: dict[int, list[EngineProcess]] = {}

    @property
    def processes(self) -> list[EngineProcess]:
        """All of them."""
        return [process for life in self._lives.values() for process in life]

    @property
    def shown(self) -> list[EngineProcess]:
        """Those of the first life, which has the GPUs' memory; another is a spare."""
        return next(iter(self._lives.values()), [])

    def start(self, order: LifeOrder) -> None:
        """Start the processes of a life. Raises `OSError`; then none of them runs."""
        # Resolved each time: the leader may have moved, and the network of this machine may not have been up when it started.
        network = device_of(address_towards(*self._leader))
        meeting = Meeting(of=order.of, first=order.first, host=order.host, port=order.port, network=network)
        environs = environs_of(self._visible, self._environ, {ENGINE_WITHOUT: order.without}, meeting)
        command = (*self._command, *(("--spare", order.imports) if order.imports else ()))
        started: list[EngineProcess] = []
        try:
            for environ in environs:
                started.append(EngineProcess(command, environ))
        except OSError:
            for process in started:
                process.kill()
                process.wait()
                process.release()
            raise
        self._lives[order.life] = started

    def give(self, life: int, setup: Setup) -> None:
        """Send the setup to all processes of a life, with directories of this machine in place of the leader's."""
        own = replace(
            setup,
            peaks=str(self._home / "peaks.json") if setup.peaks else "",
            setups={
                name: replace(one, compiled=str(self._home / "compiled") if one.compiled else "")
                for name, one in setup.setups.items()
            },
        )
        for process in self._lives.get(life, ()):
            process.send(own)

    def messages(self) -> Iterator[tuple[int, int, FromEngine]]:
        """(life, number, message) of their messages. One that breaks the protocol is killed."""
        for life, processes in self._lives.items():
            for number, process in enumerate(processes):
                process.flush()
                try:
                    received = process.receive()
                except IpcError:
                    process.kill()
                    continue
                for message in received:
                    yield life, number, message  # type: ignore[misc]  # the channel decodes this union

    def ends(self) -> list[tuple[int, int, str]]:
        """(life, number, how) of those that have ended."""
        return [
            (life, number, how)
            for life, processes in self._lives.items()
            for number, process in enumerate(processes)
            if (how := process.poll()) is not None
        ]

    def kill(self, life: int) -> None:
        """SIGKILL to all processes of a life."""
        for process in self._lives.get(life, ()):
            process.kill()

    def drop(self, life: int) -> None:
        """Give back what belonged to the processes of a life, which have ended; what they left running is killed."""
        for process in self._lives.pop(life, []):
            process.release()
        kill_orphans([process.pid for process in self.processes])

    def close(self) -> None:
        """Kill all: they must not outlive this process."""
        for life in [*self._lives]:
            self.kill(life)
            for process in self._lives[life]:
                process.poll()
            self.drop(life)
