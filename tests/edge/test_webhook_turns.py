"""Whose turn a webhook delivery is: hosts and tenants share the places, slow hosts get few, and nothing is kept too long."""

from __future__ import annotations

from http_edge.background.webhook_turns import AT_ONCE, WAIT_S, WAITING, Turn, Turns


def turns(*deliveries: tuple[str, str]) -> Turns[int]:
    found: Turns[int] = Turns()
    for number, (host, tenant) in enumerate(deliveries):
        found.add(Turn(host, tenant), number, 0.0)
    return found


def hosts(begun: list[tuple[Turn, int]]) -> dict[str, int]:
    names = [turn.host for turn, _ in begun]
    return {name: names.count(name) for name in names}


def test_a_host_has_a_few_places_and_gets_them_back() -> None:
    some = turns(*[("hung", "red")] * 10, ("good", "red"))
    begun = some.ready(0.0)
    assert hosts(begun) == {"hung": 4, "good": 1}
    assert some.ready(1.0) == []
    some.ended(begun[0][0], 0.1, 1.0)
    assert [number for _, number in some.ready(1.0)] == [4]


def test_hosts_take_turns() -> None:
    some = turns(*[("a", "red")] * 3, *[("b", "red")] * 3)
    assert [turn.host for turn, _ in some.ready(0.0)] == ["a", "b", "a", "b", "a", "b"]


def test_a_tenant_has_half_of_the_places() -> None:
    some = turns(*[(f"host-{number}", "red") for number in range(300)], ("good", "blue"), ("host-299", "blue"))
    begun = some.ready(0.0)
    tenants = [turn.tenant for turn, _ in begun]
    assert (tenants.count("red"), tenants.count("blue")) == (AT_ONCE // 2, 2)


def test_a_slow_host_has_one_place_until_it_is_quick_again_or_forgotten() -> None:
    some = turns(("hung", "red"))
    ((turn, _),) = some.ready(0.0)
    some.ended(turn, 20.0, 20.0)
    back = [some.add(turn, number, 20.0) for number in range(5)]
    assert back[:2] == [None, None]
    assert 5.0 < back[2] < back[3] < back[4]  # type: ignore[operator]
    assert len(some.ready(20.0)) == 1
    some.ended(turn, 0.1, 21.0)
    for number in range(5):
        some.add(turn, number, 21.0)
    assert len(some.ready(21.0)) == 4


def test_slow_hosts_together_have_a_quarter_of_the_places() -> None:
    names = [f"hung-{number}" for number in range(100)]
    some = turns(*[(name, name) for name in names])
    for turn, _ in some.ready(0.0):
        some.ended(turn, 20.0, 20.0)
    for name in names:
        some.add(Turn(name, name), 0, 20.0)
    assert len(some.ready(20.0)) == AT_ONCE // 4
    assert len(some.ready(1000.0)) == len(names) - AT_ONCE // 4


def test_what_waits_too_long_goes_back_and_the_more_the_later() -> None:
    some = turns(*[("hung", "red")] * 30)
    assert hosts(some.ready(0.0)) == {"hung": 4}
    assert some.overdue(WAIT_S - 0.1) == []
    assert some.next_overdue() == WAIT_S
    back = some.overdue(WAIT_S)
    # Of thirty, fourteen had gone back at once.
    assert [number for number, _ in back] == list(range(4, 16))
    assert [after_s for _, after_s in back] == sorted(after_s for _, after_s in back)
    assert some.next_overdue() is None
    assert some.room == WAITING


def test_no_more_wait_than_there_is_room_for() -> None:
    some = turns(*[(f"host-{number}", "red") for number in range(WAITING)])
    assert some.room == 0
    assert some.add(Turn("good", "blue"), 0, 0.0) is not None
