"""The memory of job views, listeners, and the progress number, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.jobspec import JobSpec, Phase, encode_spec
from broker.wire.messages import JobView
from broker.wire.submission import Submission
from http_edge.base.errors import EdgeError
from http_edge.base.settings import EdgeSettings
from http_edge.jobs import hub
from http_edge.jobs.hub import Hub, Memory
from http_edge.jobs.job import Job
from http_edge.jobs.progress import of_view
from http_edge.jobs.service import JobService
from http_edge.media.exports import Exports
from tests.support.waiting import eventually
from tests.testing.fake_broker import EPOCH, NO_IMAGES, FakeBroker

SPEC = JobSpec(model="demo", output="video", prompt="x", width=64, height=64, num_inference_steps=1, seed=1)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def view(revision: int, state: str = "running", **fields: Any) -> JobView:
    return JobView(id="j", state=state, submission=Submission(model="demo"), revision=revision, **fields)


def job(revision: int, state: str = "running", **fields: Any) -> Job:
    return Job(view=view(revision, state, body=encode_spec(SPEC), **fields), spec=SPEC)


@pytest.mark.parametrize(("state", "fresh_s"), [("queued", 0.25), ("assigned", 0.25), ("running", 1.0)])
def test_a_live_job_is_believed_for_a_moment(state: str, fresh_s: float) -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.put(job(1, state))
    clock.now += fresh_s
    assert memory.get("j") is not None
    clock.now += 0.01
    assert memory.get("j") is None


def test_a_final_job_is_believed_for_good() -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.put(job(1, "failed"))
    clock.now += 1e6
    assert memory.get("j") is not None


def test_an_event_renews_a_running_job_and_keeps_its_spec() -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.put(job(1))
    clock.now += 0.9
    memory.update(view(2, step=3))
    clock.now += 0.9
    held = memory.get("j")
    assert held is not None
    assert (held.view.step, held.spec, held.view.body) == (3, SPEC, encode_spec(SPEC))


def test_an_older_event_changes_nothing() -> None:
    memory = Memory(Clock())
    memory.put(job(5, step=5))
    memory.update(view(4, step=4))
    held = memory.get("j")
    assert held is not None
    assert held.view.step == 5


@pytest.mark.parametrize("change", [{"state": "succeeded"}, {"attempts": 2}, {"cancel_requested": True}])
def test_a_change_of_standing_is_asked_for_anew(change: dict[str, Any]) -> None:
    memory = Memory(Clock())
    memory.put(job(1))
    memory.update(view(2, **change))
    assert memory.get("j") is None


def test_an_answer_that_an_event_overtook_is_not_kept() -> None:
    memory = Memory(Clock())
    memory.update(view(7, "succeeded"))
    memory.put(job(6))
    assert memory.get("j") is None
    memory.put(job(7, "succeeded"))
    memory.put(job(6))
    held = memory.get("j")
    assert held is not None
    assert held.view.state == "succeeded"


def test_memory_is_bounded_in_jobs_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_MAX_KEPT", 3)
    memory = Memory(Clock())

    def put(name: str, size: int = 10) -> None:
        memory.put(
            Job(
                view=JobView(id=name, state="failed", submission=Submission(model="m"), revision=1, body=bytes(size)),
                spec=None,
            )
        )

    for name in "abcd":
        put(name)
    assert [name for name in "abcd" if memory.get(name)] == ["b", "c", "d"]
    monkeypatch.setattr(hub, "_MAX_KEPT_BYTES", 100)
    put("big", 95)
    assert [name for name in ("b", "c", "d", "big") if memory.get(name)] == ["big"]
    put("big", 20)
    put("e", 80)
    assert memory.get("big") is not None


# ---------------------------------------------------------------- waiting


class Edge:
    """Calls over a fake broker with one running job."""

    def __init__(self, home: Path) -> None:
        self.broker = FakeBroker(home / "artefacts")
        self.broker.jobs["j"] = view(EPOCH, body=encode_spec(SPEC))
        self.hub = Hub()
        self.broker.attach(self.hub)
        settings = EdgeSettings(home=str(home))
        exports = Exports(home, home, (home,))
        self.calls = JobService(settings, self.broker, self.hub, NO_IMAGES, exports)  # type: ignore[arg-type]


def run(scenario: Callable[[Edge], Coroutine[Any, Any, None]], home: Path) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario(Edge(home))

    asyncio.run(bounded())


def test_a_wait_ends_with_the_job(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        asyncio.get_running_loop().call_later(0.01, edge.broker.stop, "j")
        assert await edge.calls.follower.wait_final(["j"], 10.0)
        assert edge.hub.listeners == 0

    run(scenario, tmp_path)


def test_a_wait_has_an_end_of_its_own(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        assert not await edge.calls.follower.wait_final(["j"], 0.01)
        assert edge.hub.listeners == 0

    run(scenario, tmp_path)


def test_a_wait_gives_up_when_the_edge_stops(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        asyncio.get_running_loop().call_later(0.01, edge.hub.close)
        assert not await edge.calls.follower.wait_final(["j"], 10.0)

    run(scenario, tmp_path)


def test_a_wait_for_nobody_is_an_error(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        with pytest.raises(EdgeError, match="does not exist"):
            await edge.calls.follower.wait_final(["nobody"], 1.0)

    run(scenario, tmp_path)


def test_a_job_that_finished_before_the_wait_ends_it_at_once(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        edge.broker.stop("j")
        assert await edge.calls.follower.wait_final(["j", "j"], 10.0)

    run(scenario, tmp_path)


def test_a_spec_of_a_newer_edge_is_shown_as_unknown(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        edge.broker.jobs["j"] = view(EPOCH, body=msgspec.msgpack.encode({"model": 5}))
        assert (await edge.calls.jobs.get("j")).spec is None

    run(scenario, tmp_path)


def test_whoever_follows_a_job_gets_the_same_job_of_an_event(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        followers = [edge.calls.follower.follow("j", 10.0) for _ in range(3)]
        assert [(await anext(follower)).view.step for follower in followers] == [0, 0, 0]
        edge.broker.step("j", 1)
        reported = [await anext(follower) for follower in followers]
        assert reported[0].view.step == 1
        # What is made of it for one stream is there for all.
        assert {id(job) for job in reported} == {id(reported[0])}
        late = edge.calls.follower.follow("j", 10.0)
        assert (await anext(late)).view.step == 1
        for follower in (*followers, late):
            await follower.aclose()
        assert edge.hub.listeners == 0

    run(scenario, tmp_path)


def test_a_listener_waits_as_long_as_it_was_told_whatever_it_waited_for_before(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        loop = asyncio.get_running_loop()
        with edge.hub.listen("j") as listener:
            listener.subscribe_steps()
            first = await listener.next(60.0)
            assert first is not None
            assert first.step == 0
            for step in (1, 2):
                loop.call_soon(edge.broker.step, "j", step)
                view = await listener.next(60.0)
                assert view is not None
                assert view.step == step
                # Longer than this scenario may take, were it the first wait's time.
                assert await listener.next(0.02) is None
                assert await listener.next(0.03) is None
            listener.wake()
            assert await listener.next(5.0) is None

    run(scenario, tmp_path)


def test_answers_kept_with_a_job_do_not_outlive_it() -> None:
    kept = job(1)
    assert kept.json("a", lambda one: one.view.step) == b"0"
    assert kept.json("a", lambda one: 99) == b"0"
    assert kept.json("b", lambda one: 7) == b"7"
    for later in (kept.moved_to(view(2, step=5)), kept.unsaved("disk full")):
        assert later.json("a", lambda one: [one.view.step, one.save_error]) in (b'[5,""]', b'[0,"disk full"]')


# ---------------------------------------------------------------- steps


def test_steps_are_asked_for_while_somebody_reads_them(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        one, two = (edge.calls.follower.follow("j", 10.0) for _ in range(2))
        await anext(one)
        assert edge.broker.followed == {"j"}
        await anext(two)
        edge.broker.step("j", 3)
        news = await anext(one)
        assert news is not None
        assert news.view.step == 3
        await one.aclose()
        assert edge.broker.followed == {"j"}
        await two.aclose()
        assert edge.broker.followed == set()

    run(scenario, tmp_path)


def test_a_wait_asks_for_no_steps_and_neither_does_a_stream_of_what_is_over(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        waiting = asyncio.create_task(edge.calls.follower.wait_final(["j"], 10.0))
        await eventually(lambda: edge.hub.listeners)
        edge.broker.step("j", 1)
        assert edge.broker.followed == set()
        edge.broker.stop("j")
        assert await waiting
        stream = edge.calls.follower.follow("j", 10.0)
        last = await anext(stream)
        assert last is not None
        assert last.is_final
        assert edge.broker.followed == set()
        await stream.aclose()

    run(scenario, tmp_path)


def test_a_job_that_is_polled_is_followed_until_it_is_not() -> None:
    clock, followed = Clock(), []
    hub = Hub(clock)
    hub.steps.on_interest(followed.append, followed.remove)
    assert hub.job_for_client("j") is None
    hub.memory.put(job(1))
    assert followed == []
    clock.now += 2.0
    assert hub.job_for_client("j") is None
    assert followed == ["j"]
    hub.on_event(view(2, step=1))
    clock.now += 0.9
    assert hub.job_for_client("j") is not None
    clock.now += 5.1
    hub.on_event(view(3, step=2))
    assert followed == []


def test_a_job_that_is_asked_for_now_and_then_is_not_followed() -> None:
    clock, followed = Clock(), []
    hub = Hub(clock)
    hub.steps.on_interest(followed.append, followed.remove)
    for state in ("running", "queued"):
        for _ in range(3):
            hub.job_for_client("j")
            hub.memory.put(job(1, state))
            clock.now += 6.1 if state == "running" else 1.0
    assert followed == []


def test_a_polled_job_that_ends_is_followed_no_more_unless_a_stream_does() -> None:
    clock, followed = Clock(), []
    hub = Hub(clock)
    hub.steps.on_interest(followed.append, followed.remove)
    hub.memory.put(job(1))
    clock.now += 2.0
    hub.job_for_client("j")
    with hub.listen("j") as listener:
        listener.subscribe_steps()
        assert followed == ["j"]
        hub.on_event(view(2, "failed"))
        assert followed == ["j"]
    assert followed == []


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("phase", "step", "total", "expected"),
    [
        ("", 0, 0, 0),
        ("load", 0, 0, 0),
        ("encode", 0, 0, 2),
        ("denoise", 0, 8, 5),
        ("denoise", 8, 8, 90),
        ("denoise", 9, 8, 90),
        ("decode", 1, 5, 91),
        ("save", 0, 0, 97),
        ("finished", 0, 0, 99),
        ("", 4, 8, 47),  # it is over, after so many steps
    ],
)
def test_each_phase_has_its_share(phase: Phase, step: int, total: int, expected: int) -> None:
    assert of_view(view(1, phase=phase, step=step, total=total)) == expected
