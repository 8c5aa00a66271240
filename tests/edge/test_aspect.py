"""Sizes for shapes: near the shape, near the usual number of pixels, on the model's grid and within its limits."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.jobspec import Defaults, Limits, ModelCard
from http_edge.base.errors import EdgeError
from http_edge.body.aspect import enlarged_size, parse_aspect, size_for
from http_edge.body.fields import Reader
from tests.testing.fake_broker import VIDEO

WAN = ModelCard(
    name="wan",
    engine="video",
    output="video",
    defaults=Defaults(width=832, height=480),
    limits=Limits(max_side=1920, max_pixels=1920 * 1088),
)


@pytest.mark.parametrize(
    ("text", "aspect"),
    [("16:9", (16, 9)), (" 9 : 16 ", (9, 16)), ("1:1", (1, 1)), ("21:9", (21, 9))],
)
def test_a_shape_is_two_numbers(text: str, aspect: tuple[int, int]) -> None:
    assert parse_aspect(text) == aspect


@pytest.mark.parametrize("text", ["", "16x9", "16:9:1", "0:9", "16:0", "-1:2", "1.5:1", "wide", "99999:1", "١:٢"])
def test_anything_else_is_no_shape(text: str) -> None:
    assert parse_aspect(text) is None


@pytest.mark.parametrize(
    ("aspect", "card", "size"),
    [
        ((16, 9), WAN, (848, 480)),
        ((9, 16), WAN, (480, 848)),
        ((1, 1), WAN, (640, 640)),
        ((4, 3), WAN, (720, 544)),
        ((1, 1), VIDEO, (64, 64)),
        ((16, 9), VIDEO, (80, 48)),
    ],
)
def test_common_shapes(aspect: tuple[int, int], card: ModelCard, size: tuple[int, int]) -> None:
    assert size_for(aspect, card) == size


@pytest.mark.parametrize(
    ("picture", "size"),
    [((128, 128), (512, 512)), ((100, 200), (416, 832)), ((1000, 500), (1984, 992)), ((10, 10), (64, 64))],
)
def test_an_upscaler_draws_four_times_its_picture_or_as_much_as_it_can(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    limits = Limits(min_side=64, side_multiple=32, max_side=2048, max_pixels=1920 * 1088)
    card = ModelCard(name="x4", engine="image", output="image", enlarges=4, limits=limits)
    assert enlarged_size(picture, card) == size


def test_a_shape_beyond_the_sides_is_none() -> None:
    assert size_for((1000, 1), WAN) is None
    assert size_for((1, 40), VIDEO) is None


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    step=st.sampled_from([1, 2, 8, 16, 32]),
    side=st.integers(2, 60),
)
def test_every_size_is_one_that_the_model_takes(width: int, height: int, step: int, side: int) -> None:
    limits = Limits(min_side=32, max_side=1024, side_multiple=step, max_pixels=512 * 512)
    defaults = Defaults(width=side * 16, height=256)
    card = msgspec.structs.replace(WAN, limits=limits, defaults=defaults)
    size = size_for((width, height), card)
    if size is not None:
        assert all(side % step == 0 and 32 <= side <= 1024 for side in size)
        assert size[0] * size[1] <= 512 * 512
        assert abs(math.log(size[0] / size[1] / (width / height))) <= math.log(1.25) + 1e-9


def test_a_blank_shape_is_an_absent_one_and_has_the_length_of_any() -> None:
    assert Reader({"aspect": "  "}).aspect("aspect") is None
    with pytest.raises(EdgeError, match="16"):
        Reader({"aspect": " " * 17}).aspect("aspect")
