"""What raises over one job stops neither the broker nor a later start: that job is set aside, the others end, and its operator decides."""

from __future__ import annotations

import asyncio
import sqlite3
import sys

import pytest

from broker import client_command, set_aside_cli
from broker.core import invariants, requests, webhook_requests
from broker.core.jobs import Cause
from broker.core.scheduling.queue import Queue
from broker.core.state import State
from broker.core.views import pool_totals
from broker.shell.recovery import BUDGET, REFILL_S, Recovery
from broker.testing import submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from tests.sockets.router_bench import Bench
from tests.testing.in_process import a_job, connected, in_loop, serving

BAD = "bad"


class Planted(RuntimeError):
    """A bug of the core."""


class Floor:
    """A broker, one worker that does what it is told, and an edge that asks again until it is answered."""

    def __init__(self, home, **policy) -> None:
        self.home, self.policy = home, policy
        self.seen = 0
        self.running: dict[str, m.Run] = {}
        self.unacknowledged: dict[int, m.AgentResult] = {}
        self.slow: set[str] = set()
        self.failing: set[str] = set()
        self.mute = self.full = False
        self.now = 0.0
        self.start()

    def start(self) -> None:
        """A new broker process on the same home."""
        self.bench = Bench(self.home, **self.policy)
        self.bench.now = max(self.bench.now, self.now)
        self.recovery = Recovery(self.bench.core, self.bench.journal)
        self.bench.router._recovery = self.recovery
        self.recovery.load(self.bench.now)
        self.hello()
        self.turn(0.0)

    def restart(self) -> None:
        self.now = self.bench.now
        self.bench.journal.close()
        self.start()

    # the worker

    def held(self) -> tuple[m.Held, ...]:
        held = [m.Held(job_id=run.job_id, fence=run.fence, phase="denoise") for run in self.running.values()]
        held += [m.Held(job_id=r.job_id, fence=r.fence, phase="finished") for r in self.unacknowledged.values()]
        return tuple(held)

    @property
    def free(self) -> int:
        return 0 if self.running or self.full else 1

    def hello(self) -> None:
        fields = {"seen": self.seen, "free": self.free, "held": self.held(), "body": worker_info()}
        self.bench.agent(m.Hello(name="cpu-0", boot="b", **fields))

    def turn(self, seconds: float = 0.5, turns: int = 1) -> None:
        """Let everybody speak, and time pass."""
        for _ in range(turns):
            if not self.mute:
                self._speak()
            self.bench.run(seconds)
            while self.bench.run():
                pass
            invariants.check(self.bench.core.state)
            heard, self.bench.wires.deliveries = self.bench.wires.deliveries, []
            self.heard = [message for _, message in heard]
            for to, message in heard:
                if to.startswith(b"b") and not self.mute:
                    self._hear(message)

    def _speak(self) -> None:
        self.bench.agent(m.Heartbeat(seen=self.seen, free=self.free, held=self.held(), engine="ready"))
        for result in self.unacknowledged.values():
            self.bench.agent(result)

    def _hear(self, message: m.Message) -> None:
        match message:
            case m.Identify():
                self.hello()
            case m.Run(job_id=job_id, fence=fence) if fence > self.seen:
                self.seen = fence
                if job_id in self.slow:
                    self.running[job_id] = message
                elif job_id in self.failing:
                    self.unacknowledged[fence] = m.Failed(
                        job_id=job_id, fence=fence, kind="engine_error", message="no", free=1
                    )
                else:
                    self.unacknowledged[fence] = m.Finished(
                        job_id=job_id, fence=fence, free=1, run_s=1.0, body=codec.encode_body(Result())
                    )
            case m.Cancel(job_id=job_id, fence=fence) if job_id in self.running:
                del self.running[job_id]
                self.unacknowledged[fence] = m.Cancelled(job_id=job_id, fence=fence, free=1)
            case m.ResultAck(fence=fence):
                self.unacknowledged.pop(fence, None)

    # the edge

    def ask(self, message: m.Message, kind: type, tries: int = 8):
        """The answer of this kind; asked for until there is one."""
        for _ in range(tries):
            self.bench.edge(message)
            self.turn(0.1)
            for answer in self.heard:
                if isinstance(answer, kind):
                    return answer
        raise AssertionError(f"no answer to {message}")

    def submit(self, job_id: str, kind: type = m.Accepted, **fields):
        body = b"spec of " + job_id.encode()
        return self.ask(submit_message(job_id, body, 1, **fields), kind)

    def view(self, job_id: str) -> m.JobView:
        return codec.job_view(self.ask(m.GetJob(req=2, job_id=job_id), m.JobReply).body)

    def settle(self, action: str, job_id: str = BAD) -> str:
        return self.ask(m.SettleSetAside(req=3, job_id=job_id, action=action), m.SetAsideSettled).outcome

    def listed(self) -> list[m.JobView]:
        return codec.job_views(self.ask(m.ListSetAside(req=4), m.Jobs).body)


@pytest.fixture
def floor(tmp_path):
    made = Floor(tmp_path, suspect_after_s=2.5, lost_after_s=6.0, rejoin_s=1.0)
    yield made
    made.bench.journal.close()


def plant(monkeypatch, cause: Cause, *, late: bool = False, job_id: str = BAD) -> None:
    """The core raises whenever this job is moved for this cause, before or after it has moved, be it by one move or by two at once."""
    move = State.move
    pairs = {
        "grant_new": (Cause.SUBMITTED, Cause.DISPATCHED),
        "finish_unheard": (Cause.STARTED, Cause.FINISHED),
    }

    def planted_pair(name):
        own = getattr(State, name)

        def moved(state, job, *times):
            hit = job.id == job_id and cause in pairs[name]
            if hit and not late:
                raise Planted(f"{cause} of {job_id}")
            own(state, job, *times)
            if hit:
                raise Planted(f"{cause} of {job_id}")

        return moved

    for name in pairs:
        monkeypatch.setattr(State, name, planted_pair(name))

    def planted(state, job, why, now, note=""):
        if job.id == job_id and why is cause and not late:
            raise Planted(f"{cause} of {job_id}")
        move(state, job, why, now, note)
        if job.id == job_id and why is cause:
            raise Planted(f"{cause} of {job_id}")

    monkeypatch.setattr(State, "move", planted)


def lead(floor: Floor, cause: Cause) -> None:
    """Bring the bad job to where it moves for this cause."""
    match cause:
        case Cause.RETRIED | Cause.DUE | Cause.FAILED:
            floor.failing.add(BAD)
            floor.submit(BAD)
        case Cause.EXPIRED:
            floor.submit(BAD, pinned="nobody", deadline_s=2.0)
        case Cause.CANCELLED:
            floor.submit(BAD, pinned="nobody")
            floor.turn()
            floor.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply)
        case Cause.STOP_REQUESTED | Cause.LOST:
            floor.slow.add(BAD)
            floor.submit(BAD)
            floor.turn(turns=3)
            if cause is Cause.LOST:
                floor.mute = True
                floor.turn(1.0, turns=8)
                floor.mute = False
            else:
                floor.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply)
        case Cause.DISPATCHED:
            floor.full = True
            floor.turn()
            floor.submit(BAD)
            floor.full = False
        case _:
            floor.submit(BAD)


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
def test_a_job_over_which_the_core_raises_is_set_aside_and_the_others_end(floor, monkeypatch, cause, late):
    plant(monkeypatch, cause, late=late)
    floor.submit("good-1")
    lead(floor, cause)
    floor.submit("good-2")
    floor.turn(turns=30)
    assert [floor.view(job).state for job in ("good-1", "good-2")] == ["succeeded", "succeeded"]
    view = floor.view(BAD)
    assert view.state not in ("succeeded", "failed", "cancelled")
    assert view.set_aside is not None
    assert "Planted" in view.set_aside.reason
    assert [job.id for job in floor.listed()] == [BAD]
    assert b"zoetrope_set_aside 1.0" in floor.bench.metrics.text(
        pool_totals(floor.bench.core.state), floor.bench.journal.counts()
    )


@pytest.mark.parametrize("cause", CAUSES)
def test_a_job_that_is_set_aside_stays_so_over_a_restart_and_ends_when_it_is_released(floor, monkeypatch, cause):
    plant(monkeypatch, cause)
    lead(floor, cause)
    floor.turn(turns=12)
    floor.restart()
    floor.submit("good")
    floor.turn(turns=12)
    assert floor.view("good").state == "succeeded"
    assert floor.view(BAD).set_aside is not None
    monkeypatch.undo()
    floor.slow.clear()
    floor.failing.clear()
    assert floor.settle("release") == "done"
    floor.turn(turns=20)
    if cause is Cause.CANCELLED:
        assert floor.view(BAD).state == "cancelled", "the cancel that raised is asked for again, and noted"
    view = floor.view(BAD)
    assert view.set_aside is None
    if cause not in (Cause.CANCELLED, Cause.EXPIRED, Cause.STOP_REQUESTED):
        assert view.state == "succeeded"
    assert floor.settle("release") == "not_set_aside"


def test_a_job_whose_submission_raises_is_refused_and_nothing_of_it_is_kept(floor, monkeypatch):
    plant(monkeypatch, Cause.SUBMITTED)
    floor.submit("good")
    rejected = floor.submit(BAD, m.Rejected)
    assert (rejected.code, "Planted" in rejected.message) == ("invalid", True)
    floor.turn(turns=4)
    assert floor.view("good").state == "succeeded"
    assert not floor.ask(m.GetJob(req=5, job_id=BAD), m.JobReply).found


def test_a_job_that_cannot_be_restored_is_set_aside_and_the_broker_starts(floor, monkeypatch):
    for job_id in ("good-1", BAD, "good-2"):
        floor.submit(job_id, pinned="nobody")
    adopt = State.adopt_record

    def planted(state, job):
        adopt(state, job)
        if job.id == BAD:
            raise Planted("restored")

    monkeypatch.setattr(State, "adopt_record", planted)
    floor.restart()
    assert [job.id for job in floor.listed()] == [BAD]
    assert floor.view("good-2").state == "queued"
    assert floor.bench.core.snapshot().counts["queued"] == 2


def test_a_cancel_of_a_job_that_is_set_aside_is_kept_until_it_is_released(floor, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    floor.submit(BAD)
    floor.turn(turns=4)
    assert floor.ask(m.CancelJob(req=9, job_id=BAD), m.CancelReply).outcome == "requested"
    assert floor.view(BAD).cancel_requested
    floor.restart()
    assert floor.view(BAD).cancel_requested
    plant(monkeypatch, Cause.CANCELLED)
    assert floor.settle("release") == "raised"
    assert floor.view(BAD).cancel_requested
    monkeypatch.undo()
    floor.settle("release")
    floor.turn()
    assert floor.view(BAD).state == "cancelled"


def test_a_job_that_is_set_aside_can_be_failed_and_its_webhook_is_told(floor, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    floor.submit(BAD, webhook="http://example.org/hook", webhook_events=("failed",))
    floor.turn(turns=4)
    assert floor.settle("fail") == "done"
    view = floor.view(BAD)
    assert (view.state, view.failure and view.failure.kind) == ("failed", "quarantined")
    assert "Planted" in view.failure.message
    assert [delivery.event for delivery in view.deliveries] == ["failed"]
    floor.restart()
    assert floor.view(BAD).state == "failed"


def test_a_job_that_is_set_aside_can_be_deleted_and_its_id_is_free_again(floor, monkeypatch):
    plant(monkeypatch, Cause.FINISHED)
    floor.submit(BAD)
    floor.turn(turns=4)
    assert floor.settle("delete") == "done"
    assert not floor.ask(m.GetJob(req=5, job_id=BAD), m.JobReply).found
    assert floor.listed() == []
    monkeypatch.undo()
    floor.submit(BAD)
    floor.turn(turns=4)
    assert floor.view(BAD).state == "succeeded"


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
def test_a_damaged_row_of_a_live_job_is_set_aside_and_can_be_failed(floor, damage):
    for job_id in ("good", BAD):
        floor.submit(job_id, pinned="nobody")
    floor.bench.journal.close()
    with sqlite3.connect(floor.bench.journal.store.path) as connection:
        where = " WHERE n = 2"
        connection.execute(damage + where)
    connection.close()
    floor.start()
    assert floor.view("good").state == "queued"
    assert floor.view(BAD).set_aside is not None
    assert [job.id for job in floor.listed()] == [BAD]
    if floor.settle("release") == "unreadable":
        assert floor.settle("fail") == "done"
        floor.restart()
        assert floor.view(BAD).state == "failed"
    else:
        floor.turn()
    floor.submit("later", pinned="nobody")


def test_a_job_whose_spec_cannot_be_read_is_set_aside_when_its_turn_comes(floor):
    floor.full = True
    floor.turn()
    for job_id in (BAD, "good"):
        floor.submit(job_id)
    floor.bench.journal.close()
    with sqlite3.connect(floor.bench.journal.store.path) as connection:
        connection.execute("UPDATE job SET body = x'00' WHERE n = 1")
    connection.close()
    floor.start()
    assert floor.view(BAD).set_aside is None
    floor.full = False
    floor.turn(turns=6)
    assert "checksum" in floor.view(BAD).set_aside.reason
    assert floor.view("good").state == "succeeded"


def test_a_question_that_raises_changes_nothing(floor, monkeypatch):
    def planted(*_):
        raise Planted("seen")

    floor.submit(BAD, pinned="nobody")
    monkeypatch.setattr(requests, "get_job", planted)
    epoch = floor.bench.journal.epoch
    for _ in range(BUDGET + 2):
        floor.bench.edge(m.GetJob(req=2, job_id=BAD))
        floor.turn(0.1)
    assert floor.bench.journal.epoch == epoch
    monkeypatch.undo()
    assert floor.view(BAD).set_aside is None


@pytest.mark.parametrize("place", ["claim_deliveries", "_record_outcome"])
def test_a_webhook_delivery_over_which_the_core_raises_is_given_up(floor, monkeypatch, place):
    hook_url = "http://example.org/hook"
    floor.submit(BAD, webhook=hook_url, webhook_events=("completed",))
    floor.submit("good", webhook=hook_url, webhook_events=("completed",))
    floor.turn(turns=6)
    bad = floor.bench.journal.deliveries.of_job(BAD)[0]

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
        assert floor.ask(m.DeliveryDone(req=7, number=bad.number, claim=1, outcome="delivered"), m.DeliveryNoted)
    else:
        monkeypatch.setattr(State, "next_revision", revision)
    claims = codec.hook_claims(floor.ask(m.ClaimDeliveries(req=8), m.Deliveries).body)
    assert [claim.job_id for claim in claims] == ["good"]
    assert floor.bench.journal.deliveries.of_job(BAD)[0].state == "failed"
    assert floor.view(BAD).set_aside is None


def test_a_failure_behind_a_commit_loses_nothing(floor, monkeypatch):
    forget, raised = State.committed, []

    def planted(state):
        forget(state)
        if not raised:
            raised.append(True)
            raise Planted("behind the commit")

    monkeypatch.setattr(State, "committed", planted)
    floor.submit("good")
    floor.turn(turns=6)
    assert raised
    assert floor.view("good").state == "succeeded"


def test_failures_that_are_not_of_single_jobs_end_the_broker(floor, monkeypatch):
    def planted(*_, **__):
        raise Planted("all of them")

    monkeypatch.setattr(Queue, "add", planted)
    for number in range(BUDGET + 10):
        floor.bench.edge(submit_message(f"j{number}", req=1))
    with pytest.raises(Planted):
        floor.turn(0.0)


def test_failures_that_come_slowly_do_not(floor, monkeypatch):
    plant(monkeypatch, Cause.SUBMITTED)
    for _ in range(2 * BUDGET):
        floor.submit(BAD, m.Rejected)
        floor.turn(REFILL_S)


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
