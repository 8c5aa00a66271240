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
    harness = CoreHarness(epoch=5)
    harness.hello("w1")
    harness.submit("a")
    run = sent(harness.effects, m.Run, peer_of("w1"))[0]
    assert (run.job_id, run.fence, run.attempt) == ("a", 5 << 32 | 1, 1)
    assert harness.state("a") == "assigned"


def test_one_grant_per_room_until_the_worker_says_it_has_more():
    harness = CoreHarness()
    harness.hello("w1", free=2)
    for name in "abc":
        harness.submit(name)
    assert [harness.state(name) for name in "abc"] == ["assigned", "assigned", "queued"]
    harness.start("w1", "a")
    harness.start("w1", "b")
    assert harness.state("c") == "queued"
    harness.finish("w1", "a", free=1)
    assert harness.state("c") == "assigned"


def test_room_said_before_a_grant_was_seen_is_not_counted_twice():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    harness.submit("b")
    harness.beat("w1", seen=0, free=1)  # sent before the Run of a arrived
    assert harness.state("b") == "queued"


def test_a_grant_the_worker_has_seen_and_does_not_hold_goes_back():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    fence = harness.job("a").fence
    effects = harness.beat("w1", seen=fence, free=1)
    assert causes(effects) == [Cause.LOST, Cause.DISPATCHED]
    assert harness.job("a").fence > fence
    assert harness.job("a").losses == 1


def test_a_heartbeat_settles_a_lost_started_and_brings_progress():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    fence = harness.job("a").fence
    harness.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=2, total=8), seen=fence)
    view = harness.view("a")
    assert (view.state, view.phase, view.step, view.total, view.attempts) == ("running", "denoise", 2, 8, 1)


def test_every_heartbeat_is_answered():
    harness = CoreHarness()
    harness.hello("w1")
    assert sent(harness.beat("w1", free=1), m.HeartbeatAck, peer_of("w1"))


def test_a_refused_job_goes_to_the_front_and_costs_no_attempt():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    harness.submit("b")
    harness.feed(peer_of("w1"), m.Refused(job_id="a", fence=harness.job("a").fence, free=0, reason="loading"))
    assert harness.state("a") == "queued"
    harness.beat("w1", seen=harness.job("a").fence, free=1)
    assert (harness.state("a"), harness.state("b")) == ("assigned", "queued")
    harness.start("w1", "a")
    assert harness.job("a").attempts == 1


def test_a_refusal_of_an_old_grant_changes_nothing():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.feed(peer_of("w1"), m.Refused(job_id="a", fence=fence - 1, free=0))
    assert harness.state("a") == "running"


def test_silence_makes_a_worker_suspect_then_lost():
    harness = CoreHarness()
    harness.running("a")
    harness.hello("w2", free=0)
    harness.tick(3)
    harness.beat("w2", free=1)
    harness.submit("b")
    assert harness.job("b").worker == "w2"  # w1 is suspect: no new work
    harness.tick(2.9)
    assert harness.state("a") == "running"
    harness.beat("w2", m.Held(job_id="b", fence=harness.job("b").fence), seen=harness.job("b").fence)
    harness.tick(0.2)
    assert (harness.state("a"), harness.job("a").losses) == ("queued", 1)
    assert "silent for 6.0 s" in harness.job("a").history[-1].note


def test_a_suspect_worker_that_speaks_gets_work_again():
    harness = CoreHarness()
    harness.hello("w1")
    harness.tick(3)
    harness.submit("a")
    assert harness.state("a") == "queued"
    harness.beat("w1", free=1)
    assert harness.state("a") == "assigned"


def test_a_lost_worker_that_speaks_is_asked_who_it_is_and_may_come_back():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.tick(7)
    assert harness.state("a") == "queued"
    effects = harness.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=5, total=9), seen=fence)
    assert sent(effects, m.Identify, peer_of("w1"))
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=5, total=9), seen=fence, free=0)
    assert (harness.state("a"), harness.job("a").attempts, harness.job("a").fence) == ("running", 1, fence)


def test_a_returning_worker_is_told_to_stop_what_another_now_runs():
    harness = CoreHarness()
    old = harness.running("a")
    harness.tick(4)
    harness.hello("w2")
    harness.tick(3)
    assert harness.job("a").worker == "w2"
    harness.start("w2", "a")
    effects = harness.hello("w1", m.Held(job_id="a", fence=old, phase="denoise"), seen=old, free=0, peer=b"b-new")
    assert [c.fence for c in sent(effects, m.Cancel, b"b-new")] == [old]
    assert harness.job("a").worker == "w2"


def test_an_unreachable_address_gets_no_new_work_at_once():
    harness = CoreHarness()
    harness.hello("w1")
    harness.feed(peer_of("w1"), PeerGone())
    harness.submit("a")
    assert harness.state("a") == "queued"
    harness.hello("w1", peer=b"b-again")
    assert sent(harness.effects, m.Run, b"b-again")


def test_a_grant_that_went_down_with_the_connection_is_given_again_free_of_charge():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    harness.feed(peer_of("w1"), PeerGone())
    harness.hello("w1", peer=b"b-again")
    assert sent(harness.effects, m.Run, b"b-again")[0].job_id == "a"
    assert harness.job("a").losses == 0


def test_a_process_that_died_and_was_born_again_has_lost_its_job():
    harness = CoreHarness()
    harness.running("a")
    harness.hello("w1", boot="b2", peer=b"b-new")
    assert harness.job("a").losses == 1
    assert sent(harness.effects, m.WorkerRejected, peer_of("w1"))
    assert sent(harness.effects, m.Run, b"b-new")[0].attempt == 2


def test_a_result_that_outlived_its_process_keeps_the_job_with_its_worker():
    harness = CoreHarness()
    harness.hello("w2", free=0)
    fence = harness.running("a")
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="save"), boot="b2", seen=fence, free=0, peer=b"b-new")
    assert (harness.state("a"), harness.job("a").fence, harness.job("a").losses) == ("running", fence, 0)
    harness.feed(b"b-new", m.Finished(job_id="a", fence=fence, free=1, run_s=2.0, body=RESULT))
    assert (harness.state("a"), harness.job("a").attempts) == ("succeeded", 1)


def test_one_that_comes_when_another_worker_has_the_job_is_not_published():
    harness = CoreHarness()
    old = harness.running("a")
    harness.tick(7)
    harness.hello("w2")
    harness.start("w2", "a")
    held = m.Held(job_id="a", fence=old, phase="save")
    effects = harness.hello("w1", held, boot="b2", seen=old, free=0, peer=b"b-new")
    assert [cancel.fence for cancel in sent(effects, m.Cancel, b"b-new")] == [old], "its files need not be sent"
    late = harness.feed(b"b-new", m.Finished(job_id="a", fence=old, free=1, run_s=2.0, body=RESULT))
    assert [ack.accepted for ack in sent(late, m.ResultAck)] == [False]
    harness.finish("w2", "a")
    assert (harness.state("a"), harness.job("a").worker) == ("succeeded", "w2")


def test_an_unknown_address_is_asked_who_it_is():
    harness = CoreHarness()
    assert sent(harness.beat("stranger"), m.Identify, peer_of("stranger"))
    assert harness.feed(peer_of("stranger"), m.Goodbye()) == []


def test_goodbye_hands_everything_back():
    harness = CoreHarness()
    harness.running("a")
    harness.hello("w2", free=0)
    harness.feed(peer_of("w1"), m.Goodbye(reason="SIGTERM"))
    assert (harness.state("a"), harness.job("a").losses) == ("queued", 1)
    assert [w.name for w in harness.core.snapshot().workers] == ["w2"]


def test_losses_are_free_until_there_are_too_many():
    harness = CoreHarness(Policy(max_losses=3))
    harness.submit("a")
    for n in range(3):
        harness.hello("w1", boot=f"b{n}", peer=f"b-{n}".encode())
        harness.feed(f"b-{n}".encode(), holding("a", harness.job("a").fence))
    harness.hello("w1", boot="b8", peer=b"b-8")
    harness.feed(b"b-8", holding("a", harness.job("a").fence))
    harness.hello("w1", boot="b9", peer=b"b-9")
    assert harness.state("a") == "failed"
    assert harness.job("a").failure.kind == "quarantined"
    assert "4 workers were lost" in harness.job("a").failure.message


def test_a_stalled_broker_does_not_blame_the_workers():
    harness = CoreHarness()
    harness.running("a")
    harness.now += 10  # nothing ran for 10 s
    harness.core.stalled(10, harness.now)
    harness.tick(0.1)
    assert harness.state("a") == "running"


def test_a_draining_worker_gets_nothing_new():
    harness = CoreHarness()
    harness.hello("w1")
    harness.beat("w1", free=1, draining=True)
    harness.submit("a")
    assert harness.state("a") == "queued"


def test_a_lost_worker_is_listed_for_a_while_and_then_forgotten():
    harness = CoreHarness(Policy(forget_worker_s=60))
    harness.hello("w1")
    harness.tick(10)
    assert [w.state for w in harness.core.snapshot().workers] == ["lost"]
    harness.tick(60)
    assert harness.core.snapshot().workers == ()


@pytest.mark.parametrize("phase", ["denoise", "finished"])
def test_a_job_nobody_knows_is_stopped_unless_its_result_is_on_the_way(phase):
    harness = CoreHarness()
    effects = harness.hello("w1", m.Held(job_id="ghost", fence=77, phase=phase), seen=77)
    assert bool(sent(effects, m.Cancel)) == (phase == "denoise")


def test_a_malformed_hello_changes_nothing():
    harness = CoreHarness()
    with pytest.raises(DecodeError):
        harness.feed(peer_of("w1"), m.Hello(name="w1", boot="b", seen=0, free=1, body=b"\xc1"))
    assert harness.core.snapshot().workers == ()
    assert EDGE not in harness.core.state.watchers


def test_a_grant_lost_on_the_way_is_sent_again():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    fence = harness.job("a").fence
    assert not sent(harness.beat("w1", seen=0, free=1), m.Run)  # still on its way
    harness.tick(2)
    assert [r.fence for r in sent(harness.beat("w1", seen=0, free=1), m.Run)] == [fence]
    assert not sent(harness.beat("w1", seen=0, free=1), m.Run)


def test_a_stop_of_a_grant_lost_on_the_way_is_sent_again():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    harness.cancel("a")
    harness.tick(2)
    assert sent(harness.beat("w1", seen=0, free=1), m.Cancel)


def test_a_job_that_is_handed_back_again_and_again_after_its_start_is_quarantined():
    """Its engine ends before it shows the job, each time: nobody knows whose fault that is, but it must come to an end."""
    harness = CoreHarness()
    harness.running("j1", "w1")
    for _ in range(harness.policy.max_losses):
        harness.feed(
            peer_of("w1"), m.Refused(job_id="j1", fence=harness.job("j1").fence, free=1, reason="the engine ended")
        )
        harness.start("w1", "j1")
    assert harness.state("j1") == "running"
    harness.feed(
        peer_of("w1"), m.Refused(job_id="j1", fence=harness.job("j1").fence, free=1, reason="the engine ended")
    )
    assert harness.state("j1") == "failed"
    assert harness.view("j1").failure.kind == "quarantined"


def test_a_grant_that_a_hello_crosses_on_the_same_connection_is_still_on_its_way():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("j1")
    harness.submit("j2")
    fence = harness.job("j1").fence
    harness.hello("w1", seen=0, free=1)  # sent before the grant was received: the broker had been silent
    assert (harness.state("j1"), harness.job("j1").fence, harness.state("j2")) == ("assigned", fence, "queued")
    harness.start("w1", "j1")
    assert harness.state("j1") == "running"


def test_a_grant_that_went_down_with_its_connection_is_given_again():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("j1")
    fence = harness.job("j1").fence
    harness.hello("w1", seen=0, free=1, peer=b"b-another")
    assert harness.state("j1") == "assigned"
    assert harness.job("j1").fence > fence


def lost_grant(harness: CoreHarness) -> int:
    """Grant a job to w1 and let the broker die before the row is on disk; the fence."""
    harness.hello("w1", free=0)
    harness.submit("j1")
    harness.archive.commit()
    harness.beat("w1", free=1)
    fence = harness.job("j1").fence
    harness.restart()
    assert harness.state("j1") == "queued"
    assert harness.job("j1").fence < fence
    return fence


def test_an_attempt_whose_row_was_lost_is_adopted_while_workers_come_back():
    harness = CoreHarness()
    fence = lost_grant(harness)
    harness.hello("w1", m.Held(job_id="j1", fence=fence, phase="denoise"), seen=fence, free=0)
    assert harness.state("j1") == "running"
    harness.finish("w1", "j1", fence)
    assert harness.state("j1") == "succeeded"


def test_later_it_is_not():
    harness = CoreHarness(Policy(rejoin_s=3.0))
    fence = lost_grant(harness)
    harness.tick(4.0)
    effects = harness.hello("w1", m.Held(job_id="j1", fence=fence, phase="denoise"), seen=fence, free=0)
    assert [cancel.fence for cancel in sent(effects, m.Cancel, peer_of("w1"))] == [fence]
    assert harness.state("j1") == "queued"


@pytest.mark.parametrize("ahead", [0, 1])
def test_no_worker_takes_over_what_another_runs(ahead):
    """Neither with the fence of the grant nor with the next one, whatever it says."""
    harness = CoreHarness()
    fence = harness.running("j1", "w1")
    harness.hello("w3")
    harness.submit("other")  # so that the next fence is given
    harness.hello("w2", free=0)
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
        harness.feed(thief, message)
        assert (harness.state("j1"), harness.job("j1").worker, harness.job("j1").fence) == ("running", "w1", fence)
    harness.hello("w2", held, seen=fence, free=0)
    assert (harness.state("j1"), harness.job("j1").worker) == ("running", "w1")
    harness.finish("w1", "j1", fence)
    assert harness.state("j1") == "succeeded"


@pytest.mark.parametrize("fence", [1 << 32 | 2, 1 << 32 | 0xFFFF_FFFF, 2**62])
def test_a_fence_that_was_never_given_is_no_message(fence):
    harness = CoreHarness()
    running = harness.running("j1", "w1")
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
            harness.feed(peer_of("w1"), message)
    assert harness.state("j1") == "running"


def test_a_grant_that_is_never_taken_is_a_loss_and_goes_elsewhere():
    """A worker that beats and cannot read the grant."""
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("j1")
    for _ in range(30):
        harness.tick(1.0)
        harness.beat("w1", seen=0, free=1)
        if harness.job("j1").losses:
            break
    assert harness.job("j1").losses == 1
    assert harness.job("j1").excluded == ("w1",)
    harness.hello("w2")
    for _ in range(30):
        harness.tick(1.0)
        harness.beat("w1", seen=0, free=1)
        harness.beat("w2", seen=0, free=1)
        if harness.job("j1").worker == "w2":
            break
    assert harness.job("j1").worker == "w2"


def test_a_job_whose_grant_nobody_takes_fails_in_the_end():
    harness = CoreHarness(Policy(max_losses=2))
    harness.hello("w1")
    harness.submit("j1")
    for _ in range(100):
        harness.tick(1.0)
        harness.beat("w1", seen=0, free=1)
    assert harness.state("j1") == "failed"
    failure = harness.job("j1").failure
    assert failure is not None
    assert failure.kind == "quarantined"
    assert "worker w1 did not take it, though it was sent 6 times" in failure.message


def test_what_a_worker_measures_is_kept_within_what_can_be():
    harness = CoreHarness()
    harness.running("j1", "w1")
    mad = {"load": -1e300, "encode": math.nan, "denoise": math.inf, "x" * 100: 1.0}
    artefact = Artefact(name="a.mp4", media_type="video/mp4", size=1, sha256="0" * 64, fps=math.nan, sound_s=math.inf)
    body = codec.encode_body(Result(stage_durations=mad, peak_memory_mb=math.nan, artefacts=(artefact,)))
    fence = harness.job("j1").fence
    harness.feed(peer_of("w1"), m.Finished(job_id="j1", fence=fence, free=1, run_s=1e10, body=body))
    job = harness.job("j1")
    assert job.state == "succeeded"
    assert job.run_s == 7 * 86_400
    assert job.result is not None
    assert job.result.stage_durations == {"load": 0.0, "encode": 0.0, "denoise": 7 * 86_400}
    assert (job.result.peak_memory_mb, job.result.artefacts[0].fps) == (0.0, 0.0)
    assert job.result.artefacts[0].sound_s == 1e4
    harness.beat(
        "w1", seen=fence, memory_used_mb=math.inf, memory_total_mb=-1.0, utilisation=math.nan, temperature_c=1e300
    )
    (worker,) = harness.core.snapshot().workers
    assert (worker.memory_used_mb, worker.memory_total_mb) == (1e9, 0.0)
    assert (worker.utilisation, worker.temperature_c) == (-1.0, 1e4)


def test_a_connection_is_one_workers():
    harness = CoreHarness()
    fence = harness.running("j1", "w1")
    effects = harness.hello("w2", peer=peer_of("w1"))
    assert sent(effects, m.WorkerRejected, peer_of("w1"))
    harness.beat("w1", m.Held(job_id="j1", fence=fence), seen=fence)
    assert [view.name for view in harness.core.snapshot().workers] == ["w1"]
    assert harness.state("j1") == "running"


def test_an_attempt_that_stopped_unasked_is_over_although_a_heartbeat_still_names_it():
    """A heartbeat lists results that wait for their acknowledgement; this one crossed it."""
    harness = CoreHarness()
    fence = harness.running("j1", "w1")
    harness.hello("w2", free=0)
    harness.feed(peer_of("w1"), m.Cancelled(job_id="j1", fence=fence, free=0))
    assert harness.state("j1") == "queued"
    harness.beat("w1", m.Held(job_id="j1", fence=fence, phase="finished"), seen=fence, free=0)
    assert harness.state("j1") == "queued"
    assert harness.job("j1").losses == 0


def test_a_worker_whose_name_was_taken_takes_it_back_only_once_nobody_is_heard_under_it():
    harness = CoreHarness()
    harness.hello("w1", boot="first", peer=b"b-first")
    effects = harness.hello("w1", boot="second", peer=b"b-second")
    assert [bye.remedy for bye in sent(effects, m.WorkerRejected, b"b-first")] == ["yield"]
    back = m.Hello(name="w1", boot="third", seen=0, free=1, yields=True, body=worker_info("demo"))
    effects = harness.feed(b"b-third", back)
    assert [bye.remedy for bye in sent(effects, m.WorkerRejected, b"b-third")] == ["yield"]
    harness.tick(harness.policy.lost_after_s + 1)
    effects = harness.feed(b"b-third", back)
    assert sent(effects, m.Welcome, b"b-third")
