"""Expensive reads: clients take turns for few places, and what has no turn in time is refused in the family's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from http_edge.http import read_turns
from http_edge.http.read_turns import AT_ONCE, OF_CLIENT, WAITING_OF_CLIENT, ReadTurns
from http_edge.jobs.slices import in_slices
from tests.edge.conftest import World


def test_a_greedy_clients_fiftieth_page_waits_while_anothers_first_is_served() -> None:
    turns: ReadTurns[str] = ReadTurns()
    standings = [turns.enter("greedy", f"greedy {number}") for number in range(50)]
    assert standings == ["begins"] * OF_CLIENT + ["waits"] * (50 - OF_CLIENT)
    assert turns.enter("other", "other 0") == "begins"


def test_clients_that_wait_take_turns_and_each_is_served_in_order() -> None:
    turns: ReadTurns[str] = ReadTurns()
    for client in ("a", "b"):
        for number in range(OF_CLIENT + 3):
            turns.enter(client, f"{client}{number}")
    assert turns.enter("c", "c0") == "waits"
    begun: list[str] = []
    for client in ("a", "b", "a", "a", "b", "b"):
        begun += turns.leave(client)
    # c has its turn as soon as a place is free that it may have, whoever was here before it.
    assert begun.index("c0") <= AT_ONCE
    for client in ("a", "b"):
        own = [read for read in begun if read[0] == client]
        assert own == sorted(own)
        assert own[0] == f"{client}{OF_CLIENT}"


def test_a_client_that_waits_for_enough_is_refused_and_others_are_not() -> None:
    turns: ReadTurns[int] = ReadTurns()
    for number in range(OF_CLIENT + WAITING_OF_CLIENT):
        assert turns.enter("a", number) != "refused"
    assert turns.enter("a", -1) == "refused"
    assert turns.enter("b", -2) == "begins"


def test_what_was_withdrawn_has_no_turn() -> None:
    turns: ReadTurns[str] = ReadTurns()
    for name in ("begun", "also begun", "gone", "next"):
        turns.enter("a", name)
    turns.withdraw("a", "gone")
    assert turns.leave("a") == ["next"]
    assert turns.leave("a") == turns.leave("a") == []
    assert turns.enter("a", "later") == "begins"


class _Held:
    """Holds the broker's answers to lists back until it is told to let them go."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self._free = asyncio.Event()
        answer: Callable[..., Awaitable[Any]] = world.fake.search

        async def held(*args: Any, **fields: Any) -> Any:
            self.asked += 1
            await self._free.wait()
            return await answer(*args, **fields)

        monkeypatch.setattr(world.fake, "search", held)

    def let_go(self) -> None:
        self._free.set()


async def _requests(world: World, address: str, paths: list[str]) -> list[asyncio.Task[httpx.Response]]:
    """Requests of one client, all begun."""
    transport = httpx.ASGITransport(world.http.app, client=(address, 1))
    http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    tasks = [asyncio.create_task(http.get(path)) for path in paths]
    for _ in range(20):
        await asyncio.sleep(0)
    return tasks


def test_what_is_cheap_and_what_others_ask_is_answered_beside_a_client_that_asks_for_many_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.submit()

    async def scene() -> None:
        held = _Held(world, monkeypatch)
        pages = ["/v1/jobs", "/v1/videos", "/v1/tasks", "/v1/local/video/generate/get_all_tasks", "/api/v1/task/list"]
        greedy = await _requests(world, "192.0.2.1", pages * 10)
        assert held.asked == OF_CLIENT
        # The same client's status is no page, and another's page has its own place.
        (status,) = await _requests(world, "192.0.2.1", [f"/v1/jobs/{job['id']}"])
        assert (await status).status_code == 200
        (other,) = await _requests(world, "192.0.2.2", ["/v1/jobs"])
        assert held.asked == OF_CLIENT + 1
        held.let_go()
        assert {(await one).status_code for one in (*greedy, other)} == {200}

    assert world.http.portal is not None
    world.http.portal.call(scene)


def test_a_read_that_has_no_turn_in_time_is_429_in_its_familys_shape(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_turns, "WAIT_S", 0.0)

    async def scene() -> None:
        held = _Held(world, monkeypatch)
        first = await _requests(world, "192.0.2.1", ["/v1/jobs"] * OF_CLIENT)
        late = await _requests(world, "192.0.2.1", ["/v1/jobs", "/v1/videos", "/v1/tasks", "/metrics"])
        answers = [await one for one in late]
        for answer in answers:
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "2"
            assert answer.json()["error"]["code"] == "too_many_requests"
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert answers[1].headers["content-type"] == "application/json"
        held.let_go()
        assert {(await one).status_code for one in first} == {200}
        (again,) = await _requests(world, "192.0.2.1", ["/v1/jobs"])
        assert (await again).status_code == 200

    assert world.http.portal is not None
    world.http.portal.call(scene)


def test_a_client_that_left_while_it_waited_has_no_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        held = _Held(world, monkeypatch)
        first = await _requests(world, "192.0.2.1", ["/v1/jobs"] * OF_CLIENT)
        gone = asyncio.Event()
        sent: list[int] = []

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("status", 0))

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/jobs",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("192.0.2.1", 1),
            "scheme": "http",
            "http_version": "1.1",
            "server": ("localhost", 80),
        }
        leaving = asyncio.create_task(world.http.app(scope, receive, send))
        for _ in range(20):
            await asyncio.sleep(0)
        gone.set()
        await leaving
        assert sent[0] == 499
        held.let_go()
        assert {(await one).status_code for one in first} == {200}
        assert held.asked == OF_CLIENT

    assert world.http.portal is not None
    world.http.portal.call(scene)


def test_work_on_many_jobs_lets_others_run_in_between() -> None:
    async def scene() -> list[int]:
        served: list[int] = []
        made: list[int] = []

        async def other() -> None:
            while len(made) < 100:
                served.append(len(made))
                await asyncio.sleep(0)

        def make(number: int) -> int:
            made.append(number)
            return number

        beside = asyncio.create_task(other())
        assert await in_slices(range(100), make) == list(range(100))
        await beside
        return served

    assert len(asyncio.run(scene())) > 3
