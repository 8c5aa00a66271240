"""Real agent and supervisor processes with scripted engines, and the question whether anything of them is left."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from msgspec import structs

from bench.harness.process import Process, clean_environ
from broker.wire.jobspec import ModelCard
from tests.support.waiting import wait_until
from workers.ipc.channel import Channel
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.messages import AgentConfig, EngineProcess, EngineReady, FromAgentProcess, LoadTrouble

ENGINE = (sys.executable, "-m", "tests.sockets.scripted_engine")
CARD = ModelCard(name="demo", engine="fake", output="video")
POLICY = AgentPolicy(cancel_grace_s=0.2, resend_s=0.2, beat_gap_s=0.05, name_taken_s=0.5, stop_grace_s=0.0)


@contextmanager
def short_home() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    home = Path(tempfile.mkdtemp(prefix="zt-", dir="/tmp"))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def config(home: Path, name: str = "cpu-0", **changes: object) -> AgentConfig:
    base = AgentConfig(
        name=name,
        endpoint=f"ipc://{home}/back.sock",
        artefacts=str(home / "artefacts"),
        device="cpu",
        models=(CARD,),
        preload="demo",
        policy=POLICY,
        engine_command=ENGINE,
    )
    return structs.replace(base, **changes)


class Agent:
    """One agent process, and the supervisor's end of its link."""

    def __init__(self, configuration: AgentConfig, **env: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = Process(
                "workers.agent",
                "--link",
                str(theirs.fileno()),
                log=Path(configuration.artefacts).with_name("agent.log"),
                environ=clean_environ(**env),
                group=False,
                pass_fds=(theirs.fileno(),),
            )
        self.link = Channel(ours, FromAgentProcess)
        self.link.send(configuration)
        ours.setblocking(False)
        self.engine_pids: list[int] = []
        #: Of all ranks, by life.
        self.rank_pids: list[tuple[int, ...]] = []
        self.troubles: list[str] = []
        self.ready = 0

    def listen(self) -> None:
        messages, _ = self.link.drain()
        for message in messages:
            match message:
                case EngineProcess(pids=pids) if pids:
                    self.engine_pids.append(pids[0])
                    self.rank_pids.append(pids)
                case EngineReady():
                    self.ready += 1
                case LoadTrouble(message=text):
                    self.troubles.append(text)

    def engine_pid(self, life: int = 1) -> int:
        """Process id of the engine in its `life`-th life."""

        def started() -> int:
            self.listen()
            return self.engine_pids[life - 1] if len(self.engine_pids) >= life else 0

        return wait_until(started, what=f"engine {life}")

    def loaded(self, lives: int) -> None:
        """Until so many engines have loaded their model: what the broker's end heard last may be of the engine before."""

        def ready() -> bool:
            self.listen()
            return self.ready >= lives

        wait_until(ready, what=f"the model of engine {lives}")

    def ended(self, deadline_s: float = 60.0) -> int:
        """Its exit code."""
        return self.process.wait(deadline_s)

    def close(self) -> None:
        self.link.sock.close()
        try:
            self.process.wait(60)
        finally:
            self.process.end()


@contextmanager
def agent(configuration: AgentConfig, **env: str) -> Iterator[Agent]:
    process = Agent(configuration, **env)
    try:
        yield process
    finally:
        process.close()


def gone(pid: int) -> bool:
    """Whether there is no such process, or only its entry."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(pids: list[int], deadline_s: float = 60.0) -> None:
    wait_until(lambda: all(gone(pid) for pid in pids), deadline_s, f"the end of {pids}")


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
