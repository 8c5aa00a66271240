"""One attempt from the broker's order to the acknowledged result."""

from __future__ import annotations

import msgspec
import pytest

from broker.wire import codec
from broker.wire import messages as m
from tests.agent.stage import RESULT_BODY, Stage, fence, run_job
from workers.agent import effects as fx
from workers.agent.truncate import clip
from workers.ipc.messages import JobFailed, LoadFailed, Ready

# ------------------------------------------------------------------ taking a job


def test_a_job_goes_to_the_idle_engine_and_the_next_heartbeat_says_since_when() -> None:
    stage = Stage().idle()
    stage.run(1, body=b"the spec")
    assert stage.orders() == [fx.StartJob(run_job(1, b"the spec"))]
    assert (stage.core.capacity.free, stage.core.orders.seen) == (0, fence(1))
    assert stage.core.next_deadline() == pytest.approx(stage.now + 0.25)
    stage.pass_time(0.25).tick()
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.free, beat.engine, beat.held) == (0, "busy", (m.Held(job_id="j1", fence=fence(1), age_s=0.25),))


def test_a_job_that_ends_before_the_next_heartbeat_takes_one_message() -> None:
    stage = Stage().idle()
    stage.run(1)
    assert not stage.sent(m.Message)
    stage.pass_time(0.2).finish()
    [finished] = stage.sent(m.Message)
    assert (type(finished), round(finished.age_s, 6)) == (m.Finished, 0.2)


def test_a_result_that_is_said_again_says_the_same_start() -> None:
    stage = Stage().busy()
    stage.pass_time(1.0).finish()
    [first] = stage.sent(m.Finished)
    said_at = stage.now
    stage.tick(1.0)
    [second] = stage.sent(m.Finished)
    assert stage.now - second.age_s == said_at - first.age_s
    [beat] = stage.sent(m.Heartbeat)
    assert beat.held[0].age_s == second.age_s


def test_what_is_noted_of_an_attempt_names_its_trace() -> None:
    stage = Stage().idle()
    spec = {"prompt": "a", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    stage.run(1, body=msgspec.msgpack.encode(spec))
    assert [note.trace_id for note in stage.effects(fx.Note) if note.job_id] == ["ab" * 16]


def test_the_profile_reaches_the_engine() -> None:
    stage = Stage().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, profile="offload", body=b""))
    [start] = stage.effects(fx.StartJob)
    assert start.message.profile == "offload"


def test_the_same_run_again_is_answered_at_once_and_runs_once() -> None:
    stage = Stage().busy()
    stage.run(1)
    [beat] = stage.sent(m.Heartbeat)
    assert [held.fence for held in beat.held] == [fence(1)]
    assert stage.orders() == []


def test_a_run_whose_result_waits_is_answered_by_the_result() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.run(1)
    assert stage.sent(m.Finished) == [m.Finished(job_id="j1", fence=fence(1), free=1, run_s=2.5, body=RESULT_BODY)]
    assert stage.orders() == []


@pytest.mark.parametrize(
    ("counter", "job"),
    [(5, "j5"), (4, "j5"), (4, "other"), (9, "other")],
    ids=["done", "older of the same job", "older", "same fence, other job"],
)
def test_a_run_that_comes_too_late_is_refused(counter: int, job: str) -> None:
    stage = Stage().busy(5)
    stage.finish(5)
    stage.ack(5, accepted=False)
    stage.run(9)
    stage.finish(9)
    stage.run(counter, job)
    [refused] = stage.sent(m.Refused)
    assert (refused.job_id, refused.fence, refused.free) == (job, fence(counter), 1)
    assert "fence" in refused.reason
    assert stage.orders() == []


def busy_stage() -> Stage:
    return Stage().busy(1)


def loading_stage() -> Stage:
    return Stage().registered()


def dead_stage() -> Stage:
    stage = Stage().registered()
    stage.exited()
    stage.exited()
    return stage


def draining_stage() -> Stage:
    stage = Stage().busy(1)
    stage.broker(m.Drain())
    return stage


def broken_model_stage() -> Stage:
    stage = Stage().registered()
    stage.engine(LoadFailed(model="demo", message="no such file"))
    return stage


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (busy_stage, "the engine is busy"),
        (loading_stage, "the engine is loading"),
        (dead_stage, "the engine is restarting"),
        (broken_model_stage, "the engine is restarting"),
        (draining_stage, "the worker is draining"),
    ],
)
def test_a_run_without_room_is_refused_with_the_reason(scene, reason: str) -> None:
    stage = scene()
    stage.run(7)
    assert stage.sent(m.Refused) == [m.Refused(job_id="j7", fence=fence(7), free=0, reason=reason)]
    assert not stage.effects(fx.StartJob)
    assert stage.core.orders.seen == fence(7)


def test_too_many_unacknowledged_results_take_no_more() -> None:
    stage = Stage(max_unacknowledged=2).idle()
    for counter in (1, 2):
        stage.run(counter)
        stage.finish(counter)
    stage.run(3)
    [refused] = stage.sent(m.Refused)
    assert refused.reason == "2 results wait for acknowledgement"
    stage.ack(1)
    stage.run(4)
    assert stage.effects(fx.StartJob)


def test_a_directory_that_cannot_be_made_fails_the_attempt_and_not_the_worker() -> None:
    stage = Stage().idle()
    stage.run(1)
    stage.begin_failed(1, "No space left on device")
    [failed] = stage.sent(m.Failed)
    assert (failed.kind, failed.free) == ("engine_error", 1)
    assert "No space left on device" in failed.message


def test_a_late_word_about_a_directory_touches_no_other_attempt() -> None:
    stage = Stage().busy(1)
    stage.begin_failed(7, "No space left on device")
    assert stage.out == []
    stage.exited()
    stage.begin_failed(1, "No space left on device")
    assert not stage.sent(m.Failed)


# ------------------------------------------------------------------ results


def test_finished_carries_the_manifest_and_the_new_room() -> None:
    stage = Stage().busy()
    stage.finish()
    [effect] = [out for out in stage.effects(fx.SendBroker) if isinstance(out.message, m.Finished)]
    assert effect == fx.SendBroker(m.Finished(job_id="j1", fence=fence(1), free=1, run_s=2.5, body=RESULT_BODY))
    assert not stage.effects(fx.RemoveDir)


def test_a_failure_carries_kind_and_message_and_removes_the_files() -> None:
    stage = Stage().busy()
    stage.fail(kind="out_of_memory", message="tried to allocate 80 GiB")
    assert stage.sent(m.Failed) == [
        m.Failed(job_id="j1", fence=fence(1), kind="out_of_memory", message="tried to allocate 80 GiB", free=1)
    ]
    assert stage.orders() == [fx.RemoveDir("j1", fence(1))]


def test_a_long_message_is_cut_to_fit_a_header() -> None:
    stage = Stage().busy()
    stage.fail(message="显存不足" * 2000)
    [failed] = stage.sent(m.Failed)
    (message,) = codec.from_agent(codec.encode(failed))
    assert message.message.startswith("显存不足")
    assert message.message.endswith("…")


@pytest.mark.parametrize(
    ("text", "cut"), [("abc", "abc"), ("abcdef", "abcdef"), ("abcdefg", "abc…"), ("日本語", "日…")]
)
def test_clip(text: str, cut: str) -> None:
    assert clip(text, 6) == cut


def test_a_result_is_sent_each_second_until_acknowledged() -> None:
    stage = Stage().busy()
    stage.finish()
    sendings = 0
    for _ in range(20):
        stage.pass_time(0.25).broker(m.HeartbeatAck())
        sendings += len(stage.sent(m.Finished))
    assert sendings == 5
    stage.ack(1)
    stage.silence(5.0)
    assert stage.core.capacity.held(stage.now) == ()
    assert stage.core.unacked_results.next_due() is None


def test_the_next_deadline_is_that_of_the_oldest_result() -> None:
    stage = Stage().busy()
    stage.pass_time(0.9).finish()
    stage.tick(0.4)
    assert stage.core.next_deadline() == pytest.approx(stage.now + 0.6)


def test_the_next_job_runs_while_the_result_waits() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.run(2)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(2))]
    assert [(held.fence, held.phase) for held in stage.core.capacity.held(stage.now)] == [
        (fence(2), ""),
        (fence(1), "finished"),
    ]
    stage.tick(1.0)
    assert [result.free for result in stage.sent(m.Finished)] == [0]  # room is that of the moment of sending


def test_nothing_is_sent_to_a_broker_that_does_not_know_us() -> None:
    stage = Stage()
    stage.tick()
    stage.engine(Ready(model="demo"))
    stage.run(1)
    stage.words(1, "")
    stage.finish()
    assert not stage.sent(m.Finished)
    stage.welcome()
    assert stage.sent(m.Finished)


@pytest.mark.parametrize(
    ("accepted", "orders"), [(True, [fx.RemoveCheckpoints("j1")]), (False, [fx.RemoveDir("j1", fence(1))])]
)
def test_files_of_a_result_that_lost_are_removed(accepted: bool, orders: list[fx.Effect]) -> None:
    stage = Stage().busy()
    stage.finish()
    stage.ack(1, accepted=accepted)
    assert stage.orders() == orders
    stage.ack(1, accepted=accepted)  # said twice
    assert stage.orders() == []


def test_an_acknowledgement_of_something_else_changes_nothing() -> None:
    stage = Stage().busy()
    stage.ack(1, accepted=False)
    stage.ack(17)
    assert stage.orders() == []
    assert [held.fence for held in stage.core.capacity.held(stage.now)] == [fence(1)]


def test_a_rejected_failure_leaves_nothing_to_remove() -> None:
    stage = Stage().busy()
    stage.fail()
    stage.ack(1, accepted=False)
    assert stage.orders() == []


def test_a_result_of_another_fence_is_dropped_with_a_line_in_the_log() -> None:
    stage = Stage().busy(1)
    stage.finish(7)
    assert [note.action for note in stage.effects(fx.Note)] == ["stray_engine_message"]
    assert [held.fence for held in stage.core.capacity.held(stage.now)] == [fence(1)]
    stage.finish(1)
    stage.finish(1)  # said twice
    assert [note.action for note in stage.effects(fx.Note)] == ["stray_engine_message"]
    assert len(stage.core.unacked_results) == 1


def test_a_second_ready_changes_nothing() -> None:
    stage = Stage().busy()
    stage.engine(Ready(model="other"))
    assert stage.core.engine_slot.engine.model == "demo"
    stage.engine(LoadFailed(model="other", message="?"))
    assert stage.core.engine_slot.engine.life.state == "busy"


def test_the_model_in_memory_is_what_the_engine_says() -> None:
    stage = Stage().busy()
    stage.pass_time(1.0).engine(JobFailed(fence=fence(1), kind="invalid_input"))
    assert stage.core.engine_slot.engine.model == "demo"  # it did not say
    stage.run(2)
    stage.engine(JobFailed(fence=fence(2), kind="engine_error", model="other"))
    stage.tick(1.0)
    assert stage.sent(m.Heartbeat)[0].model == "other"


def test_words_that_outlive_their_job_change_nothing() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.tick()
    assert stage.words(1, "save", 1, 1) == []
    assert stage.core.capacity.held(stage.now) == (m.Held(job_id="j1", fence=fence(1), phase="finished"),)
