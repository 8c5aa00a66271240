"""The agent's side of groups of engine processes, for tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.process import Process, clean_environ, free_port
from broker.wire.jobspec import JobSpec, ModelCard, encode_spec
from tests.engine.child import Child, Ending
from tests.support.waiting import wait_until
from tests.support.worker_key import make_worker_key
from workers.agent.engine_environ import listening
from workers.agent.engine_group import EngineGroup
from workers.agent.engine_start import EngineStarter
from workers.agent.machines import Machines
from workers.ipc.channel import Channel
from workers.ipc.messages import FromEngine, JobFailed, JobFinished, Ready, RunJob, Setup
from workers.ipc.shared import SharedCounters
from workers.supervisor.messages import AgentConfig

#: Longer than anything takes on a busy machine.
_ANSWER_S = 240.0


class Forks:
    """The process that engines are forked from."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._numbers = itertools.count()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_ANSWER_S)
        command = [sys.executable, "-m", "tests.engine.ranks.process", str(theirs.fileno())]
        # One more thread than there are cores would be waited for in every pass.
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[3], env=env, stderr=subprocess.DEVNULL
        )
        theirs.close()

    def fork(self, env: dict[str, str], descriptors: list[int]) -> int:
        """Start an engine; its pid."""
        socket.send_fds(self._control, [json.dumps(env).encode()], descriptors)
        return int(self._control.recv(64))

    def wait(self, pid: int) -> int:
        """The exit status of an engine, once it has ended."""
        self._control.sendall(json.dumps(pid).encode())
        return int(self._control.recv(64))

    def group(self, ranks: int, *cards: ModelCard, **more: Any) -> RankGroup:
        """So many ranks with these models; 1: an engine that is alone."""
        return RankGroup(self, self.place / str(next(self._numbers)), ranks, *cards, **more)

    def close(self) -> None:
        self._control.close()
        self._process.wait(_ANSWER_S)


class Fork(Child):
    """One engine out of these forks."""

    def __init__(self, forks: Forks, env: dict[str, str], meeting: socket.socket | None = None) -> None:
        self.forks = forks
        self.words = SharedCounters.create()
        self._fences = itertools.count(1)
        self.fence = 0
        self._status: int | None = None
        self.sock, theirs = socket.socketpair()
        self.pid = forks.fork(env, [theirs.fileno(), self.words.fd, *([meeting.fileno()] if meeting else [])])
        theirs.close()
        self.sock.settimeout(_ANSWER_S)
        self.channel = Channel(self.sock, FromEngine)

    def wait(self) -> int:
        if self._status is None:
            self._status = self.forks.wait(self.pid)
        return self._status

    def close(self) -> int:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        return self.wait()


class RankGroup:
    """The processes of one group. `answer`: to the setup; `apart`: what a rank's has that those of the others have not."""

    def __init__(
        self,
        forks: Forks,
        place: Path,
        ranks: int,
        *cards: ModelCard,
        apart: Mapping[int, Any] | None = None,
        **more: Any,
    ) -> None:
        self.taps, self.out = place / "taps", place / "out"
        for directory in (self.taps, self.out):
            directory.mkdir(parents=True)
        env = {"TAPS": str(self.taps)}
        with listening("127.0.0.1", ranks) as meeting:
            if ranks > 1:
                port = str(meeting.getsockname()[1])
                env |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            self.ranks = [
                Fork(
                    forks,
                    {**env, "RANK": str(number), "CUDA_VISIBLE_DEVICES": str(number)},
                    None if number else meeting,
                )
                for number in range(ranks)
            ]
        for number, one in enumerate(self.ranks):
            one.send_setup(*cards, **{**more, **(apart or {}).get(number, {})})
        self.first = self.ranks[0]
        # The rank with a setup apart fails.
        self.answer = self.ranks[min(apart or [0])].channel.receive()

    def ready(self) -> RankGroup:
        assert isinstance(self.answer, Ready), (self.answer, self.log())
        return self

    def draw(self, spec: JobSpec, **more: Any) -> list[Any]:
        """The latents of each output of a job, the same in all ranks; `ending` is left behind."""
        self.ending = self.run(spec, **more)
        assert isinstance(self.ending, JobFinished), (self.ending, self.log())
        return self.latents(spec.num_outputs)

    def run(self, spec: JobSpec, **more: Any) -> Ending:
        """Give rank 0 a job and wait for its end."""
        return self.first.ending(self.first.send(spec, self.out, **more))

    def latents(self, outputs: int = 1, rank: int = 0) -> list[Any]:
        """What the last job that was sent came to in a rank."""
        return [np.load(self.taps / f"{self.first.fence}-{index}-{rank}.npy") for index in range(outputs)]

    def fault(self, name: str, rank: int) -> None:
        """Let a rank fail the next time it comes to the place of this name (`process`)."""
        (self.taps / f"{name}-{rank}").touch()

    def log(self) -> str:
        return "\n".join(file.read_text()[-3000:] for file in sorted(self.taps.glob("log-*")))

    def close(self) -> list[int]:
        """Exit statuses, of those that had not ended once the agent has gone."""
        return [one.close() for one in self.ranks]

    def kill(self) -> None:
        """End all at once, as an agent does."""
        for one in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        self.close()


class SpreadGroup:
    """A group of two ranks as an agent starts it, of which the second is behind a rank host: another machine, or another address of one."""

    def __init__(self, place: Path, *cards: ModelCard, leader: str = "127.0.0.1", **more: Any) -> None:
        self.taps, self.out = place / "taps", place / "out"
        for directory in (self.taps, self.out):
            directory.mkdir(parents=True)
        key = make_worker_key(place / "curve")
        endpoint = f"tcp://{leader}:{free_port()}"
        command = (sys.executable, "-m", "tests.engine.ranks.process")
        config = AgentConfig(
            name="w", endpoint="", artefacts="", device="cpu", models=cards, preload=cards[0].name, engine_command=command,
            machines=2, rank_endpoint=endpoint, rank_key_file=str(key),
        )  # fmt: skip
        environ = clean_environ(TAPS=str(self.taps), OMP_NUM_THREADS="1")
        self.host = Process(
            "tests.engine.ranks.rank_host",
            *("--leader", endpoint, "--gpus", "cpu", "--home", str(place), "--curve-dir", str(key.parent)),
            log=place / "log",
            environ=environ,
        )
        self.machines = Machines(config)
        self.messages: list[Any] = []
        self.engine: EngineGroup | None = None
        try:
            self.until(lambda: not self.machines.waits_for)
            self.engine = EngineStarter(config, environ, self.machines).start()
            self.engine.send(Setup(models=cards, preload=cards[0].name, device="cpu", threads=1, **more))
            self.until(lambda: self.messages)
        except BaseException:
            self.close()
            raise
        assert isinstance(self.messages[0], Ready), (self.messages, self.host.logged()[-3000:])

    def until(self, condition: Callable[[], object]) -> None:
        """Serve both sides as an agent does until the condition holds."""

        def served() -> object:
            self.machines.serve(time.monotonic())
            if self.engine is not None:
                assert self.engine.poll() is None, (self.engine.first_end, self.messages, self.host.logged()[-3000:])
                self.messages += self.engine.receive()
            return condition()

        wait_until(served, _ANSWER_S)

    def draw(self, spec: JobSpec) -> list[Any]:
        """The latents of the first output of a job, by rank."""
        assert self.engine is not None
        self.messages.clear()
        self.engine.send(RunJob(job_id="job-1", fence=1, body=encode_spec(spec), out_dir=str(self.out)))
        self.until(lambda: isinstance(self.messages[-1] if self.messages else None, JobFinished | JobFailed))
        assert isinstance(self.messages[-1], JobFinished), self.messages
        return [np.load(self.taps / f"1-0-{rank}.npy") for rank in (0, 1)]

    def close(self) -> None:
        if self.engine is not None:
            self.engine.kill()
        self.machines.close(True, "the test is over")
        self.host.wait(_ANSWER_S)
        if self.engine is not None:
            wait_until(self.engine.poll, _ANSWER_S, "the end of the ranks on this machine")
            self.engine.release()
