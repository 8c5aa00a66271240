"""Cost of a job in counts: messages, commits, rows, calls, memory left behind. The same on every machine.

The real core, executor and journal, one message a pass as in the broker's router (decode, core, commit when something durable moved,
encode); no sockets, nothing logged. Counts change with the code and with nothing else, so a test can hold them where times would only show
how busy a machine is.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec import Struct

from bench.harness.simworker import MODEL
from broker.core.lookups import NOTHING
from broker.core.machine import Core, Policy
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.testing import look_up, quiet_executor
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, ModelCard, Result, encode_spec

_EDGE, _AGENT = b"edge", b"agent"
_WARM_UP, _JOBS, _STEPS = 400, 800, 50
_INFO = codec.encode_body(m.WorkerInfo(models=(ModelCard(name=MODEL, engine="fake", output="image"),)))
_BODY = encode_spec(
    JobSpec(model=MODEL, output="image", prompt="x" * 400, width=64, height=64, num_inference_steps=1, seed=1)
)


class Footprint(Struct, frozen=True, kw_only=True):
    """A job's share, from submit to acknowledged result."""

    messages: float
    wire_bytes: float
    commits: float
    rows: float
    #: Functions that the broker calls, Python's own and built-in ones.
    calls: float
    #: Blocks of Python's allocator that are still there afterwards, and Python objects that the collector tracks.
    blocks: float
    tracked: float


class StepCost(Struct, frozen=True, kw_only=True):
    """A step's share of what goes to one edge, and of the broker's calls, those for the worker's heartbeat and its answer among them."""

    messages: float
    wire_bytes: float
    calls: float


class CallCounter:
    """Counts calls inside `with`, of Python functions and of built-in ones; this file's own are not the broker's."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> CallCounter:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename != __file__:
            self.calls += 1


class Line:
    """A core and a journal with one edge and one worker, whose every message is a pass of its own."""

    def __init__(self, directory: Path, watched: bool) -> None:
        self._journal = sqlite_journal(directory / "jobs.sqlite")
        # Few finished jobs are kept in memory, so that what is left behind is what leaks.
        self._core = Core(self._journal.epoch, Policy(recent_finals=16), 1_000_000.0)
        self._executor = quiet_executor(self._journal)
        self._now = 1_000_000.0
        self.messages = self.wire_bytes = self.commits = self.rows = self._count = 0
        #: Those to the edge.
        self.edge_messages = self.edge_bytes = 0
        hello = m.Hello(name="sim-0", boot="1", seen=0, free=1, body=_INFO)
        self._receive(_AGENT, codec.from_agent, codec.encode(hello))
        self._receive(_AGENT, codec.from_agent, codec.encode(m.Heartbeat(seen=0, free=1, model=MODEL)))
        if watched:
            self._receive(_EDGE, codec.from_edge, codec.encode(m.Watch(req=0)))

    def jobs(self, count: int) -> list[tuple[bytes, bytes]]:
        """Messages of so many new jobs, as their edge and their worker send them: the submit and the result."""
        found = []
        for _ in range(count):
            self._count += 1
            job_id, submission = f"job-{self._count:06}", m.Submission(model=MODEL, units=1.0)
            submit = m.Submit(req=self._count, job_id=job_id, submission=submission, fresh=True, body=_BODY)
            # Each job is granted once, in turn.
            key: dict[str, Any] = {"job_id": job_id, "fence": self._journal.epoch << 32 | self._count}
            finished = m.Finished(**key, free=1, run_s=0.01, body=codec.encode_body(Result()))
            found.append((codec.encode(submit), codec.encode(finished)))
        return found

    def run(self, jobs: list[tuple[bytes, bytes]]) -> None:
        """Take each job from its submit to its acknowledged result. Raises `AssertionError` when one is not taken."""
        for submit, finished in jobs:
            assert type(self._receive(_EDGE, codec.from_edge, submit)) is m.Run, "the job was not given out"
            answer = self._receive(_AGENT, codec.from_agent, finished)
            assert type(answer) is m.ResultAck, "the result was not answered"

    def steps(self, watch: m.Watch, *, follow: bool) -> StepCost:
        """Let one job make `_STEPS` steps, each in a heartbeat of its own, before an edge that watches so."""
        self._receive(_EDGE, codec.from_edge, codec.encode(watch))
        submit, finished = self.jobs(1)[0]
        job_id, fence = codec.from_edge(submit)[0].job_id, codec.from_agent(finished)[0].fence
        self._receive(_EDGE, codec.from_edge, submit)
        beats = []
        for step in range(_STEPS + 1):
            held = m.Held(job_id=job_id, fence=fence, phase="denoise", step=step, total=_STEPS)
            beats.append(codec.encode(m.Heartbeat(seen=fence, free=0, held=(held,), model=MODEL)))
        self._receive(_AGENT, codec.from_agent, beats[0])
        if follow:
            self._receive(_EDGE, codec.from_edge, codec.encode(m.Follow(job_ids=(job_id,))))
        messages, wire_bytes = self.edge_messages, self.edge_bytes
        with CallCounter() as counter:
            for beat in beats[1:]:
                self._receive(_AGENT, codec.from_agent, beat)
        return StepCost(
            messages=(self.edge_messages - messages) / _STEPS,
            wire_bytes=round((self.edge_bytes - wire_bytes) / _STEPS),
            calls=round(counter.calls / _STEPS, 1),
        )

    def close(self) -> None:
        self._journal.close()

    def _receive(self, peer: bytes, decode: codec.Decoder, frame: bytes) -> m.Message | None:
        """Make one pass; return the last message to a worker, if there is one."""
        self._now += 0.001
        self.messages += 1
        self.wire_bytes += len(frame)
        (decoded,) = decode(frame)
        lookup = self._core.needs(peer, decoded)
        found = NOTHING if lookup is None else look_up(self._journal, lookup, self._now)
        work = self._executor
        work.carry_out(self._core.receive(peer, decoded, self._now, found))
        if self._core.state.changed or self._core.state.steps.stepped:
            work.carry_out(self._core.notify_watchers())
        if work.durable:
            work.durable = False
            self.rows += self._journal.commit(lazy=False)
            self.commits += 1
            self._core.committed()
        last = None
        for send in (*work.early, *work.sends):
            size = len(codec.encode(send.message))
            self.messages += 1
            self.wire_bytes += size
            if send.peer == _AGENT:
                last = send.message
            else:
                self.edge_messages += 1
                self.edge_bytes += size
        work.early, work.sends = [], []
        self._core.sent()
        return last


def measure(directory: Path, watched: bool) -> Footprint:
    """Count `_JOBS` jobs after `_WARM_UP`. `watched`: the edge watches all jobs, as every edge does."""
    line = Line(directory, watched)
    try:
        line.run(line.jobs(_WARM_UP))
        jobs, more = line.jobs(_JOBS), line.jobs(_JOBS)
        messages, wire_bytes, commits, rows = line.messages, line.wire_bytes, line.commits, line.rows
        gc.collect()
        blocks, tracked = sys.getallocatedblocks(), len(gc.get_objects())
        line.run(jobs)
        gc.collect()
        blocks, tracked = sys.getallocatedblocks() - blocks, len(gc.get_objects()) - tracked
        with CallCounter() as counter:
            line.run(more)
        return Footprint(
            messages=(line.messages - messages) / _JOBS / 2,
            wire_bytes=round((line.wire_bytes - wire_bytes) / _JOBS / 2),
            commits=(line.commits - commits) / _JOBS / 2,
            rows=(line.rows - rows) / _JOBS / 2,
            calls=round(counter.calls / _JOBS, 1),
            blocks=round(blocks / _JOBS, 2),
            tracked=round(tracked / _JOBS, 2),
        )
    finally:
        line.close()


def measure_steps(directory: Path, *, every: bool, follow: bool) -> StepCost:
    """Count steps of a job before an edge that streams those of every job, of jobs that it follows, or of none."""
    line = Line(directory, watched=False)
    try:
        line.run(line.jobs(_WARM_UP))
        return line.steps(m.Watch(req=0, steps=every), follow=follow)
    finally:
        line.close()
