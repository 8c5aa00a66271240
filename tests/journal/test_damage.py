"""A disk that hands back what was never written: no job is shown as what it is not, and one damaged row stops nobody else's."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from broker.core.effects import SendRun
from broker.core.jobs import Cause, DamagedRecord, Job
from broker.core.machine import Core, Policy
from broker.runtime.errors import JournalRefused
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.shell.recovery import Recovery
from broker.testing import feed, submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.terms import FINAL
from tests.journal.jobs import fail, finish, give, new_job, put

EDGE = b"edge"


def mixed_jobs() -> list[Job]:
    jobs = []
    for n in range(60):
        job = new_job(f"job-{n:03}", at=100.0 + n, tenant=("default", "red")[n % 2], alias=f"name-{n}", origin="native")
        if n % 6:
            give(job, (6 << 32) + n)
            (finish if n % 3 else fail)(job)
        jobs.append(job)
    return jobs


@pytest.fixture
def whole(tmp_path) -> bytes:
    """The bytes of a journal of finished, failed and waiting jobs."""
    path = tmp_path / "whole.sqlite"
    journal = sqlite_journal(path)
    put(journal, *mixed_jobs())
    journal.close()
    return path.read_bytes()


class Served(Core):
    """A core, and the journal that the shell reads for it."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.epoch, Policy(), 1000.0)
        self.journal = journal


def ask(core: Served, message: m.Message) -> tuple[m.Message, bytes]:
    (effect,) = feed(core, core.journal, EDGE, message, 1000.0)
    return effect.message, getattr(effect.message, "body", b"")


def listed(core: Served) -> list[str]:
    """Ids of all jobs, asked for again from where the broker stopped looking."""
    found: list[str] = []
    behind = 0
    while True:
        answer, body = ask(core, m.ListJobs(req=1, limit=1000, behind=behind))
        found += [view.id for view in codec.job_views(body)]
        behind = answer.behind
        if not behind:
            return found


def shown(core: Served, job_id: str) -> m.JobView | None:
    answer, body = ask(core, m.GetJob(req=1, job_id=job_id))
    return codec.job_view(body) if answer.found else None


def alone(path: Path) -> None:
    """Without the log and the mark of another journal that was here before."""
    for suffix in ("-wal", "-mark"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def serve(path: Path) -> tuple[Journal, Served]:
    journal = sqlite_journal(path)
    core = Served(journal)
    Recovery(core, journal).load(1000.0)
    return journal, core


def facts(view: m.JobView) -> tuple[object, ...]:
    return (
        view.id,
        view.state,
        view.submission.tenant,
        view.submission.alias,
        view.body,
        view.result,
        view.failure,
        view.submitted_at,
        view.history,
    )


def test_one_bit_turned_anywhere_is_told_and_stops_nothing_else(tmp_path, whole):
    """Three hundred places drawn by a fixed seed, and each bit of the last pages' text."""
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(whole)
    journal, core = serve(path)
    truth = {job.id: facts(shown(core, job.id)) for job in mixed_jobs()}
    journal.close()
    draw = random.Random(5)
    refused = reported = 0
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        alone(path)
        try:
            journal, core = serve(path)
        except JournalRefused:
            refused += 1
            continue
        try:
            reported += read_all(core, truth)
        except JournalRefused:
            refused += 1
        finally:
            journal.close()
    assert refused
    assert reported


def test_the_epoch_never_falls_whatever_bit_of_it_is_turned(tmp_path, whole):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(whole)
    for _ in range(5):
        sqlite_journal(path).close()
    connection = sqlite3.connect(path)
    root, size = connection.execute(
        "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = 'meta'"
    ).fetchone()
    connection.close()
    data = path.read_bytes()
    used = [place for place in range((root - 1) * size, root * size) if data[place]]
    for place in used:
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            alone(path)
            try:
                journal = sqlite_journal(path)
            except JournalRefused:
                continue
            assert 7 <= journal.epoch < 2**31
            journal.close()


def read_all(core: Core, truth: dict[str, tuple[object, ...]]) -> int:
    """How many jobs are said to be damaged. Every other must be what it was, wherever it is shown."""
    reported = 0
    for job_id, fact in truth.items():
        view = shown(core, job_id)
        if view is None or view.damaged or view.set_aside is not None:
            reported += 1
        else:
            assert facts(view) == fact
    for query in (
        m.ListJobs(req=1, limit=1000),
        m.ListJobs(req=1, tenant="red"),
        m.ListJobs(req=1, states=("failed",)),
    ):
        _, body = ask(core, query)
        for view in codec.job_views(body):
            if view.set_aside is None:
                assert facts(view) == truth[view.id]
    for n in range(0, 60, 7):
        answer, body = ask(core, m.GetJob(req=1, origin="native", alias=f"name-{n}"))
        if answer.found:
            view = codec.job_view(body)
            assert view.damaged or view.set_aside is not None or facts(view) == truth[view.id]
    ask(core, m.GetPool(req=1))
    return reported


def damage(path: Path, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(statement, parameters).rowcount == 1
    connection.close()


@pytest.fixture
def served(tmp_path, whole):
    """Damage the row of a finished job and serve the journal."""
    opened = []

    def serve_with(statement: str, *parameters: object) -> tuple[Journal, Served]:
        path = tmp_path / "jobs.sqlite"
        path.write_bytes(whole)
        damage(path, statement, *parameters)
        opened.append(serve(path))
        return opened[-1]

    yield serve_with
    for journal, _ in opened:
        journal.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE job SET tail = substr(tail, 1, length(tail) - 1) WHERE id = 'job-001'",
        "UPDATE job SET tail = x'' WHERE id = 'job-001'",
        "UPDATE job SET tail = 7 WHERE id = 'job-001'",
        "UPDATE job SET worker = 'gpu-1' WHERE id = 'job-001'",
        "UPDATE job SET tenant = 'blue' WHERE id = 'job-001'",
        "UPDATE job SET model = 'other' WHERE id = 'job-001'",
        "UPDATE job SET submitted_at = 'noon' WHERE id = 'job-001'",
        "UPDATE job SET alias = cast(x'ff41' AS TEXT) WHERE id = 'job-001'",
        "UPDATE job SET body = x'00' WHERE n = 2",
        "UPDATE job SET head = (SELECT head FROM job WHERE n = 5) WHERE n = 2",
        "UPDATE job SET head = NULL WHERE n = 2",
        "UPDATE job SET tail = (SELECT tail FROM job WHERE n = 5) WHERE n = 2",
    ],
)
def test_a_damaged_row_is_told_by_id_left_out_of_lists_and_counted_once(served, caplog, change):
    journal, core = served(change)
    for _ in range(2):
        assert shown(core, "job-001").damaged
        found = listed(core)
        assert len(found) == 59
        assert "job-001" not in found
    assert journal.counts().damaged_records == core.snapshot(journal.counts()).damaged == 1
    assert [record.message for record in caplog.records if "damaged" in record.message] == [
        "the record of a job is damaged"
    ]


def test_a_page_with_a_damaged_row_is_filled_up_from_behind_it(served):
    _, core = served("UPDATE job SET tail = x'' WHERE id = 'job-058'")
    answer, body = ask(core, m.ListJobs(req=1, limit=2))
    assert ([view.id for view in codec.job_views(body)], answer.more, answer.behind) == (["job-059"], True, 59)
    answer, body = ask(core, m.ListJobs(req=1, limit=1, behind=answer.behind))
    assert [view.id for view in codec.job_views(body)] == ["job-057"]


def test_a_damaged_record_is_over_keeps_its_id_and_can_be_deleted(served):
    journal, core = served("UPDATE job SET worker = 'other' WHERE id = 'job-001'")
    answer, _ = ask(core, submit_message("job-001", b""))
    assert (answer.code, "damaged" in answer.message) == ("id_conflict", True)
    answer, _ = ask(core, m.CancelJob(req=1, job_id="job-001"))
    assert answer.outcome == "already_final"
    effects = feed(core, journal, EDGE, m.ForgetJobs(req=1, job_ids=("job-001",)), 1000.0)
    journal.forget(effects[0].job_id)
    journal.commit()
    assert shown(core, "job-001") is None


def test_the_damaged_spec_of_a_waiting_job_is_told_and_sets_it_aside_when_its_turn_comes(served):
    journal, core = served("UPDATE job SET body = x'00' WHERE n = 1")
    assert core.job("job-000").state == "queued"
    assert "checksum" in shown(core, "job-000").damaged
    hello = m.Hello(name="w1", boot="b", seen=0, free=1, body=worker_info())
    grants = [effect for effect in feed(core, journal, b"b-w1", hello, 1000.0) if isinstance(effect, SendRun)]
    with pytest.raises(DamagedRecord) as caught:
        journal.body(grants[0].message.job_id)
    Recovery(core, journal).recover(caught.value, 1000.0)
    assert "checksum" in shown(core, "job-000").set_aside.reason


def test_rates_are_learned_from_the_rows_that_can_be_read(served):
    journal, _ = served("UPDATE job SET tail = x'9f' WHERE id = 'job-001'")
    succeeded = [job for job in mixed_jobs() if job.state == "succeeded"]
    assert len(journal.rates()) == len(succeeded) - 1


def test_rows_of_before_checksums_are_read(tmp_path, whole):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(whole)
    damage(path, "UPDATE job SET tail = substr(tail, 6) WHERE id = 'job-001'")
    damage(path, "UPDATE job SET head = substr(head, 10) WHERE n = 2")
    journal, core = serve(path)
    view = shown(core, "job-001")
    assert (view.state, view.damaged, view.body) == ("succeeded", "", b"spec of job-001")
    assert view.state in FINAL
    journal.close()


def test_a_row_written_again_bears_the_checksum_of_what_it_says_then(journal, open_journal):
    job = give(new_job("a"), 5)
    put(journal, job)
    job.move(Cause.LOST, 103.0)
    put(journal, job)
    fail(job)
    put(journal, job)
    journal.close()
    again = open_journal()
    assert again.find("a").failure.message == "no"
    assert again.counts().damaged_records == 0
