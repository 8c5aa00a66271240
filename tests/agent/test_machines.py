"""Leader and rank hosts of a group over several machines, as decisions: what is said, what is started, what is over."""

from __future__ import annotations

import pytest

from broker.wire.device import DeviceHealth
from broker.wire.failures import FailureKind
from broker.wire.jobspec import ModelCard
from workers.agent.effects import Stats
from workers.agent.machines import combined
from workers.ipc.messages import JobFailed, LoadFailed, Setup
from workers.machines import host as h
from workers.machines.host import Host
from workers.machines.leader import End, Leader, Sent
from workers.machines.messages import (
    PROTOCOL,
    Beat,
    Device,
    Dismiss,
    FromRank,
    Join,
    Leave,
    LifeOrder,
    LifeState,
    MessageError,
    Orders,
    Refuse,
    SetUp,
    Wait,
    encode,
    to_host,
    to_leader,
)
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_SETTINGS, EXIT_UNWANTED

SETUP = Setup(models=(ModelCard(name="demo", engine="fake", output="video"),), preload="demo", device="cpu")
FAILED = LoadFailed(model="demo", message="there are no weights")


def join(boot: str = "b1", ranks: int = 2, protocol: int = PROTOCOL, name: str = "host-b") -> Join:
    return Join(protocol=protocol, boot=boot, host=name, ranks=ranks)


def running(life: int = 1, boot: str = "b1", ranks: int = 2) -> Beat:
    return Beat(boot=boot, latest_life=life, lives=(LifeState(life=life, ends=(None,) * ranks),))


@pytest.fixture
def leader() -> Leader:
    """Of two machines with two GPUs each."""
    return Leader("L", 2, 2)


def started(leader: Leader, now: float = 0.0) -> int:
    """A life on both machines, as the other one confirms."""
    leader.receive(b"p", join(), now)
    life = leader.start("10.0.0.1", 21_000, "", "")
    leader.tick(now)
    leader.receive(b"p", running(life), now)
    return life


# ------------------------------------------------------------------ the leader


def test_a_group_waits_until_all_its_machines_are_there(leader: Leader) -> None:
    assert leader.waits_for(0.0) == "waiting for 1 of 2 machines"
    assert leader.receive(b"p", join(), 0.0) == [Sent(b"p", Orders(leader="L"))]
    assert leader.waits_for(0.0) == ""
    # One that is quiet is not started on, and keeps its place.
    assert leader.waits_for(3.0) == "waiting for 1 of 2 machines"
    leader.tick(3.0)
    leader.receive(b"p", Beat(boot="b1"), 3.5)
    assert leader.waits_for(3.5) == ""


def test_a_machine_that_is_quiet_is_not_named_among_those_that_are_there() -> None:
    leader = Leader("L", 3, 2)
    leader.receive(b"p", join("b1", name="host-b"), 0.0)
    leader.receive(b"q", join("b2", name="host-c"), 0.0)
    assert leader.there(0.0) == ["host-b", "host-c"]
    leader.receive(b"q", Beat(boot="b2"), 3.0)
    assert leader.there(3.0) == ["host-c"]


def test_ranks_are_numbered_by_place_and_told_where_rank_0_listens() -> None:
    leader = Leader("L", 3, 2)
    leader.receive(b"p", join("b1"), 0.0)
    leader.receive(b"q", join("b2"), 0.0)
    assert leader.start("10.0.0.1", 21_000, "video:WanPipeline", "torchao") == 1
    orders = {one.peer: one.message for one in leader.tick(0.0)}
    for peer, first in ((b"p", 2), (b"q", 4)):
        order = LifeOrder(
            life=1, first=first, of=6, host="10.0.0.1", port=21_000, imports="video:WanPipeline", without="torchao"
        )
        assert orders[peer] == Orders(leader="L", lives=(order,))


def test_the_setup_follows_the_order_and_is_sent_again_until_it_has_arrived(leader: Leader) -> None:
    life = started(leader)
    leader.set_up(life, SETUP)
    said = [type(one.message) for one in leader.tick(0.1)]
    assert said == [Orders, SetUp]
    assert leader.tick(0.2) == []
    assert [type(one.message) for one in leader.tick(1.2)] == [Orders, SetUp]
    leader.receive(
        b"p", Beat(boot="b1", latest_life=1, lives=(LifeState(life=1, ends=(None, None), is_set_up=True),)), 1.3
    )
    assert [type(one.message) for one in leader.tick(2.3)] == [Orders]


def test_a_process_has_ended_when_its_machine_says_so(leader: Leader) -> None:
    life = started(leader)
    assert leader.end_of(life, 0, 1) is None
    ends = (None, "killed by SIGKILL")
    leader.receive(b"p", Beat(boot="b1", latest_life=1, lives=(LifeState(life=1, ends=ends),)), 1.0)
    assert (leader.end_of(life, 0, 0), leader.end_of(life, 0, 1)) == (None, End("killed by SIGKILL"))
    leader.kill(life)
    [orders] = leader.tick(1.0)
    assert orders.message == Orders(leader="L")
    # Only a machine that has nothing of it left has ended it.
    assert leader.end_of(life, 0, 0) is None
    leader.receive(b"p", Beat(boot="b1", latest_life=1), 1.1)
    assert leader.end_of(life, 0, 0) == End("it was killed")


@pytest.mark.parametrize(
    ("event", "how"),
    [
        ("silence", "host-b is gone: no message for 6 s"),
        ("cut off", "host-b is gone: its connection is gone"),
        ("leave", "host-b is gone: its rank host has ended"),
        ("join again", "host-b is gone: its rank host had lost the leader"),
    ],
)
def test_a_machine_that_is_lost_has_ended_its_part_of_all_lives(leader: Leader, event: str, how: str) -> None:
    life = started(leader)
    match event:
        case "silence":
            leader.tick(6.1)
        case "cut off":
            leader.unreachable(b"p", 0.5)
            assert leader.waits_for(0.5)
            leader.tick(2.6)
        case "leave":
            leader.receive(b"p", Leave(boot="b1"), 0.5)
        case "join again":
            leader.receive(b"p", join(), 0.5)
    assert leader.end_of(life, 0, 0) == End(how, lost=True)
    # Who takes the place has nothing to do with it.
    leader.receive(b"q", join("b1" if event == "join again" else "b2"), 7.0)
    assert leader.end_of(life, 0, 0) == End(how, lost=True)
    assert leader.waits_for(7.0) == ""
    leader.set_up(life, SETUP)
    assert all(one.message == Orders(leader="L") for one in leader.tick(8.0))


@pytest.mark.parametrize("ends_by", ["leaving", "silence"])
def test_a_machine_that_is_stopped_is_waited_for_and_named_until_its_lives_are_forgotten(
    leader: Leader, ends_by: str
) -> None:
    life = started(leader)
    state = LifeState(life=1, ends=(None, None))
    leader.receive(b"p", Beat(boot="b1", latest_life=1, lives=(state,), stops="stopped by SIGTERM"), 0.5)
    assert leader.stops() == "host-b is being stopped: stopped by SIGTERM"
    assert leader.waits_for(0.5)
    assert leader.end_of(life, 0, 0) is None
    if ends_by == "leaving":
        leader.receive(b"p", Leave(boot="b1", stops="stopped by SIGTERM"), 1.0)
    else:
        leader.tick(6.6)
    assert leader.stops() == "host-b was stopped: stopped by SIGTERM"
    leader.receive(b"q", join("b2"), 7.0)
    assert leader.stops()
    leader.forget(life)
    assert leader.stops() == ""


def test_a_connection_that_is_made_anew_ends_nothing(leader: Leader) -> None:
    life = started(leader)
    leader.unreachable(b"p", 1.0)
    leader.receive(b"other address", running(life), 1.5)
    leader.tick(6.0)
    assert leader.end_of(life, 0, 0) is None
    assert leader.tick(6.1) == []
    assert {one.peer for one in leader.tick(7.1)} == {b"other address"}


def test_a_request_that_was_under_way_when_its_place_was_given_ends_nothing(leader: Leader) -> None:
    leader.receive(b"p", join(), 0.0)
    life = leader.start("10.0.0.1", 21_000, "", "")
    [again] = leader.receive(b"p", join(), 0.1)
    assert isinstance(again.message, Orders)
    assert [one.life for one in again.message.lives] == [life]
    assert leader.end_of(life, 0, 0) is None


def test_messages_count_for_their_life_alone(leader: Leader) -> None:
    first = started(leader)
    leader.receive(b"p", FromRank(boot="b1", life=first, number=1, message=FAILED), 0.0)
    assert leader.take(first, 0, 0) == []
    assert leader.take(first, 0, 1) == [FAILED]
    assert leader.take(first, 0, 1) == []
    leader.forget(first)
    second = leader.start("10.0.0.1", 21_001, "", "")
    leader.receive(b"p", FromRank(boot="b1", life=first, number=1, message=FAILED), 0.0)
    leader.receive(b"x", FromRank(boot="another", life=second, number=1, message=FAILED), 0.0)
    assert leader.take(second, 0, 1) == []


def test_one_with_another_number_of_gpus_or_another_version_is_refused(leader: Leader) -> None:
    [count] = leader.receive(b"p", join(ranks=3), 0.0)
    assert count.message == Refuse(
        why="count", reason="host-b has 3 GPUs for the group and its leader 2; all its machines have as many"
    )
    [version] = leader.receive(b"p", join(protocol=PROTOCOL + 1), 0.0)
    assert isinstance(version.message, Refuse)
    assert version.message.why == "unwanted"
    assert leader.waits_for(0.0)


def test_one_too_many_waits_for_a_place_and_is_refused_when_none_comes_free(leader: Leader) -> None:
    leader.receive(b"p", join(), 0.0)
    for second in range(11):
        leader.receive(b"p", Beat(boot="b1"), second)
        leader.tick(second)
        [answer] = leader.receive(b"q", join("b2", name="host-c"), second)
        assert isinstance(answer.message, Wait)
    [answer] = leader.receive(b"q", join("b2", name="host-c"), 10.5)
    reason = "all 2 machines of the group are there; the others are host-b"
    assert answer.message == Refuse(why="unwanted", reason=reason)


def test_a_rank_host_that_was_started_again_takes_its_place_once_the_old_one_is_missed(leader: Leader) -> None:
    leader.receive(b"p", join(), 0.0)
    assert isinstance(leader.receive(b"q", join("b2"), 1.0)[0].message, Wait)
    leader.unreachable(b"p", 1.0)
    leader.tick(3.1)
    assert leader.receive(b"q", join("b2"), 3.2)[0].message == Orders(leader="L")


@pytest.mark.parametrize(
    ("drained", "message"),
    [
        (None, Orders(leader="L")),
        (True, Dismiss(leader="L", drained=True, reason="why")),
        (False, Dismiss(leader="L", drained=False, reason="why")),
    ],
)
def test_a_leader_that_ends_says_whether_it_comes_back(leader: Leader, drained: bool | None, message: object) -> None:
    started(leader)
    assert leader.end(drained, "why") == [Sent(b"p", message)]


# ------------------------------------------------------------------ the rank host


def order(life: int = 1) -> LifeOrder:
    return LifeOrder(life=life, first=2, of=4, host="10.0.0.1", port=21_000)


def kinds(effects: list[h.Effect]) -> list[str]:
    """Effects by name; of what is said, what."""
    return [type(one.message if isinstance(one, h.Send) else one).__name__ for one in effects]


def beat_of(effects: list[h.Effect]) -> Beat:
    return next(one.message for one in reversed(effects) if isinstance(one, h.Send) and isinstance(one.message, Beat))


@pytest.fixture
def host() -> Host:
    """With two GPUs, and nothing said yet."""
    return Host("b1", "host-b", 2, 0.0)


@pytest.fixture
def placed(host: Host) -> Host:
    """With a life."""
    host.tick(0.0)
    effects = host.receive(Orders(leader="L", lives=(order(),)), 0.1)
    assert kinds(effects) == ["Note", "StartRanks", "Beat"]
    return host


def end_all(host: Host, life: int = 1, now: float = 1.0) -> list[h.Effect]:
    return [effect for number in range(2) for effect in host.ended(life, number, "killed by SIGKILL", now)]


def test_it_asks_for_a_place_each_second_until_it_has_one(host: Host) -> None:
    assert host.tick(0.0) == [h.Send(join())]
    assert host.tick(0.5) == []
    assert kinds(host.tick(1.0)) == ["Join"]
    host.receive(Orders(leader="L"), 1.5)
    assert kinds(host.tick(2.6)) == ["Beat"]


def test_without_an_answer_it_says_why_once(host: Host) -> None:
    host.tick(0.0)
    assert kinds(host.tick(5.1)) == ["Note", "Join"]
    assert kinds(host.tick(6.2)) == ["Join"]


def test_it_starts_what_is_ordered_once_and_tells_how_it_ends(placed: Host) -> None:
    assert kinds(placed.receive(Orders(leader="L", lives=(order(),)), 0.2)) == ["Beat"]
    [give, beat] = placed.receive(SetUp(leader="L", life=1, setup=SETUP), 0.3)
    assert give == h.GiveSetup(1, SETUP)
    assert beat_of([beat]).lives == (LifeState(life=1, ends=(None, None), is_set_up=True),)
    assert placed.receive(SetUp(leader="L", life=1, setup=SETUP), 0.4) == []
    effects = placed.ended(1, 1, "exit code 3", 0.5)
    assert beat_of(effects).lives == (LifeState(life=1, ends=(None, "exit code 3"), is_set_up=True),)


def test_what_is_not_ordered_any_more_is_killed_and_nothing_starts_before_it_is_gone(placed: Host) -> None:
    effects = placed.receive(Orders(leader="L", lives=(order(2),)), 0.5)
    assert kinds(effects) == ["KillRanks", "Beat"]
    assert beat_of(effects).latest_life == 1
    effects = end_all(placed)
    assert kinds(effects) == ["Beat", "DropRanks", "StartRanks", "Beat"]
    assert beat_of(effects) == Beat(boot="b1", latest_life=2, lives=(LifeState(life=2, ends=(None, None)),))


def test_a_spare_life_runs_beside_the_other(placed: Host) -> None:
    assert kinds(placed.receive(Orders(leader="L", lives=(order(), order(2))), 0.5)) == ["StartRanks", "Beat"]


@pytest.mark.parametrize("event", ["silence", "another leader", "no place"])
def test_without_its_leader_it_kills_all_and_asks_for_a_place_again(placed: Host, event: str) -> None:
    match event:
        case "silence":
            effects = placed.tick(8.2)
        case "another leader":
            effects = placed.receive(Orders(leader="M", lives=(order(),)), 0.5)
        case _:
            effects = placed.receive(Wait(reason="this leader does not know it"), 0.5)
    assert h.KillRanks(1) in effects
    assert "StartRanks" not in kinds(effects)
    after = end_all(placed, now=9.0)
    if event == "another leader":  # which counts from 1 again
        assert "StartRanks" in kinds(after)
    else:
        assert kinds(placed.tick(9.5))[-1] == "Join"


def test_an_order_that_was_late_starts_no_life_of_before(placed: Host) -> None:
    placed.tick(8.2)
    end_all(placed, now=8.3)
    assert "StartRanks" not in kinds(placed.receive(Orders(leader="L", lives=(order(),)), 8.4))
    assert "StartRanks" in kinds(placed.receive(Orders(leader="L", lives=(order(2),)), 8.5))


def test_messages_of_its_processes_are_passed_on_with_their_life(placed: Host) -> None:
    failed = JobFailed(fence=1, kind=FailureKind.OUT_OF_MEMORY, fatal=True)
    assert placed.reported(1, 1, failed) == [h.Send(FromRank(boot="b1", life=1, number=1, message=failed))]


@pytest.mark.parametrize(
    ("message", "end"),
    [
        (Refuse(why="count", reason="why"), h.Exit(EXIT_SETTINGS, "why")),
        (Refuse(why="unwanted", reason="why"), h.Exit(EXIT_UNWANTED, "why")),
        (Dismiss(leader="L", drained=True, reason="why"), h.Exit(EXIT_LEFT, "why")),
        (Dismiss(leader="L", drained=False, reason="why"), h.Exit(EXIT_UNWANTED, "why")),
        (None, h.Exit(EXIT_LEFT, "SIGTERM")),
    ],
)
def test_it_ends_when_its_processes_are_gone(placed: Host, message: object, end: h.Exit) -> None:
    effects = placed.receive(message, 0.5) if message is not None else placed.stop("SIGTERM", 0.0, 0.5)  # type: ignore[arg-type]
    assert h.KillRanks(1) in effects
    assert not any(isinstance(one, h.Exit) for one in effects)
    assert end_all(placed)[-1] == end
    # One that cannot be killed does not keep it.
    assert placed.tick(5.6) == [end]


def stopped(host: Host, grace_s: float = 3.0) -> Beat:
    """It was stopped at 0.5 s; its report of that."""
    effects = host.stop("stopped by SIGTERM", grace_s, 0.5)
    assert kinds(effects) == ["Note", "Beat"]
    return beat_of(effects)


def test_one_that_is_stopped_tells_its_leader_and_goes_on_until_nothing_is_ordered_any_more(placed: Host) -> None:
    assert stopped(placed).stops == "stopped by SIGTERM"
    again = placed.receive(Orders(leader="L", lives=(order(), order(2))), 0.6)
    assert kinds(again) == ["Beat"], "nothing new is started"
    assert beat_of(again).stops == "stopped by SIGTERM"
    assert kinds(placed.receive(Orders(leader="L"), 0.7)) == ["KillRanks", "Beat"]
    assert end_all(placed, now=0.8)[-2:] == [
        h.Send(Leave(boot="b1", stops="stopped by SIGTERM")),
        h.Exit(EXIT_LEFT, "stopped by SIGTERM"),
    ]


@pytest.mark.parametrize("event", ["the grace is over", "a second signal", "the leader is gone"])
def test_one_that_is_stopped_waits_for_its_leader_no_longer_than(event: str, placed: Host) -> None:
    stopped(placed)
    assert placed.next_due <= 3.5
    match event:
        case "the grace is over":
            effects = placed.tick(3.5)
        case "a second signal":
            effects = placed.stop("stopped by SIGTERM", 3.0, 0.6)
        case _:
            placed.receive(Wait(reason="this leader does not know it"), 0.6)
            effects = placed.tick(1.5)
    assert h.Send(Leave(boot="b1", stops="stopped by SIGTERM")) in effects
    assert end_all(placed)[-1] == h.Exit(EXIT_LEFT, "stopped by SIGTERM")


def test_one_that_has_nothing_running_is_stopped_at_once(host: Host) -> None:
    host.receive(Orders(leader="L"), 0.1)
    assert host.stop("stopped by SIGTERM", 3.0, 0.5)[-1] == h.Exit(EXIT_LEFT, "stopped by SIGTERM")


def test_a_dismissal_by_another_leader_is_not_its_own(placed: Host) -> None:
    assert placed.receive(Dismiss(leader="M", drained=True, reason=""), 0.5) == []


# ------------------------------------------------------------------ both


def test_the_devices_of_all_machines_count_as_one_and_a_fault_has_its_machine() -> None:
    own = Stats(memory_used_mb=10.0, memory_total_mb=80.0, utilisation=50.0, health=DeviceHealth(power_w=300.0))
    other = Device(
        memory_used_mb=20.0,
        memory_total_mb=80.0,
        utilisation=100.0,
        temperature_c=70.0,
        health=DeviceHealth(power_w=400.0, fault="GPU 3: it fell off the bus"),
    )
    health = DeviceHealth(power_w=700.0, fault="host-b: GPU 3: it fell off the bus")
    assert combined(own, [("host-b", other)]) == Stats(
        memory_used_mb=30.0, memory_total_mb=160.0, utilisation=75.0, temperature_c=70.0, health=health
    )
    assert combined(own, []) == own


def test_messages_survive_the_wire_and_junk_does_not() -> None:
    said = FromRank(boot="b1", life=1, number=0, message=FAILED)
    assert to_leader(encode(said)) == said
    asked = SetUp(leader="L", life=1, setup=SETUP)
    assert to_host(encode(asked)) == asked
    for junk in (b"", b"\xc1", encode(asked), encode(Join(protocol=1, boot="", host="h", ranks=1))):
        with pytest.raises(MessageError):
            to_leader(junk)
