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
    harness = CoreHarness()
    base = harness.ask(m.Watch(req=1), m.Watching).seq
    harness.hello("w1")
    harness.submit("a")
    harness.start("w1", "a")
    fence = harness.job("a").fence
    seqs = [e.seq for e in sent(harness.effects, m.Event)]
    for step in (1, 2):
        held = m.Held(job_id="a", fence=fence, phase="denoise", step=step, total=2)
        seqs += [e.seq for e in sent(harness.beat("w1", held, seen=fence), m.Event)]
    assert seqs == [base + 2, base + 3, base + 4]
    assert not sent(harness.beat("w1", held, seen=fence), m.Event)  # nothing changed
    assert harness.ask(m.Watch(req=2), m.Watching).seq == base + 4
    harness.ask(m.Watch(req=3, on=False), m.Watching)
    assert not sent(harness.finish("w1", "a"), m.Event)
    assert harness.ask(m.Watch(req=4), m.Watching).seq > base + 4


def test_a_stream_begins_at_a_number_that_none_had_before_also_behind_events_that_told_of_no_change():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1, steps=False))
    harness.running("a")
    reported = [sent(harness.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)[0].seq for _ in range(50)]
    harness.feed(EDGE, m.Watch(req=2, on=False))
    assert harness.ask(m.Watch(req=3, steps=False), m.Watching).seq > reported[-1]


def one_pass(harness, *messages):
    """What watchers are told after several messages of one pass."""
    effects = [
        effect
        for peer, message in messages
        for effect in feed(harness.core, harness.archive, peer, message, harness.now)
    ]
    harness.apply(effects)
    return [
        e.message for e in harness.effects if isinstance(e, Send) and isinstance(e.message, m.Event | m.JobsDeleted)
    ]


def test_watchers_are_told_of_a_pass_in_one_event_each_job_as_it_is_then():
    harness = CoreHarness()
    base = harness.ask(m.Watch(req=1), m.Watching).seq
    harness.running("a")
    (event,) = one_pass(
        harness,
        (EDGE, submit_message("b", b"spec", 2)),
        (peer_of("w1"), m.Finished(job_id="a", fence=harness.job("a").fence, free=1, run_s=2.0, body=RESULT)),
        (EDGE, submit_message("c", b"spec", 3)),
    )
    assert event.seq == base + 3
    shown = {view.id: (view.state, view.revision) for view in codec.event_views(event.body)}
    assert shown == {name: (harness.state(name), harness.job(name).revision) for name in ("a", "b", "c")}
    assert [shown[name][0] for name in ("a", "b", "c")] == ["succeeded", "assigned", "queued"]


def test_an_event_is_of_so_many_jobs_at_most():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1))
    events = one_pass(harness, *((EDGE, submit_message(f"j{n}", b"spec", n)) for n in range(2 * EVENT_JOBS + 1)))
    reported = [[view.id for view in codec.event_views(event.body)] for event in events]
    assert [len(ids) for ids in reported] == [EVENT_JOBS, EVENT_JOBS, 1]
    assert [job_id for ids in reported for job_id in ids] == [f"j{n}" for n in range(2 * EVENT_JOBS + 1)]
    assert [event.seq - events[0].seq for event in events] == [0, 1, 2]


def test_a_job_that_ends_and_is_deleted_in_one_pass_is_told_to_be_gone_alone():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1))
    harness.submit("a")
    reported = one_pass(harness, (EDGE, m.CancelJob(req=2, job_id="a")), (EDGE, m.ForgetJobs(req=3, job_ids=("a",))))
    assert [type(message) for message in reported] == [m.JobsDeleted]


# ---------------------------------------------------------------- steps

OTHER = b"fedge-2"


def steps(harness, job_id, step, worker="w1"):
    """What each edge is told of a step: the views by peer."""
    fence = harness.job(job_id).fence
    held = m.Held(job_id=job_id, fence=fence, phase="denoise", step=step, total=9)
    reported: dict[bytes, list[m.JobView]] = {}
    for effect in harness.beat(worker, held, seen=fence):
        if isinstance(effect, Send) and isinstance(effect.message, m.Event):
            reported.setdefault(effect.peer, []).extend(codec.event_views(effect.message.body))
    return {peer: [(view.id, view.step) for view in views] for peer, views in reported.items()}


def test_an_edge_is_told_of_the_steps_of_jobs_that_it_follows():
    harness = CoreHarness()
    for peer in (EDGE, OTHER):
        harness.feed(peer, m.Watch(req=1, steps=False))
    harness.running("a")
    harness.running("b", "w2")
    assert steps(harness, "a", 1) == {}
    # Where it is comes at once: the step before may have been its last for long.
    (event,) = sent(harness.feed(EDGE, m.Follow(job_ids=("a", "nobody"))), m.Event)
    assert [(view.id, view.step) for view in codec.event_views(event.body)] == [("a", 1)]
    assert steps(harness, "a", 2) == {EDGE: [("a", 2)]}
    assert steps(harness, "b", 1, "w2") == {}
    harness.feed(OTHER, m.Follow(job_ids=("b", "a")))
    assert steps(harness, "a", 3) == {EDGE: [("a", 3)], OTHER: [("a", 3)]}
    harness.feed(EDGE, m.Follow(job_ids=("a",), on=False))
    assert steps(harness, "a", 4) == {OTHER: [("a", 4)]}
    harness.feed(OTHER, PeerGone())
    assert steps(harness, "a", 5) == {}
    # States are told to all who watch.
    (event,) = sent(harness.finish("w1", "a"), m.Event)
    assert [view.state for view in codec.event_views(event.body)] == ["succeeded"]


def test_numbers_have_no_gap_whatever_is_told():
    harness = CoreHarness()
    seqs = [harness.ask(m.Watch(req=1, steps=False), m.Watching).seq]
    harness.running("a")
    seqs += [event.seq for event in sent(harness.effects, m.Event)]
    for message in (m.Follow(job_ids=("a",)), m.Follow(job_ids=("a",))):
        seqs += [event.seq for event in sent(harness.feed(EDGE, message), m.Event)]
    steps(harness, "a", 1)
    seqs += [event.seq for event in sent(harness.effects, m.Event)]
    seqs.append(harness.ask(m.Watch(req=2, steps=False), m.Watching).seq)
    assert seqs[-1] == seqs[-2]
    assert [after - before for before, after in zip(seqs[-5:], seqs[-4:], strict=False)] == [1, 1, 1, 0]


def test_who_does_not_watch_follows_nothing_and_a_job_that_is_over_is_not_followed():
    harness = CoreHarness()
    harness.running("a")
    assert not sent(harness.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)
    harness.feed(EDGE, m.Watch(req=1, steps=False))
    harness.feed(EDGE, m.Follow(job_ids=("a",)))
    harness.finish("w1", "a")
    assert not harness.core.state.steps.followers
    assert not sent(harness.feed(EDGE, m.Follow(job_ids=("a",))), m.Event)
    assert not harness.core.state.steps.followers


def test_a_step_before_an_end_in_the_same_pass_is_told_with_the_end_alone():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1, steps=False))
    fence = harness.running("a")
    harness.feed(EDGE, m.Follow(job_ids=("a",)))
    held = m.Held(job_id="a", fence=fence, phase="denoise", step=1, total=2)
    (event,) = one_pass(
        harness,
        (peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(held,))),
        (peer_of("w1"), m.Finished(job_id="a", fence=fence, free=1, run_s=2.0, body=RESULT)),
    )
    assert [view.state for view in codec.event_views(event.body)] == ["succeeded"]


def test_many_followed_steps_of_a_pass_come_in_few_events():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1, steps=False))
    names = [f"j{n}" for n in range(EVENT_JOBS + 1)]
    for name in names:
        harness.running(name, f"w-{name}")
        harness.feed(EDGE, m.Follow(job_ids=(name,)))
    beats = []
    for name in names:
        fence = harness.job(name).fence
        held = m.Held(job_id=name, fence=fence, phase="denoise", step=1, total=2)
        beats.append((peer_of(f"w-{name}"), m.Heartbeat(seen=fence, free=0, held=(held,))))
    assert [len(codec.event_views(event.body)) for event in one_pass(harness, *beats)] == [EVENT_JOBS, 1]


def test_who_wants_all_steps_gets_them_until_it_wants_fewer():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1))
    harness.running("a")
    assert steps(harness, "a", 1) == {EDGE: [("a", 1)]}
    harness.feed(EDGE, m.Watch(req=2, steps=False))
    assert steps(harness, "a", 2) == {}
    harness.feed(EDGE, m.Watch(req=3, on=False))
    assert not harness.core.state.steps.of_all


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
    harness = WatchedHarness()
    harness.hello("w1", body=worker_info(resumes=True))
    fields = {"units": UNIT, "steps": 10}
    harness.submit("first", **fields)
    harness.submit("waits", **fields, webhook="http://there/", deadline_s=500.0)
    harness.tick(1.0)
    harness.finish("w1", "first")
    harness.start("w1", "waits")
    harness.beat(
        "w1", m.Held(job_id="waits", fence=harness.job("waits").fence, phase="denoise", step=4, total=10, kept=2)
    )
    harness.submit("promised", **fields, promise=m.PromiseWish(within_s=600.0))
    harness.submit("draft", **fields, draft_steps=5)
    harness.fail("w1", "waits", "out_of_memory")  # and waits for another attempt
    harness.start("w1", "promised")
    harness.cancel("promised")
    harness.feed(peer_of("w1"), m.Cancelled(job_id="promised", fence=harness.job("promised").fence, free=1))
    harness.start("w1", "draft")
    harness.hand_back("w1", "draft", kept=5)
    harness.tick(60.0)
    reported = harness.reported
    assert {view.state for view in reported} == set(m.JobStateName.__args__)
    for field in ("eta_s", "ready_by", "deadline_at", "kept", "step", "parking", "failure", "result", "promise"):
        assert any(getattr(view, field) not in (None, 0, -1) for view in reported), field
    assert {view.position for view in reported} >= {-1, 0, 1}
    assert any(view.cancel_requested for view in reported)
