"""The agent's side of a real engine process, for tests: start it, give it jobs, read its answers and its words."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.wire.jobspec import JobSpec, ModelCard, encode_spec
from workers.ipc.channel import Channel
from workers.ipc.messages import (
    FromEngine,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobParked,
    NextRequested,
    PostprocessBegun,
    RunJob,
    Setup,
)
from workers.ipc.shared import SLOTS, SharedCounters

#: Longer than any answer takes on a busy machine; a hung engine fails the test instead of stopping the run.
_ANSWER_S = 120.0

Ending = JobFinished | JobFailed | JobCancelled | JobParked


class Child:
    """One `python -m workers.engine.loop`. `setup` starts it working; `close` ends it as an agent's death would. `spare`: what it
    imports before."""

    def __init__(self, spare: str = "") -> None:
        ours, theirs = socket.socketpair()
        self.words = SharedCounters.create()
        self._fences = itertools.count(1)
        #: Of the last job that was sent.
        self.fence = 0
        self._status: int | None = None
        # A pipe that nobody reads would stop a talkative engine.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        descriptors = (theirs.fileno(), self.words.fd)
        command = [sys.executable, "-m", "workers.engine.loop", "--socket", str(descriptors[0])]
        if spare:
            command += ["--spare", spare]
        self.process = subprocess.Popen(
            [*command, "--words", str(descriptors[1])],
            pass_fds=descriptors,
            cwd=Path(__file__).resolve().parents[2],
            stderr=self._log,
        )
        theirs.close()
        ours.settimeout(_ANSWER_S)
        self.sock = ours
        self.channel = Channel(ours, FromEngine)

    def imported(self) -> bool:
        """Whether it has loaded torch (Linux)."""
        return "libtorch_cpu" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def setup(self, *cards: ModelCard, preload: str | None = None, device: str = "cpu", **more: Any) -> object:
        """Send the cards and return the answer: `Ready` or `LoadFailed`."""
        self.send_setup(*cards, preload=preload, device=device, **more)
        return self.channel.receive()

    def send_setup(self, *cards: ModelCard, preload: str | None = None, device: str = "cpu", **more: Any) -> None:
        """Send the cards."""
        name = cards[0].name if preload is None else preload
        self.channel.send(Setup(models=cards, preload=name, device=device, threads=1, **more))

    def send(self, spec: JobSpec, out_dir: Path, cancel: bool = False, slot: int = 0, **more: Any) -> int:
        """Give it a job; returns its fence. `cancel`: set the word before the job arrives."""
        fence = self.fence = next(self._fences)
        if cancel:
            self.words.slots[slot].request_cancel(fence)
        job = RunJob(job_id="job-1", fence=fence, body=encode_spec(spec), out_dir=str(out_dir), slot=slot, **more)
        self.channel.send(job)
        return fence

    def run(self, spec: JobSpec, out_dir: Path) -> Ending:
        """Give it a job and wait for its end."""
        fence = self.send(spec, out_dir)
        return self.ending(fence)

    def run_all(self, jobs: Sequence[JobSpec], out_dirs: Sequence[Path]) -> int:
        """Give it each job as soon as it takes one, and wait for the end of all, which must be good; how many overlapped the next."""
        running: set[int] = set()
        overlapped = 0
        for number, (job, out_dir) in enumerate(zip(jobs, out_dirs, strict=True)):
            fence = self.send(job, out_dir, slot=number % SLOTS)
            running.add(fence)
            while fence in running:
                answer = self.channel.receive()
                if isinstance(answer, NextRequested | PostprocessBegun):
                    overlapped += isinstance(answer, PostprocessBegun)
                    if answer.fence == fence:
                        break
                    continue
                assert isinstance(answer, JobFinished), answer
                running.discard(answer.fence)
        while running:
            answer = self.channel.receive()
            if isinstance(answer, NextRequested | PostprocessBegun):
                overlapped += isinstance(answer, PostprocessBegun)
                continue
            assert isinstance(answer, JobFinished), answer
            running.discard(answer.fence)
        return overlapped

    def ending(self, fence: int) -> Ending:
        """The end of the job of this fence, which must be the next answer but for those that room is made for another."""
        answer = self.channel.receive()
        while isinstance(answer, NextRequested | PostprocessBegun) and answer.fence == fence:
            answer = self.channel.receive()
        assert isinstance(answer, Ending), answer
        assert answer.fence == fence
        return answer

    def wait(self) -> int:
        """The exit status, when the process ends by itself."""
        return self.process.wait(_ANSWER_S)

    def log(self) -> str:
        """All it wrote on stderr, once it has ended."""
        self._log.seek(0)
        return self._log.read().decode()

    def close(self) -> int:
        """Close the stream and return the exit status. Again: the same."""
        if self._status is not None:
            return self._status
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        try:
            self._status = self.process.wait(_ANSWER_S)
            return self._status
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._log.close()
            self.words.close()
