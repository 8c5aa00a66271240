"""The broker's clock: only time that passes moves it on, over reboots too; the wall clock is followed where times are shown."""

from __future__ import annotations

import pytest

from broker.shell.clock import SETTLE_S, Timeline

DAY = 86_400.0
WALL = 1_800_000_000.0


class Machine:
    """A machine whose clocks the test moves."""

    def __init__(self, journal, wall: float = WALL) -> None:
        self.journal = journal
        self.wall, self.elapsed, self.boot = wall, 5000.0, "first boot"

    def start(self) -> Timeline:
        """A new broker."""
        timeline = Timeline(
            self.journal.clock.record(),
            wall=lambda: self.wall,
            elapsed=lambda: self.elapsed,
            boot=self.boot,
            new=self.journal.empty,
        )
        self.keep(timeline)
        return timeline

    def keep(self, timeline: Timeline) -> None:
        self.journal.clock.stage(timeline.record())
        self.journal.commit()

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds

    def reboot(self, off_s: float) -> None:
        self.wall += off_s
        self.elapsed, self.boot = 3.0, f"boot at {self.wall}"


@pytest.fixture
def machine(journal) -> Machine:
    return Machine(journal)


def shown(timeline: Timeline) -> float:
    return timeline() + timeline.calendar.ahead_s


def test_the_first_broker_begins_with_the_wall_clock(machine):
    timeline = machine.start()
    machine.pass_time(3.0)
    assert timeline() == WALL + 3.0
    assert not timeline.look()
    assert timeline.calendar.settled_at == 0.0


@pytest.mark.parametrize("by_s", [10 * DAY, -8 * DAY, 3600.0, -3600.0])
def test_setting_the_wall_clock_moves_what_is_shown_and_nothing_else(machine, by_s):
    timeline = machine.start()
    machine.wall += by_s
    machine.pass_time(2.0)
    assert timeline.look()
    assert timeline() == WALL + 2.0
    assert shown(timeline) == pytest.approx(machine.wall)
    assert timeline.calendar.settled_at == timeline() + SETTLE_S
    assert [round(step.by_s) for step in timeline.calendar.steps] == [by_s]
    assert not timeline.look()


def test_a_clock_that_is_ahead_for_a_minute_ages_nothing(machine):
    timeline = machine.start()
    machine.wall += 8 * DAY
    timeline.look()
    machine.pass_time(60.0)
    machine.wall -= 8 * DAY
    timeline.look()
    assert (timeline(), shown(timeline)) == (WALL + 60.0, pytest.approx(WALL + 60.0))
    assert len(timeline.calendar.steps) == 2
    machine.pass_time(SETTLE_S)
    assert timeline.calendar.settled_at <= timeline()


def test_small_corrections_are_followed_in_silence(machine):
    timeline = machine.start()
    machine.wall += 0.5
    assert not timeline.look()
    machine.wall += 5.0
    assert timeline.look()
    assert shown(timeline) == pytest.approx(machine.wall)
    assert (timeline.calendar.steps, timeline.calendar.settled_at) == ((), 0.0)


def test_a_restart_goes_on_by_time_that_passed_though_the_clock_was_set_meanwhile(machine):
    machine.start()
    machine.pass_time(5.0)
    machine.wall += 10 * DAY
    machine.pass_time(5.0)
    again = machine.start()
    assert again() == WALL + 10.0
    assert shown(again) == pytest.approx(machine.wall)
    assert again.calendar.settled_at == again() + SETTLE_S


def test_a_broker_started_behind_and_set_right_is_right_after_a_reboot_too(machine):
    timeline = machine.start()
    machine.wall += 10 * DAY
    timeline.look()
    machine.keep(timeline)
    machine.reboot(off_s=100.0)
    again = machine.start()
    assert again() == pytest.approx(WALL + 100.0)
    assert shown(again) == pytest.approx(machine.wall)


def test_a_reboot_into_a_wall_clock_that_is_behind_goes_on_from_where_the_last_was_seen(machine):
    machine.start()
    machine.pass_time(DAY)
    machine.keep(machine.start())
    machine.reboot(off_s=-100 * DAY)
    again = machine.start()
    assert again() == WALL + DAY
    assert shown(again) == pytest.approx(machine.wall)
    machine.wall += 100 * DAY
    again.look()
    assert shown(again) == pytest.approx(machine.wall)
    assert again() == WALL + DAY


def test_time_that_only_the_wall_clock_saw_pass_is_believed_when_it_has_stood(machine):
    machine.start()
    machine.reboot(off_s=8 * DAY)
    again = machine.start()
    assert again() == WALL + 8 * DAY
    assert again.calendar.settled_at == again() + SETTLE_S


def test_a_journal_without_a_clock_is_not_trusted_at_once(machine, journal):
    journal.staged.next = 2
    assert machine.start().calendar.settled_at == WALL + SETTLE_S


def test_a_damaged_record_is_no_record(machine, journal):
    machine.start()
    journal.store.connection.execute("UPDATE clock SET record = x'93a0'")
    assert journal.clock.record() is None
    assert machine.start()() == WALL
