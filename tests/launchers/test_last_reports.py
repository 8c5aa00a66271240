"""A worker whose owner does not answer in time is taken to run as it did, for a while."""

from __future__ import annotations

from msgspec.structs import replace

from workers.launchers.child import LastReports, Report

RUNS = Report(boot="b1", name="w0", nodes=("n1",), host="h1", pid=7)


def test_a_report_holds_for_a_while_without_an_answer() -> None:
    last = LastReports()
    assert last.of("w0", 0.0) is None
    last.put(RUNS, 0.0)
    assert last.of("w0", 2.0) == last.of("w0", 29.0) == RUNS
    assert last.of("w0", 31.0) is None
    assert last.of("w0", 2.0) is None, "what was given up does not come back by itself"


def test_a_newer_report_takes_its_place_and_holds_as_long() -> None:
    last = LastReports()
    last.put(RUNS, 0.0)
    last.put(replace(RUNS, boot="b2"), 20.0)
    report = last.of("w0", 45.0)
    assert report is not None
    assert report.boot == "b2"


def test_what_is_known_to_be_gone_is_not_held() -> None:
    last = LastReports()
    last.put(RUNS, 0.0)
    last.forget("w0")
    last.forget("w1")
    assert last.of("w0", 1.0) is None


def test_an_end_is_told_once_for_each_time_that_it_was_said() -> None:
    last = LastReports()
    ended = replace(RUNS, code=2, why="an option is wrong")
    last.put(ended, 0.0)
    assert last.of("w0", 1.0) == ended
    assert last.of("w0", 2.0) is None
