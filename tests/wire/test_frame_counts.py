"""Which frame counts a model's limits allow, and what is said of others."""

from __future__ import annotations

import pytest

from broker.wire.jobspec import Limits

WAN = Limits(max_frames=81, frame_step=4)
EIGHTS = Limits(max_frames=49, frame_step=8)
WINDOWS = Limits(max_frames=140, frame_step=33, frame_offset=0)
NO_STILLS = Limits(max_frames=88, frame_step=1, frame_offset=2)
SIXTEEN = Limits(max_frames=257, frame_choices=(16,))
TWO = Limits(max_frames=257, frame_choices=(5, 29))


@pytest.mark.parametrize(
    ("limits", "allowed", "refused"),
    [
        (WAN, (1, 5, 81), (0, 2, 4, 82, 85)),
        (EIGHTS, (1, 9, 49), (5, 8, 57)),
        (WINDOWS, (33, 66, 132), (0, 1, 34, 165)),
        (NO_STILLS, (2, 3, 88), (1, 89)),
        (SIXTEEN, (16,), (1, 15, 17)),
        (TWO, (5, 29), (4, 6, 28, 30)),
    ],
)
def test_counts_are_on_the_models_grid(limits: Limits, allowed: tuple[int, ...], refused: tuple[int, ...]) -> None:
    assert [count for count in (*allowed, *refused) if limits.allows_frames(count)] == list(allowed)


@pytest.mark.parametrize(
    ("limits", "asked", "nearest"),
    [
        (WAN, 18, (17, 21)),
        (WAN, 100, (81,)),
        (WAN, 0, (1,)),
        (WINDOWS, 1, (33,)),
        (WINDOWS, 40, (33, 66)),
        (WINDOWS, 500, (132,)),
        (SIXTEEN, 7, (16,)),
        (TWO, 9, (5, 29)),
        (TWO, 90, (29,)),
    ],
)
def test_neighbours_of_a_refused_count_are_named(limits: Limits, asked: int, nearest: tuple[int, ...]) -> None:
    assert limits.nearest_frames(asked) == nearest


@pytest.mark.parametrize(
    ("limits", "wished", "closest"),
    [
        (WAN, 32.4, (33, False)),
        (WAN, 82.9, (81, False)),
        (WAN, 84, (81, True)),
        (WINDOWS, 1, (33, False)),
        (SIXTEEN, 24, (16, True)),
        (SIXTEEN, 8, (16, False)),
    ],
)
def test_a_length_becomes_the_closest_count(limits: Limits, wished: float, closest: tuple[int, bool]) -> None:
    assert limits.closest_frames(wished) == closest


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (WAN, "1 to 81 and 4k+1 (1, 5, 9, ...)"),
        (WINDOWS, "33 to 132 and 33k (33, 66, 99, ...)"),
        (SIXTEEN, "16"),
        (TWO, "5 or 29"),
        (NO_STILLS, "2 to 88"),
        (Limits(max_frames=9, frame_step=1), "1 to 9"),
    ],
)
def test_rule_in_words(limits: Limits, rule: str) -> None:
    assert limits.frame_rule() == rule
