"""Where weights lie: the choice as tables, its numbers, and when it changes."""

from __future__ import annotations

import pytest
from msgspec import structs

from workers.models.placement import (
    ORDER,
    Component,
    DoesNotFit,
    Need,
    Placement,
    PlacementSetting,
    Settled,
    choose,
    cures,
    fits,
    peak,
    role_of,
    room,
)

GIB = 2**30


def component(name: str, gib: float, *, block: float = 0, unblocked: float = 0, leaf: float = 0) -> Component:
    return Component(
        name=name,
        role=role_of(name),
        size=int(gib * GIB),
        block=int(block * GIB),
        unblocked=int(unblocked * GIB),
        leaf=int(leaf * GIB),
    )


#: An encoder of 10, two denoisers of 20 in blocks of 2 with 1 beside them, a VAE of 1.
MODEL = (
    component("text_encoder", 10, leaf=0.5),
    component("transformer", 20, block=2, unblocked=1, leaf=0.25),
    component("transformer_2", 20, block=2, unblocked=1, leaf=0.25),
    component("vae", 1),
)
JOB = Need(denoise=4 * GIB, postprocess=6 * GIB)


@pytest.mark.parametrize(
    ("placement", "idle", "busy"),
    [
        ("resident", 51, 51 + 6),
        ("text_encoder_aside", 51, 51),  # the encoder's room is enough for the job
        ("text_encoder_streamed", 41 + 0.5, 41 + 6),
        ("model", 20, 20 + 4),
        ("group", 1 + 10, 1 + 10),  # the encoder's, then 5 of blocks and 4 of the job
        ("leaf", 1 + 0.5, 1 + 6),
    ],
)
def test_what_a_placement_takes_at_once(placement: Placement, idle: float, busy: float) -> None:
    assert peak(placement, MODEL, Need()) == idle * GIB
    assert peak(placement, MODEL, JOB) == busy * GIB


@pytest.mark.parametrize("placement", ORDER)
def test_the_room_for_a_job_is_what_just_fits(placement: Placement) -> None:
    there_is = room(placement, MODEL, 80 * GIB)
    assert fits(placement, MODEL, Need(there_is, there_is), 80 * GIB)
    assert not fits(placement, MODEL, Need(there_is + 1, there_is + 1), 80 * GIB)


def test_a_denoiser_without_blocks_is_streamed_whole() -> None:
    assert peak("group", (component("unet", 5),), Need()) == 5 * GIB
    assert peak("group", (component("transformer", 5, block=4, unblocked=1),), Need()) == 5 * GIB, "no more than it is"


@pytest.mark.parametrize(
    ("limit_gib", "chosen"),
    [
        (80, "resident"),
        (58.5, "resident"),
        (58.4, "text_encoder_aside"),
        (52.5, "text_encoder_aside"),
        (52.4, "text_encoder_streamed"),
        (48.5, "text_encoder_streamed"),
        (48.4, "model"),
        (25.5, "model"),
        (25.4, "group"),
        (12.5, "group"),
        (12.4, "leaf"),
        (8.5, "leaf"),
    ],
)
def test_the_fastest_that_fits_is_chosen(limit_gib: float, chosen: Placement) -> None:
    assert choose(MODEL, JOB, int(limit_gib * GIB)) == chosen


@pytest.mark.parametrize(
    ("wanted", "limit_gib", "chosen"),
    [("resident", 80, "resident"), ("leaf", 80, "leaf"), ("model", 80, "model"), ("group", 12.5, "group")],
)
def test_what_is_asked_for_is_what_there_is(wanted: PlacementSetting, limit_gib: float, chosen: Placement) -> None:
    assert choose(MODEL, JOB, int(limit_gib * GIB), wanted) == chosen


def test_what_a_pipeline_cannot_have_is_passed_over() -> None:
    assert choose(MODEL, JOB, int(55 * GIB), possible=("resident", "model")) == "model"


@pytest.mark.parametrize(
    ("wanted", "limit_gib", "text"),
    [
        (
            "auto",
            8,
            "1.5 GiB at the least, a job of this size 5.5 GiB on top, and 1.5 GiB are kept free; there are 8.0 GiB",
        ),
        (
            "resident",
            58,
            "51.0 GiB with placement resident, a job of this size 6.0 GiB on top, and 1.5 GiB are kept free; there are 58.0 GiB",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(wanted: PlacementSetting, limit_gib: float, text: str) -> None:
    with pytest.raises(DoesNotFit) as refused:
        choose(MODEL, JOB, int(limit_gib * GIB), wanted)
    assert str(refused.value) == f"its weights take {text}"


FULL = ("text_encoder", "transformer", "transformer_2")


@pytest.mark.parametrize(
    ("wanted", "limit_gib", "full", "reported"),
    [
        # Another placement, eight bits for what is largest, or less to draw: each with what it takes.
        (
            "resident",
            50,
            FULL,
            (
                'placement = "text_encoder_streamed" takes 47.0 GiB',
                'speed.quantize = { transformer = "fp8", transformer_2 = "fp8" } takes about 37.0 GiB',
            ),
        ),
        ("group", 12, FULL, ('placement = "leaf" takes 7.0 GiB', 'speed.quantize = { text_encoder = "fp8" } takes about 10.0 GiB')),
        ("auto", 8, FULL, ("a job of about 90 % of this one's pixels fits as it is",)),
        # Weights that are in eight bits already become no smaller.
        ("resident", 56, (), ('placement = "text_encoder_aside" takes 51.0 GiB', "a job of about 50 % of this one's pixels fits as it is")),
        ("leaf", 2.5, FULL, ()),
    ],
)  # fmt: skip
def test_what_would_do_is_told_with_what_it_takes(
    wanted: PlacementSetting, limit_gib: float, full: tuple[str, ...], reported: tuple[str, ...]
) -> None:
    found = cures(MODEL, JOB, int(limit_gib * GIB), wanted, ORDER, full)
    assert found == reported


def test_a_slower_placement_never_takes_more_for_a_larger_need() -> None:
    """Along the order, the first that fits is the only one to ask for: those behind it fit where it does."""
    for front, tail in ((0, 0), (3, 1), (1, 30), (40, 2)):
        need = Need(front * GIB, tail * GIB)
        aside, streamed, model, group, leaf = (peak(one, MODEL, need) for one in ORDER[1:])
        assert peak("resident", MODEL, need) >= aside >= streamed >= group >= leaf
        assert streamed >= model


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("text_encoder", "encoder"),
        ("text_encoder_3", "encoder"),
        ("transformer", "denoiser"),
        ("unet", "denoiser"),
        ("image_encoder", "denoiser"),
        ("vae", "decoder"),
        ("audio_vae", "decoder"),
        ("vocoder", "decoder"),
    ],
)
def test_roles(name: str, role: str) -> None:
    assert role_of(name) == role


# ------------------------------------------------------------------ over jobs


def follow(settled: Settled, *bests: tuple[Placement, bool]) -> list[Placement]:
    return [settled.settle(best, still_fits) for best, still_fits in bests]


def test_weights_move_down_at_once_and_up_when_it_has_long_been_worth_it() -> None:
    settled = Settled()
    assert follow(settled, ("resident", False), ("model", False)) == ["resident", "model"]
    assert follow(settled, *[("resident", True)] * 7) == ["model"] * 7
    assert follow(settled, ("resident", True)) == ["resident"]


def test_large_and_small_jobs_by_turns_move_nothing() -> None:
    settled = Settled(now="model")
    turns: list[tuple[Placement, bool]] = [("resident", True), ("model", True)] * 20
    assert set(follow(settled, *turns)) == {"model"}


def test_it_comes_back_to_what_would_have_done_for_all_of_those_jobs() -> None:
    settled = Settled(now="leaf")
    bests: list[tuple[Placement, bool]] = [("resident", True)] * 7 + [("group", True)]
    assert follow(settled, *bests)[-1] == "group"
    assert structs.asdict(settled) == {"now": "group", "faster": 0, "other": None}
