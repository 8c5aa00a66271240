"""What is reported of a worker over several machines."""

from __future__ import annotations

import pytest

from workers.launchers.child import Report
from workers.launchers.group import combined, part_names


def part(name, number, code=None):
    return Report(
        boot=f"b-{name}",
        name=name,
        nodes=(f"n{number}",),
        host=f"h{number}",
        pid=number,
        code=code,
        why=f"why {number}",
    )


LEADER, RANK = part("w3", 0), part("w3.1", 1)


def test_the_first_process_bears_the_name_of_the_worker():
    assert part_names("w3", 3) == ("w3", "w3.1", "w3.2")
    assert part_names("w3", 1) == ("w3",)


def test_a_worker_leaves_until_all_of_it_has():
    assert combined([part("w3", 0, code=0), RANK]).leaving
    assert not combined([LEADER, RANK]).leaving


def test_a_worker_is_where_all_of_its_processes_are():
    report = combined([LEADER, RANK])
    assert (report.host, report.pid) == ("h0, h1", LEADER.pid)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([LEADER], ("b-w3", None, ("n0",)), id="one machine"),
        pytest.param([LEADER, RANK], ("b-w3", None, ("n0", "n1")), id="all run"),
        pytest.param([LEADER, None], None, id="one has no machine yet"),
        pytest.param([None, RANK], None, id="the first has none"),
        pytest.param([part("w3", 0, code=0), part("w3.1", 1, code=0)], ("b-w3", 0, ("n0",)), id="drained"),
        pytest.param([part("w3", 0, code=0), RANK], ("b-w3", None, ("n0", "n1")), id="drained, but for the second"),
        pytest.param([part("w3", 0, code=0), None], ("b-w3", 0, ("n0",)), id="drained, and the other is gone"),
        pytest.param([LEADER, part("w3.1", 1, code=2)], ("b-w3", 2, ("n1",)), id="an option is wrong on the second"),
        pytest.param([None, part("w3.1", 1, code=2)], ("b-w3.1", 2, ("n1",)), id="the same, without the first"),
        pytest.param([part("w3", 0, code=4), RANK], ("b-w3", 4, ("n0",)), id="the first has no model"),
        pytest.param([LEADER, part("w3.1", 1, code=0)], ("b-w3", None, ("n0", "n1")), id="dismissed before the first"),
    ],
)
def test_a_worker_is_there_when_all_of_it_is_and_fails_as_its_first_part_does(parts, expected):
    report = combined(parts)
    assert (report and (report.boot, report.code, report.nodes)) == expected
    assert report is None or report.name == "w3"
