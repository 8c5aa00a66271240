"""A worker whose files go into a depot: no result is told before its files are there, and none is lost while they are not."""

from __future__ import annotations

import msgspec

from broker.wire import messages as m
from broker.wire.jobspec import decode_spec, digest_of
from tests.agent.stage import EPOCH, FAR, RESULT, SHA, SPEC, WITH_INPUT, Stage, fence
from workers.agent import effects as fx
from workers.depot.job_inputs import with_local_inputs


def far(**policy: float) -> Stage:
    return Stage(dirs=FAR, **policy)


def putting(**policy: float) -> Stage:
    """Job 1 is drawn, and its files are being put."""
    stage = far(**policy).busy(1)
    stage.finish(1)
    return stage


def test_files_are_put_before_the_result_is_told():
    stage = far().busy(1)
    stage.finish(1)
    assert stage.effects(fx.PutFiles) == [fx.PutFiles("j1", fence(1), RESULT.artefacts)]
    assert stage.sent(m.Finished) == []
    stage.silence(600)
    assert stage.sent(m.Finished) == []
    stage.put(1)
    assert [message.fence for message in stage.sent(m.Finished)] == [fence(1)]


def test_while_they_are_put_the_next_job_is_drawn_and_the_first_is_held():
    stage = putting()
    assert stage.core.capacity.free == 1
    stage.run(2)
    assert stage.effects(fx.StartJob)
    stage.tick(2.0)
    held = {item.fence: item.phase for item in stage.sent(m.Heartbeat)[-1].held}
    assert held == {fence(1): "save", fence(2): ""}


def test_the_local_copy_stays_until_the_result_is_acknowledged():
    stage = putting()
    stage.put(1)
    assert stage.effects(fx.RemoveDir) == []
    stage.ack(1)
    assert stage.effects(fx.RemoveDir) == [fx.RemoveDir("j1", fence(1))]
    assert stage.effects(fx.DiscardFiles) == []


def test_what_was_put_of_a_result_that_lost_is_removed():
    stage = putting()
    stage.put(1)
    stage.ack(1, accepted=False)
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.DiscardFiles("j1", fence(1))]


def test_a_cancel_ends_a_job_whose_files_are_being_put():
    stage = putting()
    stage.cancel(1)
    assert stage.orders() == [fx.Revoke(fence(1)), fx.RemoveDir("j1", fence(1)), fx.DiscardFiles("j1", fence(1))]
    assert [type(message) for message in stage.sent(m.Cancelled)] == [m.Cancelled]
    stage.put(1)
    assert stage.sent(m.Finished) == [], "it was over when the last byte arrived"


def test_files_that_never_arrive_fail_the_attempt_in_words():
    stage = putting()
    stage.put(1, "the edge answers 507")
    (failed,) = stage.sent(m.Failed)
    assert (failed.kind, failed.message) == (
        "engine_error",
        "its files cannot be put into the depot: the edge answers 507",
    )
    assert fx.DiscardFiles("j1", fence(1)) in stage.out


def test_a_full_spool_takes_no_job():
    stage = putting(spool_bytes=2)
    assert stage.core.capacity.refusal_reason() == "0 MB of results wait to be put into the depot"
    stage.run(2)
    assert stage.sent(m.Refused)
    stage.put(1)
    assert stage.core.capacity.free == 1


def reported(stage: Stage) -> m.DepotWait | None:
    """What the next heartbeat says of the depot."""
    stage.broker(m.HeartbeatAck(epoch=EPOCH))
    stage.tick(1.0)
    return stage.sent(m.Heartbeat)[-1].depot


def test_the_broker_is_told_what_waits_for_the_depot_and_why():
    assert reported(far().idle()) is None
    stage = putting()
    began = stage.now
    size_mb = sum(file.size for file in RESULT.artefacts) / 1e6
    assert reported(stage) == m.DepotWait(results=1, size_mb=size_mb, age_s=stage.now - began)
    stage.delayed(1, "the edge cannot be reached")
    assert reported(stage).fault == "the edge cannot be reached"
    stage.put(1)
    assert reported(stage) is None


def test_a_new_reason_why_the_depot_does_not_answer_is_told_soon():
    stage = putting()
    stage.tick(2.0)
    stage.delayed(1, "the edge answers 507")
    stage.tick(0.3)
    assert [beat.depot.fault for beat in stage.sent(m.Heartbeat)] == ["the edge answers 507"]
    # What is said of an attempt that waits no more is not of the next one.
    stage.put(1)
    stage.run(2)
    stage.finish(2)
    assert reported(stage).fault == ""


def test_it_says_that_it_takes_no_job_because_of_results_that_wait():
    stage = putting(spool_bytes=2)
    assert reported(stage).full
    assert not reported(putting()).full


def test_inputs_that_do_not_come_are_told():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    stage.delayed(1, "the edge cannot be reached")
    wait = reported(stage)
    assert (wait.results, wait.inputs, wait.fault, wait.full) == (0, 1, "the edge cannot be reached", False)
    stage.fetched(1)
    assert reported(stage) is None


def test_a_drained_worker_stays_until_its_files_are_there():
    stage = putting()
    stage.broker(m.Drain())
    stage.silence(60)
    assert stage.effects(fx.Exit) == []
    stage.put(1)
    stage.ack(1)
    assert stage.sent(m.Goodbye)


def test_the_same_order_again_and_a_park_find_it_held():
    stage = putting()
    stage.run(1)
    assert (stage.sent(m.Refused), stage.orders()) == ([], [])
    stage.park(1)
    assert (stage.sent(m.Refused), stage.orders()) == ([], [])


def test_a_result_without_files_is_told_at_once():
    stage = far().busy(1)
    stage.fail(1)
    assert stage.sent(m.Failed)
    assert stage.effects(fx.PutFiles) == []


def test_inputs_are_fetched_before_the_engine_has_the_job():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    assert stage.orders() == [fx.FetchInputs(fence(1), (f"{SHA}.png",))]
    stage.silence(500)
    assert stage.effects(fx.KillEngine) == [], "silence is not the engine's"
    stage.fetched(1)
    (start,) = stage.orders()
    assert decode_spec(start.message.body) == msgspec.structs.replace(SPEC, image=f"/home/inputs/{SHA}.png")
    assert start.message.out_dir == f"/home/spool/cpu-0/j1/{fence(1)}"
    assert start.message.checkpoints == "/home/artefacts/.checkpoints/j1"


def test_a_request_is_the_same_wherever_its_inputs_lie():
    here, there = (
        decode_spec(with_local_inputs(WITH_INPUT, directory)) for directory in ("/home/inputs", "/srv/other/inputs")
    )
    assert here != there
    assert digest_of(here) == digest_of(there) == digest_of(decode_spec(WITH_INPUT))
    assert digest_of(here) != digest_of(msgspec.structs.replace(here, image=f"/home/inputs/{'b' * 64}.png"))
    assert digest_of(here) != digest_of(msgspec.structs.replace(here, seed=here.seed + 1))


def test_checkpoints_of_a_job_that_goes_on_are_fetched_before_too():
    stage = far().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", kept=7))
    assert stage.orders() == [fx.FetchInputs(fence(1), (), "j1")]
    stage.fetched(1)
    (start,) = stage.orders()
    assert start.message.kept == 7


def test_checkpoints_that_the_broker_has_not_heard_of_are_looked_for_too():
    stage = far().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", attempt=2))
    assert stage.orders() == [fx.FetchInputs(fence(1), (), "j1")]


def test_where_disks_are_shared_checkpoints_are_there():
    stage = Stage().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", kept=7))
    assert [type(order) for order in stage.orders()] == [fx.StartJob]


def test_a_cancel_meanwhile_touches_no_engine():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    stage.cancel(1)
    assert stage.orders() == [fx.Revoke(fence(1)), fx.RemoveDir("j1", fence(1))]
    assert stage.sent(m.Cancelled)
    assert stage.core.capacity.free == 1
    stage.fetched(1)
    assert stage.orders() == []


def test_inputs_that_are_gone_fail_the_job_and_others_hand_it_back():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    stage.fetched(1, "the edge keeps it no longer", gone=True)
    assert [message.kind for message in stage.sent(m.Failed)] == ["invalid_input"]
    stage.run(2, body=WITH_INPUT)
    stage.fetched(2, "the edge cannot be asked")
    (refused,) = stage.sent(m.Refused)
    assert "the edge cannot be asked" in refused.reason
    assert stage.core.capacity.free == 1


def test_an_engine_that_ends_meanwhile_hands_the_job_back():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    stage.exited()
    assert stage.sent(m.Refused)
    assert fx.Revoke(fence(1)) in stage.out


def test_a_job_is_not_given_to_an_engine_that_was_killed_meanwhile():
    stage = far().idle()
    stage.run(1, body=WITH_INPUT)
    stage.closed()
    stage.fetched(1)
    assert not stage.effects(fx.StartJob)
    assert [refused.reason for refused in stage.sent(m.Refused)] == [
        "the engine ended while its inputs were on their way"
    ]
    stage.exited()
    assert not stage.sent(m.Refused)


def test_a_stop_meanwhile_hands_the_job_back():
    stage = far(stop_grace_s=30).idle()
    stage.run(1, body=WITH_INPUT)
    stage.end()
    assert stage.sent(m.Refused)
    assert stage.sent(m.Goodbye)


def test_the_draft_of_a_parked_job_is_put():
    stage = far().busy(1)
    stage.park(1)
    stage.parked(1)
    assert stage.effects(fx.PutDraft) == [fx.PutDraft("j1", fence(1))]


def being_parked(**policy: float) -> Stage:
    """Job 1 is parked, and its checkpoints are being put."""
    stage = far(**policy).busy(1)
    stage.park(1)
    stage.parked(1, kept=3)
    return stage


def handed_back(stage: Stage) -> list[tuple[int, int]]:
    return [(said.fence, said.kept) for said in stage.sent(m.Refused)]


def test_a_parked_job_is_handed_back_when_its_checkpoints_are_in_the_depot():
    stage = being_parked()
    assert stage.effects(fx.PutParked) == [fx.PutParked("j1", fence(1), 30.0)]
    assert handed_back(stage) == []
    assert stage.core.capacity.free == 1, "its engine is free"
    stage.tick(2.0)
    assert [(item.fence, item.kept) for item in stage.sent(m.Heartbeat)[-1].held] == [(fence(1), 3)]
    stage.put(1)
    assert handed_back(stage) == [(fence(1), 3)]
    stage.put(1)
    assert handed_back(stage) == []


def test_a_depot_that_does_not_take_them_keeps_no_job_for_ever():
    stage = being_parked()
    stage.silence(29.0)
    assert handed_back(stage) == []
    stage.pass_time(1.0).tick()
    assert handed_back(stage) == [(fence(1), 3)]


def test_a_worker_that_stops_waits_for_the_depot_as_long_as_its_grace_lasts():
    stage = far(stop_grace_s=5.0).busy(1)
    stage.end()
    stage.pass_time(1.0).parked(1)
    assert stage.effects(fx.PutParked)
    assert not stage.sent(m.Goodbye)
    stage.put(1)
    kinds = [type(effect.message) for effect in stage.effects(fx.SendBroker)]
    assert kinds.index(m.Refused) < kinds.index(m.Goodbye)

    stage = far(stop_grace_s=5.0).busy(1)
    stage.end()
    stage.pass_time(1.0).parked(1)
    stage.silence(3.5)
    assert not stage.sent(m.Goodbye)
    stage.pass_time(0.5).tick()
    kinds = [type(effect.message) for effect in stage.effects(fx.SendBroker)]
    assert kinds.index(m.Refused) < kinds.index(m.Goodbye), "what is left of it is told before the goodbye"


def test_a_cancel_ends_a_parked_job_whose_checkpoints_are_being_put():
    stage = being_parked()
    stage.cancel(1)
    assert stage.orders() == [fx.Revoke(fence(1))]
    assert stage.sent(m.Cancelled)
    stage.put(1)
    assert handed_back(stage) == []
    stage.ack(1)
    assert stage.orders() == [fx.RemoveCheckpoints("j1")]


def test_the_same_order_again_and_a_park_find_a_parked_job_held():
    stage = being_parked()
    stage.run(1)
    assert (stage.sent(m.Refused), stage.orders()) == ([], [])
    stage.park(1)
    assert (stage.sent(m.Refused), stage.orders()) == ([], [])


def test_where_nothing_is_put_a_parked_job_is_handed_back_at_once():
    for policy, kept in (({"checkpoint_put_s": 0.0}, 3), ({}, 0)):
        stage = far(**policy).busy(1)
        stage.park(1)
        stage.parked(1, kept=kept)
        assert handed_back(stage) == [(fence(1), kept)]
        assert not stage.effects(fx.PutParked)


def test_parked_jobs_that_wait_for_the_depot_leave_no_room_for_ever_more():
    stage = far(max_unacknowledged=1).busy(1)
    stage.park(1)
    stage.parked(1)
    assert stage.core.capacity.refusal_reason() == "1 parked jobs wait until their checkpoints are in the depot"
    stage.put(1)
    assert stage.core.capacity.free == 1


def test_the_key_to_the_depot_comes_with_the_welcome():
    stage = far()
    stage.tick()
    stage.broker(m.Welcome(epoch=3, depot_key="k"))
    assert stage.effects(fx.SetDepotKey) == [fx.SetDepotKey("k")]
