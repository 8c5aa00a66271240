"""The back-off, replacements for lost memory, and how ends of processes are put into words."""

from __future__ import annotations

import pytest

from workers.supervisor.exit_codes import describe_exit
from workers.supervisor.restart import MemoryDecision, RestartDecision, decide, decide_memory


@pytest.mark.parametrize(
    ("streak", "healthy", "blamed", "delay_s", "next_streak"),
    [
        (0, False, True, 0.0, 1),
        (1, False, True, 1.0, 2),
        (2, False, True, 2.0, 3),
        (3, False, True, 4.0, 4),
        (6, False, True, 32.0, 7),
        (7, False, True, 60.0, 8),
        (10_000, False, True, 60.0, 10_001),
        (10_000, True, True, 0.0, 1),
        (5, False, False, 0.0, 5),
        (5, True, False, 0.0, 0),
    ],
)
def test_decide(streak: int, healthy: bool, blamed: bool, delay_s: float, next_streak: int) -> None:
    assert decide(streak, healthy=healthy, blamed=blamed) == RestartDecision(delay_s, next_streak)


@pytest.mark.parametrize(
    ("streak", "jobs", "finished", "served_s", "replace", "next_streak"),
    [
        (0, 1, False, 1e6, False, 0),
        (0, 2, False, 0.0, True, 1),
        (0, 2, True, 5.0, True, 1),
        (1, 2, False, 599.0, False, 1),
        (1, 50, False, 599.0, False, 1),
        (1, 2, False, 600.0, True, 2),
        (2, 3, False, 1199.0, False, 2),
        (2, 3, False, 1200.0, True, 3),
        (3, 2, False, 2400.0, True, 4),
        (4, 2, False, 4799.0, False, 4),
        (10_000, 2, False, 4800.0, True, 10_001),
        (1, 2, True, 599.0, False, 1),
        (4, 2, True, 600.0, True, 1),
        (4, 1, True, 600.0, False, 0),
    ],
)
def test_an_engine_that_took_a_minute_to_load_is_replaced_for_memory(
    streak: int, jobs: int, finished: bool, served_s: float, replace: bool, next_streak: int
) -> None:
    choice = decide_memory(streak, jobs=jobs, finished=finished, served_s=served_s, load_s=60.0)
    assert choice == MemoryDecision(replace, next_streak)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (65, "exit code 65"),
        (-9, "killed by SIGKILL"),
        (-11, "killed by SIGSEGV"),
        (-250, "killed by signal 250"),
    ],
)
def test_describe_exit(code: int, words: str) -> None:
    assert describe_exit(code) == words
