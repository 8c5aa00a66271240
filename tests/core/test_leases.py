"""Who holds what: grants, silence, comings and goings of workers."""

from __future__ import annotations

import math

import pytest

from broker.core.effects import PeerGone
from broker.core.jobs import Cause
from broker.core.machine import Policy
from broker.testing import EDGE, RESULT, CoreHarness, causes, holding, peer_of, sent, worker_info
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.codec import DecodeError
from broker.wire.jobspec import Artefact, Result


def test_a_free_worker_gets_the_job_with_a_fence_of_this_epoch():
    desk = CoreHarness(epoch=5)
    desk.hello("w1")
    desk.submit("a")
    run = sent(desk.effects, m.Run, peer_of("w1"))[0]
    assert (run.job_id, run.fence, run.attempt) == ("a", 5 << 32 | 1, 1)
    assert desk.state("a") == "assigned"


def test_one_grant_per_room_until_the_worker_says_it_has_more():
    desk = CoreHarness()
    desk.hello("w1", free=2)
    for name in "abc":
        desk.submit(name)
    assert [desk.state(name) for name in "abc"] == ["assigned", "assigned", "queued"]
    desk.start("w1", "a")
    desk.start("w1", "b")
    assert desk.state("c") == "queued"
    desk.finish("w1", "a", free=1)
    assert desk.state("c") == "assigned"


def test_room_said_before_a_grant_was_seen_is_not_counted_twice():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    desk.submit("b")
    desk.beat("w1", seen=0, free=1)  # sent before the Run of a arrived
    assert desk.state("b") == "queued"


def test_a_grant_the_worker_has_seen_and_does_not_hold_goes_back():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    fence = desk.job("a").fence
    effects = desk.beat("w1", seen=fence, free=1)
    assert causes(effects) == [Cause.LOST, Cause.DISPATCHED]
    assert desk.job("a").fence > fence
    assert desk.job("a").losses == 1


def test_a_heartbeat_settles_a_lost_started_and_brings_progress():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    fence = desk.job("a").fence
    desk.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=2, total=8), seen=fence)
    view = desk.view("a")
    assert (view.state, view.phase, view.step, view.total, view.attempts) == ("running", "denoise", 2, 8, 1)


def test_every_heartbeat_is_answered():
    desk = CoreHarness()
    desk.hello("w1")
    assert sent(desk.beat("w1", free=1), m.HeartbeatAck, peer_of("w1"))


def test_a_refused_job_goes_to_the_front_and_costs_no_attempt():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    desk.submit("b")
    desk.feed(peer_of("w1"), m.Refused(job_id="a", fence=desk.job("a").fence, free=0, reason="loading"))
    assert desk.state("a") == "queued"
    desk.beat("w1", seen=desk.job("a").fence, free=1)
    assert (desk.state("a"), desk.state("b")) == ("assigned", "queued")
    desk.start("w1", "a")
    assert desk.job("a").attempts == 1


def test_a_refusal_of_an_old_grant_changes_nothing():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.feed(peer_of("w1"), m.Refused(job_id="a", fence=fence - 1, free=0))
    assert desk.state("a") == "running"


def test_silence_makes_a_worker_suspect_then_lost():
    desk = CoreHarness()
    desk.running("a")
    desk.hello("w2", free=0)
    desk.tick(3)
    desk.beat("w2", free=1)
    desk.submit("b")
    assert desk.job("b").worker == "w2"  # w1 is suspect: no new work
    desk.tick(2.9)
    assert desk.state("a") == "running"
    desk.beat("w2", m.Held(job_id="b", fence=desk.job("b").fence), seen=desk.job("b").fence)
    desk.tick(0.2)
    assert (desk.state("a"), desk.job("a").losses) == ("queued", 1)
    assert "silent for 6.0 s" in desk.job("a").history[-1].note


def test_a_suspect_worker_that_speaks_gets_work_again():
    desk = CoreHarness()
    desk.hello("w1")
    desk.tick(3)
    desk.submit("a")
    assert desk.state("a") == "queued"
    desk.beat("w1", free=1)
    assert desk.state("a") == "assigned"


def test_a_lost_worker_that_speaks_is_asked_who_it_is_and_may_come_back():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.tick(7)
    assert desk.state("a") == "queued"
    effects = desk.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=5, total=9), seen=fence)
    assert sent(effects, m.Identify, peer_of("w1"))
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=5, total=9), seen=fence, free=0)
    assert (desk.state("a"), desk.job("a").attempts, desk.job("a").fence) == ("running", 1, fence)


def test_a_returning_worker_is_told_to_stop_what_another_now_runs():
    desk = CoreHarness()
    old = desk.running("a")
    desk.tick(4)
    desk.hello("w2")
    desk.tick(3)
    assert desk.job("a").worker == "w2"
    desk.start("w2", "a")
    effects = desk.hello("w1", m.Held(job_id="a", fence=old, phase="denoise"), seen=old, free=0, peer=b"b-new")
    assert [c.fence for c in sent(effects, m.Cancel, b"b-new")] == [old]
    assert desk.job("a").worker == "w2"


def test_an_unreachable_address_gets_no_new_work_at_once():
    desk = CoreHarness()
    desk.hello("w1")
    desk.feed(peer_of("w1"), PeerGone())
    desk.submit("a")
    assert desk.state("a") == "queued"
    desk.hello("w1", peer=b"b-again")
    assert sent(desk.effects, m.Run, b"b-again")


def test_a_grant_that_went_down_with_the_connection_is_given_again_free_of_charge():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    desk.feed(peer_of("w1"), PeerGone())
    desk.hello("w1", peer=b"b-again")
    assert sent(desk.effects, m.Run, b"b-again")[0].job_id == "a"
    assert desk.job("a").losses == 0


def test_a_process_that_died_and_was_born_again_has_lost_its_job():
    desk = CoreHarness()
    desk.running("a")
    desk.hello("w1", boot="b2", peer=b"b-new")
    assert desk.job("a").losses == 1
    assert sent(desk.effects, m.WorkerRejected, peer_of("w1"))
    assert sent(desk.effects, m.Run, b"b-new")[0].attempt == 2


def test_a_result_that_outlived_its_process_keeps_the_job_with_its_worker():
    desk = CoreHarness()
    desk.hello("w2", free=0)
    fence = desk.running("a")
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="save"), boot="b2", seen=fence, free=0, peer=b"b-new")
    assert (desk.state("a"), desk.job("a").fence, desk.job("a").losses) == ("running", fence, 0)
    desk.feed(b"b-new", m.Finished(job_id="a", fence=fence, free=1, run_s=2.0, body=RESULT))
    assert (desk.state("a"), desk.job("a").attempts) == ("succeeded", 1)


def test_one_that_comes_when_another_worker_has_the_job_is_not_published():
    desk = CoreHarness()
    old = desk.running("a")
    desk.tick(7)
    desk.hello("w2")
    desk.start("w2", "a")
    held = m.Held(job_id="a", fence=old, phase="save")
    effects = desk.hello("w1", held, boot="b2", seen=old, free=0, peer=b"b-new")
    assert [cancel.fence for cancel in sent(effects, m.Cancel, b"b-new")] == [old], "its files need not be sent"
    late = desk.feed(b"b-new", m.Finished(job_id="a", fence=old, free=1, run_s=2.0, body=RESULT))
    assert [ack.accepted for ack in sent(late, m.ResultAck)] == [False]
    desk.finish("w2", "a")
    assert (desk.state("a"), desk.job("a").worker) == ("succeeded", "w2")


def test_an_unknown_address_is_asked_who_it_is():
    desk = CoreHarness()
    assert sent(desk.beat("stranger"), m.Identify, peer_of("stranger"))
    assert desk.feed(peer_of("stranger"), m.Goodbye()) == []


def test_goodbye_hands_everything_back():
    desk = CoreHarness()
    desk.running("a")
    desk.hello("w2", free=0)
    desk.feed(peer_of("w1"), m.Goodbye(reason="SIGTERM"))
    assert (desk.state("a"), desk.job("a").losses) == ("queued", 1)
    assert [w.name for w in desk.core.snapshot().workers] == ["w2"]


def test_losses_are_free_until_there_are_too_many():
    desk = CoreHarness(Policy(max_losses=3))
    desk.submit("a")
    for n in range(3):
        desk.hello("w1", boot=f"b{n}", peer=f"b-{n}".encode())
        desk.feed(f"b-{n}".encode(), holding("a", desk.job("a").fence))
    desk.hello("w1", boot="b8", peer=b"b-8")
    desk.feed(b"b-8", holding("a", desk.job("a").fence))
    desk.hello("w1", boot="b9", peer=b"b-9")
    assert desk.state("a") == "failed"
    assert desk.job("a").failure.kind == "quarantined"
    assert "4 workers were lost" in desk.job("a").failure.message


def test_a_stalled_broker_does_not_blame_the_workers():
    desk = CoreHarness()
    desk.running("a")
    desk.now += 10  # nothing ran for 10 s
    desk.core.stalled(10, desk.now)
    desk.tick(0.1)
    assert desk.state("a") == "running"


def test_a_draining_worker_gets_nothing_new():
    desk = CoreHarness()
    desk.hello("w1")
    desk.beat("w1", free=1, draining=True)
    desk.submit("a")
    assert desk.state("a") == "queued"


def test_a_lost_worker_is_listed_for_a_while_and_then_forgotten():
    desk = CoreHarness(Policy(forget_worker_s=60))
    desk.hello("w1")
    desk.tick(10)
    assert [w.state for w in desk.core.snapshot().workers] == ["lost"]
    desk.tick(60)
    assert desk.core.snapshot().workers == ()


@pytest.mark.parametrize("phase", ["denoise", "finished"])
def test_a_job_nobody_knows_is_stopped_unless_its_result_is_on_the_way(phase):
    desk = CoreHarness()
    effects = desk.hello("w1", m.Held(job_id="ghost", fence=77, phase=phase), seen=77)
    assert bool(sent(effects, m.Cancel)) == (phase == "denoise")


def test_a_malformed_hello_changes_nothing():
    desk = CoreHarness()
    with pytest.raises(DecodeError):
        desk.feed(peer_of("w1"), m.Hello(name="w1", boot="b", seen=0, free=1, body=b"\xc1"))
    assert desk.core.snapshot().workers == ()
    assert EDGE not in desk.core.state.watchers


def test_a_grant_lost_on_the_way_is_sent_again():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    fence = desk.job("a").fence
    assert not sent(desk.beat("w1", seen=0, free=1), m.Run)  # still on its way
    desk.tick(2)
    assert [r.fence for r in sent(desk.beat("w1", seen=0, free=1), m.Run)] == [fence]
    assert not sent(desk.beat("w1", seen=0, free=1), m.Run)


def test_a_stop_of_a_grant_lost_on_the_way_is_sent_again():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    desk.cancel("a")
    desk.tick(2)
    assert sent(desk.beat("w1", seen=0, free=1), m.Cancel)


def test_a_job_that_is_handed_back_again_and_again_after_its_start_is_quarantined():
    """Its engine ends before it shows the job, each time: nobody knows whose fault that is, but it must come to an end."""
    desk = CoreHarness()
    desk.running("j1", "w1")
    for _ in range(desk.policy.max_losses):
        desk.feed(peer_of("w1"), m.Refused(job_id="j1", fence=desk.job("j1").fence, free=1, reason="the engine ended"))
        desk.start("w1", "j1")
    assert desk.state("j1") == "running"
    desk.feed(peer_of("w1"), m.Refused(job_id="j1", fence=desk.job("j1").fence, free=1, reason="the engine ended"))
    assert desk.state("j1") == "failed"
    assert desk.view("j1").failure.kind == "quarantined"


def test_a_grant_that_a_hello_crosses_on_the_same_connection_is_still_on_its_way():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("j1")
    desk.submit("j2")
    fence = desk.job("j1").fence
    desk.hello("w1", seen=0, free=1)  # sent before the grant was received: the broker had been silent
    assert (desk.state("j1"), desk.job("j1").fence, desk.state("j2")) == ("assigned", fence, "queued")
    desk.start("w1", "j1")
    assert desk.state("j1") == "running"


def test_a_grant_that_went_down_with_its_connection_is_given_again():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("j1")
    fence = desk.job("j1").fence
    desk.hello("w1", seen=0, free=1, peer=b"b-another")
    assert desk.state("j1") == "assigned"
    assert desk.job("j1").fence > fence


def lost_grant(desk: CoreHarness) -> int:
    """Grant a job to w1 and let the broker die before the row is on disk; the fence."""
    desk.hello("w1", free=0)
    desk.submit("j1")
    desk.archive.commit()
    desk.beat("w1", free=1)
    fence = desk.job("j1").fence
    desk.restart()
    assert desk.state("j1") == "queued"
    assert desk.job("j1").fence < fence
    return fence


def test_an_attempt_whose_row_was_lost_is_adopted_while_workers_come_back():
    desk = CoreHarness()
    fence = lost_grant(desk)
    desk.hello("w1", m.Held(job_id="j1", fence=fence, phase="denoise"), seen=fence, free=0)
    assert desk.state("j1") == "running"
    desk.finish("w1", "j1", fence)
    assert desk.state("j1") == "succeeded"


def test_later_it_is_not():
    desk = CoreHarness(Policy(rejoin_s=3.0))
    fence = lost_grant(desk)
    desk.tick(4.0)
    effects = desk.hello("w1", m.Held(job_id="j1", fence=fence, phase="denoise"), seen=fence, free=0)
    assert [cancel.fence for cancel in sent(effects, m.Cancel, peer_of("w1"))] == [fence]
    assert desk.state("j1") == "queued"


@pytest.mark.parametrize("ahead", [0, 1])
def test_no_worker_takes_over_what_another_runs(ahead):
    """Neither with the fence of the grant nor with the next one, whatever it says."""
    desk = CoreHarness()
    fence = desk.running("j1", "w1")
    desk.hello("w3")
    desk.submit("other")  # so that the next fence is given
    desk.hello("w2", free=0)
    forged = fence + ahead
    thief = peer_of("w2")
    held = m.Held(job_id="j1", fence=forged, phase="denoise")
    for message in (
        m.Heartbeat(seen=fence, free=0, held=(held,)),
        m.Finished(job_id="j1", fence=forged, body=RESULT),
        m.Failed(job_id="j1", fence=forged, kind=m.FailureKind("invalid_input"), message="forged"),
        m.Cancelled(job_id="j1", fence=forged),
        m.Refused(job_id="j1", fence=forged),
    ):
        desk.feed(thief, message)
        assert (desk.state("j1"), desk.job("j1").worker, desk.job("j1").fence) == ("running", "w1", fence)
    desk.hello("w2", held, seen=fence, free=0)
    assert (desk.state("j1"), desk.job("j1").worker) == ("running", "w1")
    desk.finish("w1", "j1", fence)
    assert desk.state("j1") == "succeeded"


@pytest.mark.parametrize("fence", [1 << 32 | 2, 1 << 32 | 0xFFFF_FFFF, 2**62])
def test_a_fence_that_was_never_given_is_no_message(fence):
    desk = CoreHarness()
    running = desk.running("j1", "w1")
    held = (m.Held(job_id="j1", fence=fence),)
    for message in (
        m.Heartbeat(seen=fence, free=0),
        m.Heartbeat(seen=running, free=0, held=held),
        m.Finished(job_id="j1", fence=fence, body=RESULT),
        m.Failed(job_id="j1", fence=fence, kind=m.FailureKind("hung")),
        m.Cancelled(job_id="j1", fence=fence),
        m.Refused(job_id="j1", fence=fence),
    ):
        with pytest.raises(DecodeError, match="never given"):
            desk.feed(peer_of("w1"), message)
    assert desk.state("j1") == "running"


def test_a_grant_that_is_never_taken_is_a_loss_and_goes_elsewhere():
    """A worker that beats and cannot read the grant."""
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("j1")
    for _ in range(30):
        desk.tick(1.0)
        desk.beat("w1", seen=0, free=1)
        if desk.job("j1").losses:
            break
    assert desk.job("j1").losses == 1
    assert desk.job("j1").excluded == ("w1",)
    desk.hello("w2")
    for _ in range(30):
        desk.tick(1.0)
        desk.beat("w1", seen=0, free=1)
        desk.beat("w2", seen=0, free=1)
        if desk.job("j1").worker == "w2":
            break
    assert desk.job("j1").worker == "w2"


def test_a_job_whose_grant_nobody_takes_fails_in_the_end():
    desk = CoreHarness(Policy(max_losses=2))
    desk.hello("w1")
    desk.submit("j1")
    for _ in range(100):
        desk.tick(1.0)
        desk.beat("w1", seen=0, free=1)
    assert desk.state("j1") == "failed"
    failure = desk.job("j1").failure
    assert failure is not None
    assert failure.kind == "quarantined"
    assert "worker w1 did not take it, though it was sent 6 times" in failure.message


def test_what_a_worker_measures_is_kept_within_what_can_be():
    desk = CoreHarness()
    desk.running("j1", "w1")
    mad = {"load": -1e300, "encode": math.nan, "denoise": math.inf, "x" * 100: 1.0}
    artefact = Artefact(name="a.mp4", media_type="video/mp4", size=1, sha256="0" * 64, fps=math.nan, sound_s=math.inf)
    body = codec.encode_body(Result(stage_durations=mad, peak_memory_mb=math.nan, artefacts=(artefact,)))
    fence = desk.job("j1").fence
    desk.feed(peer_of("w1"), m.Finished(job_id="j1", fence=fence, free=1, run_s=1e10, body=body))
    job = desk.job("j1")
    assert job.state == "succeeded"
    assert job.run_s == 7 * 86_400
    assert job.result is not None
    assert job.result.stage_durations == {"load": 0.0, "encode": 0.0, "denoise": 7 * 86_400}
    assert (job.result.peak_memory_mb, job.result.artefacts[0].fps) == (0.0, 0.0)
    assert job.result.artefacts[0].sound_s == 1e4
    desk.beat(
        "w1", seen=fence, memory_used_mb=math.inf, memory_total_mb=-1.0, utilisation=math.nan, temperature_c=1e300
    )
    (worker,) = desk.core.snapshot().workers
    assert (worker.memory_used_mb, worker.memory_total_mb) == (1e9, 0.0)
    assert (worker.utilisation, worker.temperature_c) == (-1.0, 1e4)


def test_a_connection_is_one_workers():
    desk = CoreHarness()
    fence = desk.running("j1", "w1")
    effects = desk.hello("w2", peer=peer_of("w1"))
    assert sent(effects, m.WorkerRejected, peer_of("w1"))
    desk.beat("w1", m.Held(job_id="j1", fence=fence), seen=fence)
    assert [view.name for view in desk.core.snapshot().workers] == ["w1"]
    assert desk.state("j1") == "running"


def test_an_attempt_that_stopped_unasked_is_over_although_a_heartbeat_still_names_it():
    """A heartbeat lists results that wait for their acknowledgement; this one crossed it."""
    desk = CoreHarness()
    fence = desk.running("j1", "w1")
    desk.hello("w2", free=0)
    desk.feed(peer_of("w1"), m.Cancelled(job_id="j1", fence=fence, free=0))
    assert desk.state("j1") == "queued"
    desk.beat("w1", m.Held(job_id="j1", fence=fence, phase="finished"), seen=fence, free=0)
    assert desk.state("j1") == "queued"
    assert desk.job("j1").losses == 0


def test_a_worker_whose_name_was_taken_takes_it_back_only_once_nobody_is_heard_under_it():
    desk = CoreHarness()
    desk.hello("w1", boot="first", peer=b"b-first")
    effects = desk.hello("w1", boot="second", peer=b"b-second")
    assert [bye.remedy for bye in sent(effects, m.WorkerRejected, b"b-first")] == ["yield"]
    back = m.Hello(name="w1", boot="third", seen=0, free=1, yields=True, body=worker_info("demo"))
    effects = desk.feed(b"b-third", back)
    assert [bye.remedy for bye in sent(effects, m.WorkerRejected, b"b-third")] == ["yield"]
    desk.tick(desk.policy.lost_after_s + 1)
    effects = desk.feed(b"b-third", back)
    assert sent(effects, m.Welcome, b"b-third")
