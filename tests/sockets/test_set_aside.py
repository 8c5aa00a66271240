"""What raises over one job stops neither the broker nor a later start: that job is set aside, the others end, and its operator decides."""

from __future__ import annotations

import asyncio
import sqlite3
import sys

import pytest

from broker import client_command, set_aside_cli
from broker.core import requests, webhook_requests
from broker.core.jobs import Cause
from broker.core.scheduling.queue import Queue
from broker.core.state import State
from broker.core.views import pool_totals
from broker.shell.recovery import BUDGET, REFILL_S
from broker.testing import submit_message
from broker.wire import codec
from broker.wire import messages as m
from tests.sockets.set_aside_harness import BAD, Harness, Planted, lead, plant
from tests.testing.in_process import a_job, connected, in_loop, serving


@pytest.fixture
def harness(tmp_path):
    made = Harness(tmp_path, suspect_after_s=2.5, lost_after_s=6.0, rejoin_s=1.0)
    yield made
    made.bench.journal.close()


CAUSES = (
    Cause.DISPATCHED,
    Cause.STARTED,
    Cause.FINISHED,
    Cause.RETRIED,
    Cause.DUE,
    Cause.FAILED,
    Cause.EXPIRED,
    Cause.CANCELLED,
    Cause.STOP_REQUESTED,
    Cause.LOST,
)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_job_over_which_the_core_raises_is_set_aside_and_the_others_end(harness, monkeypatch, cause, late):
    plant(monkeypatch, cause, late=late)
    harness.submit("good-1")
    lead(harness, cause)
    harness.submit("good-2")
    harness.turn(turns=30)
    assert [harness.view(job).state for job in ("good-1", "good-2")] == ["succeeded", "succeeded"]
    view = harness.view(BAD)
    assert view.state not in ("succeeded", "failed", "cancelled")
    assert view.set_aside is not None
    assert "Planted" in view.set_aside.reason
    assert [job.id for job in harness.listed()] == [BAD]
    assert b"zoetrope_set_aside 1.0" in harness.bench.metrics.text(
        pool_totals(harness.bench.core.state), harness.bench.journal.counts()
    )


@pytest.mark.parametrize("cause", CAUSES)
def test_a_job_that_is_set_aside_stays_so_over_a_restart_and_ends_when_it_is_released(harness, monkeypatch, cause):
    plant(monkeypatch, cause)
    lead(harness, cause)
    harness.turn(turns=12)
    harness.restart()
    harness.submit("good")
    harness.turn(turns=12)
    assert harness.view("good").state == "succeeded"
    assert harness.view(BAD).set_aside is not None
    monkeypatch.undo()
    harness.slow.clear()
    harness.failing.clear()
    assert harness.settle("release") == "done"
    harness.turn(turns=20)
    if cause is Cause.CANCELLED:
        assert harness.view(BAD).state == "cancelled", "the cancel that raised is asked for again, and noted"
    view = harness.view(BAD)
    assert view.set_aside is None
    if cause not in (Cause.CANCELLED, Cause.EXPIRED, Cause.STOP_REQUESTED):
        assert view.state == "succeeded"
    assert harness.settle("release") == "not_set_aside"


def test_a_job_whose_submission_raises_is_refused_and_nothing_of_it_is_kept(harness, monkeypatch):
    plant(monkeypatch, Cause.SUBMITTED)
    harness.submit("good")
    rejected = harness.submit(BAD, m.Rejected)
    assert (rejected.code, "Planted" in rejected.message) == ("invalid", True)
    harness.turn(turns=4)
    assert harness.view("good").state == "succeeded"
    assert not harness.ask(m.GetJob(req=5, job_id=BAD), m.JobReply).found


def test_a_job_that_cannot_be_restored_is_set_aside_and_the_broker_starts(harness, monkeypatch):
    for job_id in ("good-1", BAD, "good-2"):
        harness.submit(job_id, pinned="nobody")
    adopt = State.adopt_record

    def planted(state, job):
        adopt(state, job)
        if job.id == BAD:
            raise Planted("restored")

    monkeypatch.setattr(State, "adopt_record", planted)
    harness.restart()
    assert [job.id for job in harness.listed()] == [BAD]
    assert harness.view("good-2").state == "queued"
    assert harness.bench.core.snapshot().counts["queued"] == 2


def test_a_cancel_of_a_job_that_is_set_aside_is_kept_until_it_is_released(harness, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    harness.submit(BAD)
    harness.turn(turns=4)
    assert harness.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply).outcome == "requested"
    assert harness.view(BAD).cancel_requested
    harness.restart()
    assert harness.view(BAD).cancel_requested
    plant(monkeypatch, Cause.CANCELLED)
    assert harness.settle("release") == "raised"
    assert harness.view(BAD).cancel_requested
    monkeypatch.undo()
    harness.settle("release")
    harness.turn()
    assert harness.view(BAD).state == "cancelled"


def test_a_job_that_is_set_aside_can_be_failed_and_its_webhook_is_told(harness, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    harness.submit(BAD, webhook="http://example.org/hook", webhook_events=("failed",))
    harness.turn(turns=4)
    assert harness.settle("fail") == "done"
    view = harness.view(BAD)
    assert (view.state, view.failure and view.failure.kind) == ("failed", "quarantined")
    assert "Planted" in view.failure.message
    assert [delivery.event for delivery in view.deliveries] == ["failed"]
    harness.restart()
    assert harness.view(BAD).state == "failed"


def test_a_job_that_is_set_aside_can_be_deleted_and_its_id_is_free_again(harness, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    harness.submit(BAD)
    harness.turn(turns=4)
    assert harness.settle("delete") == "done"
    assert not harness.ask(m.GetJob(req=5, job_id=BAD), m.JobReply).found
    assert harness.listed() == []
    monkeypatch.undo()
    harness.submit(BAD)
    harness.turn(turns=4)
    assert harness.view(BAD).state == "succeeded"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE job SET tail = x'93c1'",
        "UPDATE job SET tail = 'text'",
        "UPDATE job SET state = 'quxued'",
        "UPDATE job SET state = 7",
        "UPDATE job SET fence = 'high'",
        "UPDATE job SET fence = 1 << 60",
        "UPDATE job SET fence = -5",
        "UPDATE job SET model = x'00'",
        "UPDATE job SET submitted_at = 'now'",
        "UPDATE job SET submitted_at = 1e999",
        "UPDATE job SET head = x'c1'",
        "UPDATE job SET head = NULL, body = NULL",
    ],
)
def test_a_damaged_row_of_a_live_job_is_set_aside_and_can_be_failed(harness, damage):
    for job_id in ("good", BAD):
        harness.submit(job_id, pinned="nobody")
    harness.bench.journal.close()
    with sqlite3.connect(harness.bench.journal.store.path) as connection:
        where = " WHERE n = 2"
        connection.execute(damage + where)
    connection.close()
    harness.start()
    assert harness.view("good").state == "queued"
    assert harness.view(BAD).set_aside is not None
    assert [job.id for job in harness.listed()] == [BAD]
    if harness.settle("release") == "unreadable":
        assert harness.settle("fail") == "done"
        harness.restart()
        assert harness.view(BAD).state == "failed"
    else:
        harness.turn()
    harness.submit("later", pinned="nobody")


def test_a_job_whose_spec_cannot_be_read_is_set_aside_when_its_turn_comes(harness):
    harness.full = True
    harness.turn()
    for job_id in (BAD, "good"):
        harness.submit(job_id)
    harness.bench.journal.close()
    with sqlite3.connect(harness.bench.journal.store.path) as connection:
        connection.execute("UPDATE job SET body = x'00' WHERE n = 1")
    connection.close()
    harness.start()
    assert harness.view(BAD).set_aside is None
    harness.full = False
    harness.turn(turns=6)
    assert "checksum" in harness.view(BAD).set_aside.reason
    assert harness.view("good").state == "succeeded"


def test_a_question_that_raises_changes_nothing(harness, monkeypatch):
    def planted(*_):
        raise Planted("seen")

    harness.submit(BAD, pinned="nobody")
    monkeypatch.setattr(requests, "get_job", planted)
    epoch = harness.bench.journal.epoch
    for _ in range(BUDGET + 2):
        harness.bench.edge(m.GetJob(req=2, job_id=BAD))
        harness.turn(0.1)
    assert harness.bench.journal.epoch == epoch
    monkeypatch.undo()
    assert harness.view(BAD).set_aside is None


@pytest.mark.parametrize("place", ["claim_deliveries", "_record_outcome"])
def test_a_webhook_delivery_over_which_the_core_raises_is_given_up(harness, monkeypatch, place):
    hook_url = "http://example.org/hook"
    harness.submit(BAD, webhook=hook_url, webhook_events=("completed",))
    harness.submit("good", webhook=hook_url, webhook_events=("completed",))
    harness.turn(turns=6)
    bad = harness.bench.journal.deliveries.of_job(BAD)[0]

    def settle(state, delivery, siblings, message, now, settle=webhook_requests._record_outcome):
        if delivery.job_id == BAD:
            raise Planted("settled")
        settle(state, delivery, siblings, message, now)

    def revision(state, give=State.next_revision):
        delivery = sys._getframe(1).f_locals.get("delivery")
        if delivery is not None and delivery.job_id == BAD:
            raise Planted("claimed")
        return give(state)

    if place == "_record_outcome":
        monkeypatch.setattr(webhook_requests, "_record_outcome", settle)
        assert harness.ask(m.DeliveryDone(req=7, number=bad.number, claim=1, outcome="delivered"), m.DeliveryNoted)
    else:
        monkeypatch.setattr(State, "next_revision", revision)
    claims = codec.hook_claims(harness.ask(m.ClaimDeliveries(req=8), m.Deliveries).body)
    assert [claim.job_id for claim in claims] == ["good"]
    assert harness.bench.journal.deliveries.of_job(BAD)[0].state == "failed"
    assert harness.view(BAD).set_aside is None


def test_a_failure_behind_a_commit_loses_nothing(harness, monkeypatch):
    forget, raised = State.committed, []

    def planted(state):
        forget(state)
        if not raised:
            raised.append(True)
            raise Planted("behind the commit")

    monkeypatch.setattr(State, "committed", planted)
    harness.submit("good")
    harness.turn(turns=6)
    assert raised
    assert harness.view("good").state == "succeeded"


def test_failures_that_are_not_of_single_jobs_end_the_broker(harness, monkeypatch):
    def planted(*_, **__):
        raise Planted("all of them")

    monkeypatch.setattr(Queue, "add", planted)
    for number in range(BUDGET + 10):
        harness.bench.edge(submit_message(f"j{number}", req=1))
    with pytest.raises(Planted):
        harness.turn(0.0)


def test_failures_that_come_slowly_do_not(harness, monkeypatch):
    plant(monkeypatch, Cause.SUBMITTED)
    for _ in range(2 * BUDGET):
        harness.submit(BAD, m.Rejected)
        harness.turn(REFILL_S)


@in_loop
async def test_the_operator_lists_and_settles_from_the_command_line(tmp_path, run_dir, monkeypatch, capsys):
    async def command(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(set_aside_cli.main, [*words, f"--front={service.front}"], {})
        return code, capsys.readouterr().out

    plant(monkeypatch, Cause.CANCELLED)
    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        for job_id in (BAD, "good"):
            await client.submit(a_job(job_id, pinned="nobody"))
        assert await command("list") == (0, "")
        assert (await client.cancel(BAD))[0] == "requested"
        code, shown = await command("list")
        assert (code, "Planted: planted" in shown or "cancelled of bad" in shown, shown.count("\n")) == (0, True, 1)
        assert await command("release", BAD) == (1, f"{BAD}: {set_aside_cli._OUTCOMES['raised']}\n")
        monkeypatch.undo()
        assert await command("release", "good") == (1, f"good: {set_aside_cli._OUTCOMES['not_set_aside']}\n")
        assert await command("fail", "--all") == (0, f"{BAD}: done\n")
        view = await client.get(BAD)
        assert (view.state, view.set_aside) == ("cancelled", None)
        assert (await client.get("good")).state == "queued"


def test_without_a_broker_the_command_says_so(tmp_path, run_dir, monkeypatch, capsys):
    monkeypatch.setattr(client_command, "_TIMEOUT_S", 0.2)
    assert set_aside_cli.main(["list", f"--front=ipc://{run_dir}/front.sock"], {}) == 1
    assert "did not answer" in capsys.readouterr().err
