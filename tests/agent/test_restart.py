"""The back-off, and how ends of processes are put into words."""

from __future__ import annotations

import pytest

from workers.exits import describe_exit
from workers.restart import RestartDecision, decide


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
