"""What watchers are told: each change, numbered, those of a pass together."""

from __future__ import annotations

import msgspec

from broker.core import views
from broker.core.calendar import Calendar
from broker.core.effects import PeerGone, Send
from broker.core.machine import EVENT_JOBS, Policy
from broker.testing import EDGE, RESULT, UNIT, CoreHarness, feed, peer_of, sent, submit_message, worker_info
from broker.wire import bodies, codec
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


def test_a_stream_begins_at_a_number_that_none_had_before_also_behind_events_that_told_of_no_change():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1, steps=False))
    desk.running("a")
    reported = [sent(desk.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)[0].seq for _ in range(50)]
    desk.feed(EDGE, m.Watch(req=2, on=False))
    assert desk.ask(m.Watch(req=3, steps=False), m.Watching).seq > reported[-1]


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
    reported = [[view.id for view in codec.event_views(event.body)] for event in events]
    assert [len(ids) for ids in reported] == [EVENT_JOBS, EVENT_JOBS, 1]
    assert [job_id for ids in reported for job_id in ids] == [f"j{n}" for n in range(2 * EVENT_JOBS + 1)]
    assert [event.seq - events[0].seq for event in events] == [0, 1, 2]


def test_a_job_that_ends_and_is_deleted_in_one_pass_is_told_to_be_gone_alone():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1))
    desk.submit("a")
    reported = one_pass(desk, (EDGE, m.CancelJob(req=2, job_id="a")), (EDGE, m.ForgetJobs(req=3, job_ids=("a",))))
    assert [type(message) for message in reported] == [m.JobsDeleted]


# ---------------------------------------------------------------- steps

OTHER = b"fedge-2"


def steps(desk, job_id, step, worker="w1"):
    """What each edge is told of a step: the views by peer."""
    fence = desk.job(job_id).fence
    held = m.Held(job_id=job_id, fence=fence, phase="denoise", step=step, total=9)
    reported: dict[bytes, list[m.JobView]] = {}
    for effect in desk.beat(worker, held, seen=fence):
        if isinstance(effect, Send) and isinstance(effect.message, m.Event):
            reported.setdefault(effect.peer, []).extend(codec.event_views(effect.message.body))
    return {peer: [(view.id, view.step) for view in views] for peer, views in reported.items()}


def test_an_edge_is_told_of_the_steps_of_jobs_that_it_follows():
    desk = CoreHarness()
    for peer in (EDGE, OTHER):
        desk.feed(peer, m.Watch(req=1, steps=False))
    desk.running("a")
    desk.running("b", "w2")
    assert steps(desk, "a", 1) == {}
    # Where it is comes at once: the step before may have been its last for long.
    (event,) = sent(desk.feed(EDGE, m.Follow(job_ids=("a", "nobody"))), m.Event)
    assert [(view.id, view.step) for view in codec.event_views(event.body)] == [("a", 1)]
    assert steps(desk, "a", 2) == {EDGE: [("a", 2)]}
    assert steps(desk, "b", 1, "w2") == {}
    desk.feed(OTHER, m.Follow(job_ids=("b", "a")))
    assert steps(desk, "a", 3) == {EDGE: [("a", 3)], OTHER: [("a", 3)]}
    desk.feed(EDGE, m.Follow(job_ids=("a",), on=False))
    assert steps(desk, "a", 4) == {OTHER: [("a", 4)]}
    desk.feed(OTHER, PeerGone())
    assert steps(desk, "a", 5) == {}
    # States are told to all who watch.
    (event,) = sent(desk.finish("w1", "a"), m.Event)
    assert [view.state for view in codec.event_views(event.body)] == ["succeeded"]


def test_numbers_have_no_gap_whatever_is_told():
    desk = CoreHarness()
    seqs = [desk.ask(m.Watch(req=1, steps=False), m.Watching).seq]
    desk.running("a")
    seqs += [event.seq for event in sent(desk.effects, m.Event)]
    for message in (m.Follow(job_ids=("a",)), m.Follow(job_ids=("a",))):
        seqs += [event.seq for event in sent(desk.feed(EDGE, message), m.Event)]
    steps(desk, "a", 1)
    seqs += [event.seq for event in sent(desk.effects, m.Event)]
    seqs.append(desk.ask(m.Watch(req=2, steps=False), m.Watching).seq)
    assert seqs[-1] == seqs[-2]
    assert [after - before for before, after in zip(seqs[-5:], seqs[-4:], strict=False)] == [1, 1, 1, 0]


def test_who_does_not_watch_follows_nothing_and_a_job_that_is_over_is_not_followed():
    desk = CoreHarness()
    desk.running("a")
    assert not sent(desk.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)
    desk.feed(EDGE, m.Watch(req=1, steps=False))
    desk.feed(EDGE, m.Follow(job_ids=("a",)))
    desk.finish("w1", "a")
    assert not desk.core.state.steps.followers
    assert not sent(desk.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)
    assert not desk.core.state.steps.followers


def test_a_step_before_an_end_in_the_same_pass_is_told_with_the_end_alone():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1, steps=False))
    fence = desk.running("a")
    desk.feed(EDGE, m.Follow(job_ids=("a",)))
    held = m.Held(job_id="a", fence=fence, phase="denoise", step=1, total=2)
    (event,) = one_pass(
        desk,
        (peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(held,))),
        (peer_of("w1"), m.Finished(job_id="a", fence=fence, free=1, run_s=2.0, body=RESULT)),
    )
    assert [view.state for view in codec.event_views(event.body)] == ["succeeded"]


def test_many_followed_steps_of_a_pass_come_in_few_events():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1, steps=False))
    names = [f"j{n}" for n in range(EVENT_JOBS + 1)]
    for name in names:
        desk.running(name, f"w-{name}")
        desk.feed(EDGE, m.Follow(job_ids=(name,)))
    beats = []
    for name in names:
        fence = desk.job(name).fence
        held = m.Held(job_id=name, fence=fence, phase="denoise", step=1, total=2)
        beats.append((peer_of(f"w-{name}"), m.Heartbeat(seen=fence, free=0, held=(held,))))
    assert [len(codec.event_views(event.body)) for event in one_pass(desk, *beats)] == [EVENT_JOBS, 1]


def test_who_wants_all_steps_gets_them_until_it_wants_fewer():
    desk = CoreHarness()
    desk.feed(EDGE, m.Watch(req=1))
    desk.running("a")
    assert steps(desk, "a", 1) == {EDGE: [("a", 1)]}
    desk.feed(EDGE, m.Watch(req=2, steps=False))
    assert steps(desk, "a", 2) == {}
    desk.feed(EDGE, m.Watch(req=3, on=False))
    assert not desk.core.state.steps.of_all


class WatchedHarness(CoreHarness):
    """Compares each event with the views of its jobs, and keeps what was told."""

    def __init__(self) -> None:
        super().__init__(Policy(draft_expires_s=50.0))
        self.reported: list[m.JobView] = []
        self.core.set_calendar(Calendar(ahead_s=1e6))
        self.feed(b"f-watcher", m.Watch(req=1))

    def apply(self, effects):
        effects = super().apply(effects)
        for event in sent(effects, m.Event):
            for view in codec.event_views(event.body):
                assert view == views.job_view(self.core.state, self.job(view.id), self.now)
                self.reported.append(view)
        return effects


def test_an_event_has_every_field_of_a_view_but_those_that_no_event_tells():
    fields = {
        kind: {one.name: (one.type, one.default) for one in msgspec.structs.fields(kind)}
        for kind in (m.JobView, bodies.JobUpdate)
    }
    untold = {"history", "body", "deliveries", "set_aside", "damaged"}
    assert fields[bodies.JobUpdate] == {name: of for name, of in fields[m.JobView].items() if name not in untold}


def test_an_event_tells_what_the_views_of_its_jobs_do():
    desk = WatchedHarness()
    desk.hello("w1", body=worker_info(resumes=True))
    fields = {"units": UNIT, "steps": 10}
    desk.submit("first", **fields)
    desk.submit("waits", **fields, webhook="http://there/", deadline_s=500.0)
    desk.tick(1.0)
    desk.finish("w1", "first")
    desk.start("w1", "waits")
    desk.beat("w1", m.Held(job_id="waits", fence=desk.job("waits").fence, phase="denoise", step=4, total=10, kept=2))
    desk.submit("promised", **fields, promise=m.PromiseWish(within_s=600.0))
    desk.submit("draft", **fields, draft_steps=5)
    desk.fail("w1", "waits", "out_of_memory")  # and waits for another attempt
    desk.start("w1", "promised")
    desk.cancel("promised")
    desk.feed(peer_of("w1"), m.Cancelled(job_id="promised", fence=desk.job("promised").fence, free=1))
    desk.start("w1", "draft")
    desk.hand_back("w1", "draft", kept=5)
    desk.tick(60.0)
    reported = desk.reported
    assert {view.state for view in reported} == set(m.JobStateName.__args__)
    for field in ("eta_s", "ready_by", "deadline_at", "kept", "step", "parking", "failure", "result", "promise"):
        assert any(getattr(view, field) not in (None, 0, -1) for view in reported), field
    assert {view.position for view in reported} >= {-1, 0, 1}
    assert any(view.cancel_requested for view in reported)
