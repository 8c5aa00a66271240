"""A pass, message by message, over a real core and journal and wires that only remember."""

from __future__ import annotations

import pytest

from broker.core.timers import FRESH_S
from broker.core.views import pool_totals
from broker.runtime.errors import JournalBroken
from broker.shell import recovery
from broker.shell.router import PASS_MESSAGES
from broker.testing import holding, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from tests.sockets.router_bench import Bench, held
from tests.testing.in_process import a_job


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
