"""Specs of the jobs far back in the queue are left on disk, and nobody can tell."""

from __future__ import annotations

from broker.core.policy import Policy
from broker.testing import CoreHarness, sent
from broker.wire import messages as m

TWO = Policy(live_bodies=2)


def in_memory(harness: CoreHarness) -> list[str]:
    return [job.id for job in harness.core.state.jobs.values() if job.body]


def run_bodies(effects) -> list[bytes]:
    return [effect.message.body for effect in effects if isinstance(getattr(effect, "message", None), m.Run)]


def filled(policy: Policy = TWO) -> CoreHarness:
    """Five jobs wait, nobody works."""
    harness = CoreHarness(policy)
    for number in range(5):
        harness.submit(f"j{number}", f"spec {number}".encode())
    return harness


def test_only_the_first_specs_stay_in_memory() -> None:
    assert in_memory(filled()) == ["j0", "j1"]


def test_the_bound_is_in_bytes_too() -> None:
    assert in_memory(filled(Policy(live_body_bytes=15))) == ["j0", "j1"]


def test_a_job_whose_spec_was_left_on_disk_starts_with_it() -> None:
    harness = filled()
    spec_cache = run_bodies(harness.hello("w1", free=1))
    for number in range(5):
        harness.start("w1", f"j{number}")
        spec_cache += run_bodies(harness.finish("w1", f"j{number}"))
    assert spec_cache == [f"spec {number}".encode() for number in range(5)]


def test_an_attempt_that_is_sent_twice_comes_with_it_twice() -> None:
    harness = filled()
    harness.hello("w1")
    harness.start("w1", "j0")
    harness.finish("w1", "j0")
    harness.start("w1", "j1")
    harness.finish("w1", "j1")
    again = harness.tick(2.0) + harness.beat("w1", seen=0)
    assert run_bodies(again) == [b"spec 2"]


def test_records_show_it() -> None:
    harness = filled()
    assert [harness.view(f"j{number}").body for number in range(5)] == [
        f"spec {number}".encode() for number in range(5)
    ]


def test_a_repeated_submit_is_compared_with_it() -> None:
    harness = filled()
    again = harness.submit("j4", b"spec 4")
    assert isinstance(again, m.Accepted)
    assert again.duplicate
    refused = harness.submit("j4", b"another")
    assert isinstance(refused, m.Rejected)
    assert refused.code == "id_conflict"


def test_a_cancelled_one_keeps_its_record() -> None:
    harness = filled()
    assert harness.cancel("j4") == "cancelled"
    view = harness.view("j4")
    assert (view.state, view.body) == ("cancelled", b"spec 4")


def test_after_a_restart_all_are_on_disk() -> None:
    harness = filled()
    harness.restart()
    assert in_memory(harness) == []
    effects = harness.hello("w1")
    assert run_bodies(effects) == [b"spec 0"]
    assert in_memory(harness) == []
    assert not sent(effects, m.Identify)
