"""What watchers are told: each change, numbered, those of a pass together."""

from __future__ import annotations

from broker.core import views
from broker.core.calendar import Calendar
from broker.core.effects import PeerGone, Send
from broker.core.machine import EVENT_JOBS, Policy
from broker.testing import EDGE, RESULT, UNIT, CoreHarness, feed, peer_of, sent, submit_message, worker_info
from broker.wire import codec
from broker.wire import messages as m


def test_watchers_hear_of_every_change_with_a_number_and_hear_no_more_after_leaving():
    desk = CoreHarness()
    base = desk.ask(m.Watch(req=1), m.Watching).seq
    desk.hello("w1")
    desk.submit("a")
    desk.start("w1", "a")
    fence = desk.job("a").fence
    seqs = [e.seq for e in sent(desk.effects, m.Event)]
    for step in (1, 2):
        held = m.Held(job_id="a", fence=fence, phase="denoise", step=step, total=2)
        seqs += [e.seq for e in sent(desk.beat("w1", held, seen=fence), m.Event)]
    assert seqs == [base + 2, base + 3, base + 4]
    assert not sent(desk.beat("w1", held, seen=fence), m.Event)  # nothing changed
    assert desk.ask(m.Watch(req=2), m.Watching).seq == base + 4
    desk.ask(m.Watch(req=3, on=False), m.Watching)
    assert not sent(desk.finish("w1", "a"), m.Event)
    assert desk.ask(m.Watch(req=4), m.Watching).seq > base + 4


def one_pass(desk, *messages):
    """What watchers are told after several messages of one pass."""
    effects = [
        effect for peer, message in messages for effect in feed(desk.core, desk.archive, peer, message, desk.now)
    ]
    desk.apply(effects)
    return [e.message for e in desk.effects if isinstance(e, Send) and isinstance(e.message, m.Event | m.JobsDeleted)]


def test_watchers_are_told_of_a_pass_in_one_event_each_job_as_it_is_then():
    desk = CoreHarness()
    base = desk.ask(m.Watch(req=1), m.Watching).seq
    desk.running("a")
    (event,) = one_pass(
        desk,
        (EDGE, submit_message("b", b"spec", 2)),
        (peer_of("w1"), m.Finished(job_id="a", fence=desk.job("a").fence, free=1, run_s=2.0, body=RESULT)),
        (EDGE, submit_message("c", b"spec", 3)),
    )
    assert event.seq == base + 3
    shown = {view.id: (view.state, view.revision) for view in codec.event_views(event.body)}
    assert shown == {name: (desk.state(name), desk.job(name).revision) for name in ("a", "b", "c")}
    assert [shown[name][0] for name in ("a", "b", "c")] == ["succeeded", "assigned", "queued"]


def test_an_event_is_of_so_many_jobs_at_most():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1))
    events = one_pass(desk, *((EDGE, submit_message(f"j{n}", b"spec", n)) for n in range(2 * EVENT_JOBS + 1)))
    told = [[view.id for view in codec.event_views(event.body)] for event in events]
    assert [len(ids) for ids in told] == [EVENT_JOBS, EVENT_JOBS, 1]
    assert [job_id for ids in told for job_id in ids] == [f"j{n}" for n in range(2 * EVENT_JOBS + 1)]
    assert [event.seq - events[0].seq for event in events] == [0, 1, 2]


def test_a_job_that_ends_and_is_deleted_in_one_pass_is_told_to_be_gone_alone():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1))
    desk.submit("a")
    told = one_pass(desk, (EDGE, m.CancelJob(req=2, job_id="a")), (EDGE, m.ForgetJobs(req=3, job_ids=("a",))))
    assert [type(message) for message in told] == [m.JobsDeleted]


from broker.core import views
from broker.core.calendar import Calendar
from broker.core.effects import PeerGone, Send
from broker.core.machine import EVENT_JOBS, Policy
from broker.testing import EDGE, RESULT, UNIT, CoreHarness, feed, peer_of, sent, submit_message, worker_info
