"""Cost of a job in counts: messages, commits, rows, calls, memory left behind. The same on every machine.

The real core, executor and journal, one message a pass as in the broker's router (decode, core, commit when something durable moved,
encode); no sockets, nothing logged. Counts change with the code and with nothing else, so a test can hold them where times would only tell
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
from broker.shell.journal.journal import Journal
from broker.testing import look_up, quiet_executor
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, ModelCard, Result, encode_spec

_EDGE, _AGENT = b"edge", b"agent"
_WARM_UP, _JOBS = 400, 800
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
    #: Functions called, Python's own and built-in ones.
    calls: float
    #: Blocks of Python's allocator that are still there afterwards, and Python objects that the collector tracks.
    blocks: float
    tracked: float


class CallCounter:
    """Counts calls inside `with`, of Python functions and of built-in ones."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> CallCounter:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self.calls -= 1  # that of setprofile

    def _seen(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


class Line:
    """A core and a journal with one edge and one worker, whose every message is a pass of its own."""

    def __init__(self, directory: Path, watched: bool) -> None:
        self._journal = Journal(directory / "jobs.sqlite")
        # Few finished jobs are kept in memory, so that what is left behind is what leaks.
        self._core = Core(self._journal.epoch, Policy(recent_finals=16), 1_000_000.0)
        self._executor = quiet_executor(self._journal)
        self._now = 1_000_000.0
        self.messages = self.wire_bytes = self.commits = self.rows = self._count = 0
        hello = m.Hello(name="sim-0", boot="1", seen=0, free=1, body=_INFO)
        self._say(_AGENT, codec.from_agent, hello)
        self._say(_AGENT, codec.from_agent, m.Heartbeat(seen=0, free=1, model=MODEL))
        if watched:
            self._say(_EDGE, codec.from_edge, m.Watch(req=0))

    def job(self) -> None:
        """Run a job from its submit to its acknowledged result. Raises `AssertionError` when it is not given out."""
        self._count += 1
        job_id = f"job-{self._count:06}"
        submit = m.Submit(
            req=self._count, job_id=job_id, submission=m.Submission(model=MODEL, units=1.0), fresh=True, body=_BODY
        )
        run = self._say(_EDGE, codec.from_edge, submit)
        assert run is not None, "the job was not given out"
        result = codec.encode_body(Result())
        finished = m.Finished(job_id=job_id, fence=run.fence, free=1, run_s=0.01, body=result)
        self._say(_AGENT, codec.from_agent, finished)

    def close(self) -> None:
        self._journal.close()

    def _say(self, peer: bytes, decode: codec.Decoder, message: m.Message) -> m.Run | None:
        """Make one pass; return the job that it gave out, if any."""
        self._now += 0.001
        frame = codec.encode(message)
        self.messages += 1
        self.wire_bytes += len(frame)
        decoded = decode(frame)
        lookup = self._core.needs(peer, decoded)
        found = NOTHING if lookup is None else look_up(self._journal, lookup, self._now)
        work = self._executor
        work.carry_out(self._core.receive(peer, decoded, self._now, found))
        if work.durable:
            self.rows += self._journal.commit(lazy=False)
            self.commits += 1
            self._core.committed()
        run = None
        for send in (*work.early, *work.sends):
            self.messages += 1
            self.wire_bytes += len(codec.encode(send.message))
            if type(send.message) is m.Run:
                run = send.message
        work.clear()
        self._core.sent()
        return run


def measure(directory: Path, watched: bool) -> Footprint:
    """Count `_JOBS` jobs after `_WARM_UP`. `watched`: the edge watches all jobs, as every edge does."""
    line = Line(directory, watched)
    try:
        for _ in range(_WARM_UP):
            line.job()
        messages, wire_bytes, commits, rows = line.messages, line.wire_bytes, line.commits, line.rows
        gc.collect()
        blocks, tracked = sys.getallocatedblocks(), len(gc.get_objects())
        for _ in range(_JOBS):
            line.job()
        gc.collect()
        blocks, tracked = sys.getallocatedblocks() - blocks, len(gc.get_objects()) - tracked
        with CallCounter() as counter:
            for _ in range(_JOBS):
                line.job()
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
