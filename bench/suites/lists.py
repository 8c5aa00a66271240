"""Cost of lists over a long history to the broker's loop: the longest answer, and the answers a list takes.

The real core and the real journal, no sockets. Each list is requested as an edge does, again from where the broker stopped looking; while
one answer is made the loop does nothing else, so that one's time counts.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench.harness.simworker import MODEL
from bench.report.report import Grid, Metric, Report, progress
from broker.core.effects import Send
from broker.core.jobs import Cause, Job
from broker.core.machine import Core, Policy
from broker.shell.journal import rows, statements
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.testing import feed
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, Result, encode_spec

BAR_MS = 50.0

_EDGE = b"edge"
_BATCH = 10_000
_BEGIN_AT = 1_000_000.0
_BODY = encode_spec(
    JobSpec(model=MODEL, output="video", prompt="x" * 400, width=832, height=480, num_inference_steps=40, seed=1)
)

#: As routes send them: (name, fields of `ListJobs`). Most jobs match, few do, or none does.
_LISTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("newest", {}),
    ("oldest", {"newest_first": False}),
    ("a thousand", {"limit": 1000}),
    ("another worker", {"worker": "nosuch"}),
    ("another worker, oldest", {"worker": "nosuch", "newest_first": False}),
    ("another model", {"model": "nosuch"}),
    ("one origin in a thousand", {"origin": "openai"}),
    ("no origin", {"origin": "nosuch"}),
    ("one tenant in a hundred", {"tenant": "red"}),
    ("a tenant's, another worker", {"tenant": "red", "worker": "nosuch"}),
    ("no tenant", {"tenant": "nosuch"}),
    ("failed", {"states": ("failed",)}),
    ("failed, another model", {"states": ("failed",), "model": "nosuch"}),
    ("succeeded, another model", {"states": ("succeeded",), "model": "nosuch"}),
    ("finished, oldest", {"states": ("succeeded", "failed", "cancelled"), "newest_first": False}),
    (
        "live, an origin",
        {"states": ("queued", "delayed", "parked", "assigned", "running"), "origin": "openai", "limit": 1},
    ),
    ("behind one in the middle", {"after": "middle", "worker": "nosuch"}),
    ("behind a time", {"after": "gone", "after_at": 1.0, "worker": "nosuch"}),
    ("a word of no prompt", {"text": "nosuch"}),
    ("of an hour", {"since": 1000.0, "until": 4600.0, "worker": "nosuch"}),
    ("by the newest's name", {"alias": "same"}),
)


class ListsPlan(Struct, frozen=True, kw_only=True):
    """How long the history is."""

    jobs: Annotated[int, Meta(description="finished jobs in the journal", ge=100, le=100_000_000)] = 1_000_000
    directory: Annotated[str, Meta(description="where the journal is put")] = ""


class Cost(Struct, frozen=True):
    """Cost of a list, milliseconds."""

    answers: int
    longest_ms: float
    #: Of the answer that took most processor time; on a machine that does other things, the clock's longest may be their time.
    longest_cpu_ms: float
    whole_ms: float


def run(plan: ListsPlan) -> Report:
    """Fill a journal and request every list."""
    with tempfile.TemporaryDirectory(dir=plan.directory or None) as directory:
        path = Path(directory) / "jobs.sqlite"
        progress(f"writing {plan.jobs:,} jobs")
        fill(path, plan.jobs)
        journal = sqlite_journal(path)
        try:
            core = Core(journal.epoch, Policy(), 3_000_000.0)
            costs = {what: measure(core, journal, _placed(query, plan.jobs // 2)) for what, query in _LISTS}
        finally:
            journal.close()
    longest = max(cost.longest_ms for cost in costs.values())
    longest_cpu = max(cost.longest_cpu_ms for cost in costs.values())
    busy = "the machine did other work meanwhile: beyond its processor time an answer waited for its turn to run, or for the disk"
    return Report(
        bench="lists",
        title=f"Lists over {plan.jobs:,} finished jobs",
        settings=msgspec.structs.asdict(plan),
        metrics=[
            Metric("longest_ms", f"longest that one answer held the loop, at most {BAR_MS:g} ms", longest, "ms"),
            Metric("longest_cpu_ms", "most processor time of one answer", longest_cpu, "ms"),
        ],
        warnings=[busy] if longest > BAR_MS >= longest_cpu else [],
        grid=Grid(
            head=["list", "answers", "longest, ms", "longest, processor ms", "all of it, ms"],
            rows=[
                [
                    what,
                    str(cost.answers),
                    f"{cost.longest_ms:.1f}",
                    f"{cost.longest_cpu_ms:.1f}",
                    f"{cost.whole_ms:.0f}",
                ]
                for what, cost in costs.items()
            ],
        ),
    )


def _placed(query: dict[str, Any], middle: int) -> dict[str, Any]:
    """The query with the id, or the time, of the job in the middle."""
    if query.get("after") == "middle":
        return {**query, "after": f"job-{middle:09}"}
    return {**query, "after_at": _BEGIN_AT + middle} if "after_at" in query else query


def fill(path: Path, jobs: int, begin_at: float = _BEGIN_AT) -> None:
    """A journal of so many finished jobs, one a second from a time on, by the rows that the broker writes, many a transaction."""
    sqlite_journal(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for first in range(1, jobs + 1, _BATCH):
        batch = [(n, _accepted(n, begin_at + n)) for n in range(first, min(jobs + 1, first + _BATCH))]
        connection.execute("BEGIN")
        connection.executemany(statements.INSERT_JOB, [rows.job_row(n, job) for n, job in batch])
        for n, job in batch:
            _end(n, job)
        connection.executemany(statements.PUT_OUTCOME, [rows.outcome_row(n, job) for n, job in batch])
        connection.execute("COMMIT")
    connection.close()


def _accepted(n: int, at: float) -> Job:
    job = Job(
        id=f"job-{n:09}",
        submission=m.Submission(
            model=MODEL,
            tenant="red" if n % 100 == 0 else "default",
            origin="openai" if n % 1000 == 0 else "native",
            alias="same" if n % 2 else "",
        ),
        body=_BODY,
        submitted_at=at,
    )
    job.move(Cause.SUBMITTED, at)
    return job


def _end(n: int, job: Job) -> None:
    at = job.submitted_at
    job.fence, job.worker = n, f"gpu-{n % 8}"
    job.move(Cause.DISPATCHED, at + 1)
    job.begin_attempt(at + 1)
    job.move(Cause.STARTED, at + 1)
    if n % 4:
        job.result, job.run_s = Result(stage_durations={"load": 2.0, "denoise": 7.5}), 9.5
        job.move(Cause.FINISHED, at + 12)
    else:
        job.failure = m.Failure(m.FailureKind.ENGINE_ERROR, "no")
        job.move(Cause.FAILED, at + 12)


def measure(core: Core, journal: Journal, fields: dict[str, Any]) -> Cost:
    """Repeat until the list is whole."""
    alias = fields.get("alias")
    query: m.GetJob | m.ListJobs = (
        m.GetJob(req=1, origin="native", alias=alias) if alias else m.ListJobs(req=1, **fields)
    )
    answers, longest, longest_cpu, whole = 0, 0.0, 0.0, 0.0
    while True:
        begun, begun_cpu = time.perf_counter(), time.thread_time()
        (effect,) = feed(core, journal, _EDGE, query, 3_000_000.0)
        assert isinstance(effect, Send)
        codec.encode(effect.message)
        took = time.perf_counter() - begun
        longest_cpu = max(longest_cpu, time.thread_time() - begun_cpu)
        answers, longest, whole = answers + 1, max(longest, took), whole + took
        answer = effect.message
        if isinstance(query, m.GetJob) or not isinstance(answer, m.Jobs) or not answer.behind:
            return Cost(answers, longest * 1e3, longest_cpu * 1e3, whole * 1e3)
        limit = query.limit - len(codec.job_views(answer.body))
        query = msgspec.structs.replace(query, limit=limit, behind=answer.behind)
