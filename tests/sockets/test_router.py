"""A pass, message by message, over a real core and journal and wires that only remember."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import msgspec
import pytest

from broker.core.machine import Core
from broker.core.policy import Policy
from broker.core.timers import FRESH_S
from broker.core.views import pool_totals
from broker.runtime.errors import JournalBroken
from broker.shell import recovery
from broker.shell.journal.disk import Disk
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import BUDGET, MAX_PEERS, PeerLimiter
from broker.shell.router import PASS_MESSAGES, Router
from broker.testing import holding, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from tests.testing.in_process import a_job

NOW = 1_000_000.0
#: Messages of version 0.1.0, in hex.
OLD = dict(
    line.split() for line in (Path(__file__).parent.parent / "wire" / "golden_protocol_1.txt").read_text().splitlines()
)


class Listener:
    """A socket's inbox."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.keyed = False
        self.cuts = 0
        #: Routing id and frames of each message.
        self.inbox: deque[list[bytes]] = deque()

    def receive(self) -> tuple[bytes, bytes, bool] | None:
        if not self.inbox:
            return None
        routing_id, frame, *further = self.inbox.popleft()
        return routing_id, frame, bool(further)

    def sender(self) -> str:
        return ""

    def cut(self) -> None:
        self.cuts += 1

    def readable(self) -> bool:
        return bool(self.inbox)


class Sockets:
    """Both inboxes, and what was sent; peers in `gone` cannot be reached."""

    def __init__(self, log: list[str]) -> None:
        self.front = Listener(b"f")
        self.back = Listener(b"b")
        self.gone: set[bytes] = set()
        self.deliveries: list[tuple[bytes, m.Message]] = []
        #: What was sent in the words of another version.
        self.foreign: list[tuple[bytes, bytes]] = []
        self._log = log

    def send(self, peer: bytes, frame: bytes) -> bool:
        self._log.append("send")
        if peer in self.gone:
            return False
        decode = codec.to_edge if peer.startswith(b"f") else codec.to_agent
        try:
            self.deliveries += [(peer, message) for message in decode(frame)]
        except codec.VersionError:
            self.foreign.append((peer, frame))
        return True


def held(run: m.Run) -> m.Held:
    """An attempt as its worker tells of it."""
    return m.Held(job_id=run.job_id, fence=run.fence, phase="denoise")


class Bench:
    """A router with everything it needs, driven by hand."""

    def __init__(self, home, **policy) -> None:
        self.log: list[str] = []
        self.journal = sqlite_journal(home / "jobs.sqlite")
        commit = self.journal.commit

        def logged_commit(*, lazy: bool = True) -> int:
            self.log.append("commit")
            return commit(lazy=lazy)

        self.journal.commit = logged_commit
        self.core = Core(self.journal.epoch, Policy(**policy), NOW)
        self.wires = Sockets(self.log)
        self.disk = Disk(home, self.journal.store.path, min_free=0, reserve=0)
        self.limiter = PeerLimiter()
        self.metrics = Metrics(self.limiter)
        self.router = Router(
            self.core, self.journal, self.wires, self.disk, self.metrics, self.limiter, time.perf_counter
        )
        self.now = NOW

    def edge(self, message: m.Message, peer: bytes = b"edge") -> None:
        self.wires.front.inbox.append([peer, codec.encode(message)])

    def agent(self, message: m.Message, peer: bytes = b"agent") -> None:
        self.wires.back.inbox.append([peer, codec.encode(message)])

    def join(self, peer: bytes = b"agent", name: str = "cpu-0", free: int = 1) -> None:
        self.agent(m.Hello(name=name, boot="boot", seen=0, free=free, body=worker_info()), peer)
        self.run()

    def run(self, seconds: float = 0.0) -> bool:
        self.now += seconds
        return self.router.run_pass(self.now)

    def sent(self, kind=m.Message, peer: bytes | None = None) -> list:
        return [message for to, message in self.wires.deliveries if isinstance(message, kind) and peer in (None, to)]


@pytest.fixture
def make(tmp_path):
    made = []

    def one(**policy) -> Bench:
        made.append(Bench(tmp_path, **policy))
        return made[-1]

    yield one
    for bench in made:
        bench.journal.close()


@pytest.fixture
def bench(make):
    return make()


def test_nothing_is_sent_before_the_one_commit_of_its_pass(bench):
    bench.join()
    bench.log.clear()
    for number in range(20):
        bench.edge(a_job(f"job-{number}"))
    bench.run()
    assert bench.log == ["send", "commit", "send"], "the run goes first, and 20 accepted in one frame"
    assert isinstance(bench.sent()[-21], m.Run)
    assert len(bench.sent(m.Accepted)) == 20


def test_a_job_accepted_before_starts_while_the_result_of_the_last_one_is_committed(bench):
    bench.join()
    for number in (1, 2):
        bench.edge(a_job(f"job-{number}"))
    bench.run()
    (first,) = bench.sent(m.Run)
    bench.log.clear()
    bench.agent(m.Finished(job_id="job-1", fence=first.fence, free=1, body=codec.encode_body(Result())))
    bench.run()
    assert [run.job_id for run in bench.sent(m.Run)] == ["job-1", "job-2"]
    assert bench.log == ["send", "commit", "send"], "the next run, the commit, the acknowledgement"


def test_a_job_starts_while_its_acceptance_is_committed(bench):
    bench.join(free=2)
    bench.edge(a_job("job-1"))
    bench.log.clear()
    bench.run()
    assert bench.log == ["send", "commit", "send"]
    assert [type(message) for message in bench.sent()[-2:]] == [m.Run, m.Accepted]


def test_what_started_and_was_never_accepted_is_stopped_and_counts_for_nothing(make):
    bench = make()
    bench.join()
    bench.edge(a_job("job-1"))

    def fail(*, lazy: bool) -> int:
        raise JournalBroken("no")

    bench.journal.commit = fail
    with pytest.raises(JournalBroken):
        bench.run()
    (run,) = bench.sent(m.Run)
    assert bench.sent(m.Accepted) == []
    bench.journal.close()

    bench = make()
    for number in (0, 1):  # the edge repeats its request while the worker still has the attempt
        bench.edge(a_job(f"job-{number}"))
    bench.run()
    bench.agent(m.Hello(name="cpu-0", boot="boot", seen=run.fence, free=0, held=(held(run),), body=worker_info()))
    bench.run()
    assert [(cancel.job_id, cancel.fence) for cancel in bench.sent(m.Cancel)] == [("job-1", run.fence)]
    bench.agent(m.Finished(job_id="job-1", fence=run.fence, free=1, body=codec.encode_body(Result())))
    bench.run()
    assert [ack.accepted for ack in bench.sent(m.ResultAck)] == [False]
    assert bench.core.job("job-1").state == "queued"


def test_a_run_does_not_overtake_a_welcome(bench):
    bench.edge(a_job("job-1"))
    bench.run()
    bench.edge(a_job("job-2"))
    bench.join()
    to_agent = [type(message) for peer, message in bench.wires.deliveries if peer.startswith(b"b")]
    assert to_agent == [m.Welcome, m.Run]


def test_when_the_commit_fails_no_edge_is_told_anything(bench):
    bench.join()
    bench.edge(a_job("job-1"))

    def fail(*, lazy: bool) -> int:
        raise JournalBroken("no")

    bench.journal.commit = fail
    with pytest.raises(JournalBroken):
        bench.run()
    assert {type(message) for message in bench.sent()} == {m.Welcome, m.Run}


def test_rows_that_may_be_lost_wait_for_the_next_commit(bench):
    bench.edge(a_job("job-1"))
    bench.run()
    bench.log.clear()
    bench.join()  # the job is dispatched
    (run,) = bench.sent(m.Run)
    assert "commit" not in bench.log
    assert bench.journal.dirty
    bench.agent(holding("job-1", run.fence))
    bench.run()
    assert "commit" not in bench.log
    bench.router.commit(bench.now)
    assert not bench.journal.dirty
    assert bench.journal.find("job-1").state == "running"


def test_a_result_is_acknowledged_after_its_commit(bench):
    bench.join()
    bench.edge(a_job("job-1"))
    bench.run()
    (run,) = bench.sent(m.Run)
    bench.log.clear()
    bench.agent(m.Finished(job_id="job-1", fence=run.fence, free=1, body=codec.encode_body(Result())))
    bench.run()
    assert bench.log == ["commit", "send"]
    assert bench.sent(m.ResultAck)[-1].accepted


def test_a_page_asked_for_in_the_same_pass_shows_the_new_job(bench):
    bench.edge(a_job("job-1"))
    bench.edge(m.ListJobs(req=7))
    bench.edge(m.GetJob(req=8, job_id="job-1"))
    bench.run()
    assert bench.sent(m.JobReply)[0].found
    assert bench.log == ["commit", "send"]
    assert [type(message) for message in bench.sent()] == [m.Accepted, m.Jobs, m.JobReply]


def test_a_pass_takes_256_messages_and_says_that_more_are_waiting(bench):
    for number in range(PASS_MESSAGES + 10):
        bench.edge(m.GetPool(req=number))
    assert bench.run()
    assert len(bench.sent(m.Pool)) == PASS_MESSAGES
    assert not bench.run()
    assert len(bench.sent(m.Pool)) == PASS_MESSAGES + 10


def test_the_back_is_read_first_and_cannot_shut_out_the_front(bench):
    bench.join()
    bench.wires.deliveries.clear()
    bench.edge(m.GetPool(req=1))
    for _ in range(2 * PASS_MESSAGES):
        bench.agent(m.Heartbeat(seen=0, free=1))
    assert bench.run()
    kinds = [type(message) for message in bench.sent()]
    assert kinds[0] is m.HeartbeatAck
    assert kinds[-1] is m.Pool


def test_a_lease_does_not_expire_while_heartbeats_wait_to_be_read(make):
    bench = make(suspect_after_s=2.5, lost_after_s=6.0)
    bench.join()
    bench.edge(a_job("job-1"))
    bench.run()
    (run,) = bench.sent(m.Run)
    noise = m.Heartbeat(seen=0, free=0)
    for _ in range(PASS_MESSAGES):
        bench.agent(noise, peer=b"stranger")
    bench.agent(m.Heartbeat(seen=run.fence, free=0, held=(m.Held(job_id="job-1", fence=run.fence),)))
    bench.run(seconds=7.0)
    bench.run()
    job = bench.core.job("job-1")
    assert (job.state, job.losses) == ("running", 0)


def test_a_flood_does_not_stop_the_clock(make):
    bench = make(suspect_after_s=2.5, lost_after_s=6.0, max_losses=0)
    bench.join()
    bench.edge(a_job("job-1"))
    bench.run()
    for _ in range(40):
        for _ in range(PASS_MESSAGES):
            bench.agent(m.Heartbeat(seen=0, free=0), peer=b"stranger")
        bench.run(seconds=0.25)
    assert bench.core.job("job-1").failure.kind == "quarantined"


def test_a_peer_that_cannot_be_reached_gets_no_more_and_the_core_is_told(bench):
    bench.join()
    bench.edge(m.Watch(req=1), peer=b"slow")
    bench.run()
    bench.wires.gone = {b"fslow", b"bagent"}
    bench.log.clear()
    bench.edge(a_job("job-1"))
    bench.edge(a_job("job-2"))
    bench.run()
    assert bench.log.count("send") == 3  # two accepted in one frame, one try for each who is gone
    assert [worker.state for worker in bench.core.snapshot().workers] == ["suspect"]
    bench.wires.gone = set()
    bench.wires.deliveries.clear()
    bench.edge(a_job("job-3"))
    bench.run()
    assert bench.sent(peer=b"fslow") == []


def test_each_watcher_gets_one_event_a_pass_after_its_commit(bench):
    bench.join()
    for watcher in (b"edge-1", b"edge-2"):
        bench.edge(m.Watch(req=1), peer=watcher)
    bench.run()
    bench.log.clear()
    for number in range(3):
        bench.edge(a_job(f"job-{number}"))
    bench.run()
    for watcher in (b"fedge-1", b"fedge-2"):
        (event,) = [message for message in bench.sent(peer=watcher) if isinstance(message, m.Event)]
        assert [view.id for view in codec.event_views(event.body)] == ["job-0", "job-1", "job-2"]
    assert bench.log[:2] == ["send", "commit"], "a run goes first, and tells watchers nothing"


def test_a_job_that_is_deleted_and_comes_again_in_one_pass_is_there_for_watchers(bench):
    bench.edge(m.Watch(req=1))
    bench.edge(a_job("job-1"))
    bench.run()
    bench.wires.deliveries.clear()
    bench.edge(m.CancelJob(req=2, job_id="job-1"))
    bench.edge(m.ForgetJobs(req=3, job_ids=("job-1",)))
    bench.edge(a_job("job-1"))
    bench.run()
    gone, event = bench.sent(m.Event | m.JobsDeleted)
    assert gone == m.JobsDeleted(seq=event.seq - 1, job_ids=("job-1",))
    assert [(view.id, view.state) for view in codec.event_views(event.body)] == [("job-1", "queued")]


def test_equal_routing_ids_of_the_two_sockets_are_two_peers(bench):
    bench.join(peer=b"same")
    bench.edge(m.GetPool(req=1), peer=b"same")
    bench.run()
    assert [type(message) for message in bench.sent(peer=b"bsame")] == [m.Welcome]
    assert [type(message) for message in bench.sent(peer=b"fsame")] == [m.Pool]


# ---------------------------------------------------------------- junk


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([b"junk"], "decode"),
        ([b"\xc1" * 5000], "decode"),
        ([b"", b"a"], "frames"),
        ([b"a", b"b", b"c"], "frames"),
        ([b"x"] * 200, "frames"),
        ([codec.encode(m.Heartbeat(seen=0, free=1)), b"body"], "frames"),
        ([codec.encode(m.Identify())], "decode"),
        ([codec.encode(m.Finished(job_id="job-1", fence=1, body=b"no result"))], "decode"),
    ],
)
def test_junk_is_counted_by_peer_and_kind_and_dropped(bench, frames, kind):
    bench.join(peer=b"evil")
    bench.wires.deliveries.clear()
    for _ in range(3):
        bench.wires.back.inbox.append([b"evil", *frames])
    bench.edge(m.GetPool(req=1))
    bench.run()
    assert dict(bench.limiter.by_kind) == {kind: 3}
    assert dict(bench.limiter.by_peer) == {b"bevil": 3}
    assert [type(message) for message in bench.sent()] == [m.Pool]


def test_a_connection_probe_is_nothing(bench):
    bench.wires.front.inbox.append([b"edge", b""])
    bench.run()
    assert not bench.limiter.by_kind
    assert bench.sent() == []


def test_peers_of_a_later_version_are_told_to_go_in_a_frame_of_theirs(bench):
    later = m.PROTOCOL + 1
    bench.wires.back.inbox.append([b"agent", codec.encode(m.Goodbye(v=later))])
    bench.wires.front.inbox.append([b"edge", codec.encode(m.GetPool(v=later, req=1))])
    bench.run()
    bye, rejected = (msgspec.msgpack.decode(frame) for _, frame in bench.wires.foreign)
    assert bye[:3] == ["bye", later, f"protocol {later}, this is {m.PROTOCOL}"]
    assert rejected[:5] == ["rejected", later, 1, "invalid", f"protocol {later}, this is {m.PROTOCOL}"]
    assert [peer for peer, _ in bench.wires.foreign] == [b"bagent", b"fedge"]
    assert bench.sent() == []
    assert dict(bench.limiter.by_kind) == {"version": 2}


def test_peers_of_version_0_1_0_are_told_to_go_in_words_that_they_read(bench):
    """Golden bytes of its messages: a header, and a body in a second frame."""
    for name in ("Hello", "Heartbeat", "Started"):
        bench.wires.back.inbox.append([b"agent", bytes.fromhex(OLD[name]), *([b"info"] if name == "Hello" else [])])
    for name in ("Submit", "GetJob", "Watch"):
        bench.wires.front.inbox.append([b"edge", bytes.fromhex(OLD[name]), *([b"spec"] if name == "Submit" else [])])
    bench.run()
    told = [(peer, msgspec.msgpack.decode(frame)) for peer, frame in bench.wires.foreign]
    assert [words[:3] for peer, words in told if peer == b"bagent"] == [
        ["bye", 1, f"protocol 1, this is {m.PROTOCOL}"]
    ] * 3
    assert [words for peer, words in told if peer == b"fedge"] == [
        [
            "rejected",
            1,
            msgspec.msgpack.decode(bytes.fromhex(OLD[name]))[2],
            "invalid",
            f"protocol 1, this is {m.PROTOCOL}",
            0.0,
            0.0,  # which 0.1.0 does not know, and skips
        ]
        for name in ("Submit", "GetJob", "Watch")
    ]
    assert dict(bench.limiter.by_kind) == {"version": 6}
    assert bench.core.snapshot().workers == ()


def test_a_peer_that_sends_too_much_junk_is_cut_off_and_read_no_more(bench, caplog):
    bench.join(peer=b"evil")
    for _ in range(BUDGET - 1):
        bench.agent(m.Heartbeat(seen=0, free=1), peer=b"evil")
        bench.wires.back.inbox.append([b"evil", b"junk"])
    bench.run()
    while bench.run():
        pass
    assert bench.wires.back.cuts == 0
    heard = bench.metrics.received[m.Heartbeat]
    bench.wires.back.inbox.append([b"evil", b"junk"])
    for _ in range(50):
        bench.agent(m.Heartbeat(seen=0, free=1), peer=b"evil")
        bench.wires.back.inbox.append([b"evil", b"junk"])
    bench.agent(m.Heartbeat(seen=0, free=1), peer=b"good")
    bench.run()
    assert bench.wires.back.cuts == 1
    assert bench.limiter.by_kind["decode"] == BUDGET
    assert bench.metrics.received[m.Heartbeat] == heard + 1
    assert [worker.state for worker in bench.core.snapshot().workers] == ["suspect"]
    assert len([record for record in caplog.records if record.action == "cut_off"]) == 1


def test_junk_now_and_then_is_forgiven(bench):
    for _ in range(5 * BUDGET):
        bench.wires.front.inbox.append([b"edge", b"junk"])
        bench.run(seconds=1.0)
    assert bench.wires.front.cuts == 0


def test_junk_is_said_once_a_second_and_the_table_of_peers_is_bounded(bench, caplog):
    for number in range(MAX_PEERS + 50):
        bench.wires.front.inbox.append([b"%d" % number, b"junk"])
    while bench.run(seconds=0.01):
        pass
    assert bench.limiter.by_kind["decode"] == MAX_PEERS + 50
    assert len(bench.limiter.by_peer) == MAX_PEERS
    assert len([record for record in caplog.records if record.action == "invalid_message"]) == 1
    bench.wires.front.inbox.append([b"1", b"junk"])
    bench.run(seconds=5.0)
    last = [record for record in caplog.records if record.action == "invalid_message"][-1]
    assert last.unsaid == MAX_PEERS + 49


# ---------------------------------------------------------------- refusing


def test_a_stopping_broker_refuses_new_jobs_and_answers_for_old_ones(bench):
    bench.edge(a_job("old"))
    bench.run()
    bench.core.begin_stop()
    bench.wires.deliveries.clear()
    bench.edge(a_job("new"))
    bench.edge(a_job("old"))
    bench.edge(m.CancelJob(req=3, job_id="old"))
    bench.run()
    rejected, accepted, cancelled = (message for _, message in bench.wires.deliveries)
    assert (rejected.code, rejected.retry_after_s > 0) == ("shutting_down", True)
    assert accepted.duplicate
    assert cancelled.outcome == "cancelled"
    assert bench.journal.find("new") is None


def test_with_the_disk_nearly_full_new_jobs_are_refused_and_results_are_taken(bench):
    bench.join()
    bench.edge(a_job("old"))
    bench.run()
    (run,) = bench.sent(m.Run)
    bench.disk.shortage = "0 MB are free"
    bench.edge(a_job("new"))
    bench.edge(a_job("old"))
    bench.agent(m.Finished(job_id="old", fence=run.fence, free=1, body=codec.encode_body(Result())))
    bench.run()
    (rejected,) = bench.sent(m.Rejected)
    assert rejected.code == "queue_full"
    assert "disk" in rejected.message
    assert rejected.retry_after_s > 0
    assert bench.sent(m.ResultAck)[-1].accepted
    bench.disk.shortage = ""
    bench.edge(a_job("new"))
    bench.run()
    assert len(bench.sent(m.Rejected)) == 1


def test_a_job_that_only_the_journal_remembers_is_still_answered_when_stopping(make):
    bench = make(recent_finals=0)
    bench.edge(a_job("old"))
    bench.edge(m.CancelJob(req=2, job_id="old"))
    bench.run()
    assert bench.core.job("old") is None
    bench.core.begin_stop()
    bench.edge(a_job("old"))
    bench.run()
    assert bench.sent(m.Accepted)[-1].duplicate


def over(make, *job_ids: str, **policy) -> Bench:
    """A broker that believes edges about fresh ids, whose jobs of these ids are over and on disk alone."""
    bench = make(recent_finals=0, **policy)
    for job_id in job_ids:
        bench.edge(a_job(job_id, body=b"first", fresh=True))
        bench.edge(m.CancelJob(req=2, job_id=job_id))
    bench.run()
    assert [bench.core.job(job_id) for job_id in job_ids] == [None] * len(job_ids)
    bench.wires.deliveries.clear()
    return bench


def test_a_fresh_id_that_is_taken_is_answered_when_it_is_repeated_and_nothing_else_is_lost(make):
    bench = over(make, "said-twice", "drawn-twice")
    bench.join()
    asked = (
        a_job("said-twice", body=b"first", fresh=True),
        a_job("drawn-twice", body=b"second", fresh=True),
        a_job("other", fresh=True),
    )
    for message in asked:
        bench.edge(message)
    bench.run()
    assert not bench.sent(m.Accepted | m.Rejected)
    (begun,) = bench.sent(m.Run)
    assert bench.sent(m.Identify)
    for message in asked:  # as edges do with what is not answered
        bench.edge(message)
    bench.agent(m.Hello(name="cpu-0", boot="boot", seen=begun.fence, held=(held(begun),), free=0, body=worker_info()))
    bench.run()
    (cancel,) = bench.sent(m.Cancel)
    assert (cancel.job_id, cancel.fence) == (begun.job_id, begun.fence), "what began for a taken id is stopped"
    bench.agent(m.Cancelled(job_id=begun.job_id, fence=begun.fence, free=1))
    bench.run()
    same, new = bench.sent(m.Accepted)
    (refused,) = bench.sent(m.Rejected)
    assert (same.job_id, same.duplicate, new.job_id, new.duplicate) == ("said-twice", True, "other", False)
    assert codec.job_view(same.body).state == "cancelled"
    assert refused.code == "id_conflict"
    assert [run.job_id for run in bench.sent(m.Run)] == [begun.job_id, "other"]
    assert bench.journal.find("drawn-twice").body == b"first"


def test_a_question_over_a_taken_id_does_not_keep_it(make):
    """Its page writes what is staged, and meets the row."""
    bench = over(make, "twice")
    bench.edge(a_job("twice", body=b"first", fresh=True))
    bench.edge(m.ListJobs(req=3))
    bench.run()
    assert not bench.sent()
    bench.edge(m.ListJobs(req=3))
    bench.edge(a_job("twice", body=b"first", fresh=True))
    bench.run()
    assert [view.id for view in codec.job_views(bench.sent(m.Jobs)[0].body)] == ["twice"]
    assert bench.sent(m.Accepted)[0].duplicate


def test_ids_that_are_taken_again_and_again_do_not_end_the_broker(make):
    bench = over(make, "twice")
    for _ in range(recovery.BUDGET + 2):
        bench.edge(a_job("twice", body=b"first", fresh=True))
        bench.run()
        assert not bench.sent()
        bench.run(FRESH_S + 1.0)
    bench.edge(a_job("new", fresh=True))
    bench.run()
    assert bench.sent(m.Accepted)


# ---------------------------------------------------------------- what is told of it


def test_every_move_is_one_line_and_one_count(bench, caplog):
    caplog.set_level("INFO")
    bench.join()
    bench.edge(a_job("job-1"))
    bench.run()
    (run,) = bench.sent(m.Run)
    bench.agent(holding("job-1", run.fence))
    bench.agent(m.Finished(job_id="job-1", fence=run.fence, free=1, body=codec.encode_body(Result())))
    bench.run()
    moves = [record for record in caplog.records if record.action == "transition"]
    assert [(str(record.source or ""), str(record.target), str(record.cause)) for record in moves] == [
        ("", "queued", "submitted"),
        ("queued", "assigned", "dispatched"),
        ("assigned", "running", "started"),
        ("running", "succeeded", "finished"),
    ]
    assert {(record.job_id, record.worker_id) for record in moves[1:]} == {("job-1", "cpu-0")}
    assert bench.metrics.transitions == {(record.target, record.cause): 1 for record in moves}


def test_the_numbers_are_prometheus_text(bench, tmp_path):
    bench.join()
    bench.edge(a_job("job-1"))
    bench.wires.front.inbox.append([b"edge", b"junk"])
    bench.run()
    path = tmp_path / "broker.prom"
    bench.metrics.write(path, pool_totals(bench.core.state), bench.journal.counts())
    lines = path.read_text().splitlines()
    for line in (
        'zoetrope_job_transitions_total{cause="submitted",state="queued"} 1.0',
        'zoetrope_jobs{state="assigned"} 1.0',
        'zoetrope_workers{state="busy"} 1.0',
        'zoetrope_invalid_messages_total{kind="decode"} 1.0',
        'zoetrope_messages_total{message="Submit",way="in"} 1.0',
        # Under their names of 0.1.0, too.
        'zoetrope_moves_total{cause="submitted",state="queued"} 1.0',
        'zoetrope_junk_total{kind="decode"} 1.0',
        'zoetrope_cut_off_total{reason="junk"} 0.0',
        "zoetrope_backlog_seconds "
        + next(line for line in lines if line.startswith("zoetrope_queue_backlog_seconds ")).split()[1],
        'zoetrope_commit_seconds_bucket{le="+Inf"} 1.0',
        "zoetrope_journal_rows_total 1.0",
    ):
        assert line in lines, line
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("broker.prom")] == ["broker.prom"]
