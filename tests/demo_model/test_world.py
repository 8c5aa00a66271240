"""What the demo model is taught: scenes, clips, captions, and what is kept from it."""

from __future__ import annotations

import pytest
import torch

from scripts.demo_model.captions import (
    HELD_OUT,
    TRAINING,
    UNKNOWN,
    Chance,
    caption,
    known_words,
    training_caption,
    words_of,
)
from scripts.demo_model.parts import new_tokenizer
from scripts.demo_model.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    combinations,
    draw_scenes,
    is_held_out,
    render,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extent(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """First and last row, first and last column that a mask touches."""
    rows, columns = mask.amax(1).nonzero().flatten().tolist(), mask.amax(0).nonzero().flatten().tolist()
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("frames", [1, 9, 17, 33])
def test_shapes_stay_whole_inside_the_frame(frames: int) -> None:
    _, masks = render(draw_scenes(60, generator()), frames, generator())

    assert masks.shape == (60, 1, frames, 64, 64)
    assert float(masks[..., [0, -1], :].max()) == 0.0
    assert float(masks[..., [0, -1]].max()) == 0.0
    assert float(masks.amax((2, 3, 4)).min()) == 1.0


def test_a_clip_has_the_colours_of_its_scene() -> None:
    clips, masks = render([Scene("orange", "square", "right", "navy")], 9, generator())
    pixels = (clips[0].movedim(0, -1) + 1) * 127.5

    assert pixels[masks[0, 0] == 1].mean(0).tolist() == pytest.approx(COLOURS["orange"], abs=1e-3)
    assert pixels[masks[0, 0] == 0].mean(0).tolist() == pytest.approx(BACKGROUNDS["navy"], abs=1e-3)


def test_a_motion_fills_the_clip_whatever_its_length() -> None:
    scene = Scene("red", "circle", "right", "black", "fast")
    for frames in (9, 17, 33):
        _, masks = render([scene], frames, generator(3))
        first, last = extent(masks[0, 0, 0]), extent(masks[0, 0, -1])
        assert 24 <= last[2] - first[2] <= 30
        assert last[0] == pytest.approx(first[0], abs=1)


def test_the_same_generator_makes_the_same_clips() -> None:
    scenes = draw_scenes(3, generator())

    assert torch.equal(render(scenes, 5, generator(1))[0], render(scenes, 5, generator(1))[0])
    assert not torch.equal(render(scenes, 5, generator(1))[0], render(scenes, 5, generator(2))[0])


def test_combinations_kept_for_judging_are_never_drawn_for_training() -> None:
    kept, trained = set(combinations(held_out=True)), set(combinations(held_out=False))

    assert not kept & trained
    assert 0.08 < len(kept) / len(kept | trained) < 0.18
    assert {scene.combination for scene in draw_scenes(500, generator())} <= trained
    assert {scene.combination for scene in draw_scenes(500, generator(), held_out=True)} <= kept
    for at, table in enumerate((COLOURS, SHAPES, MOTIONS, BACKGROUNDS)):
        assert {combination[at] for combination in kept} == {combination[at] for combination in trained} == set(table)


def test_the_split_never_changes() -> None:
    """A model that was trained under one split must be judged under the same one."""
    red_stars = [combination for combination in combinations(held_out=True) if combination[:2] == ("red", "star")]

    assert red_stars[:3] == [("red", "star", motion, "navy") for motion in ("left", "right", "up left")]
    assert not is_held_out(("red", "circle", "right", "black"))


def test_no_shape_is_asked_for_that_cannot_be_seen() -> None:
    for colour, _, _, background in (*combinations(True), *combinations(False)):
        assert COLOURS[colour] != BACKGROUNDS[background]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_word_of_a_caption_is_known(held_out: bool) -> None:
    tokenizer = new_tokenizer()
    chance = Chance(generator())
    for scene in draw_scenes(1000, generator(), held_out):
        text = caption(scene, chance, held_out)
        tokens = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in tokens, text
        assert tokenizer.eos_token_id == tokens[-1]
        assert len(tokens) <= 32, text


def test_sentences_kept_for_judging_are_no_training_sentences() -> None:
    assert not set(HELD_OUT) & set(TRAINING)


def test_a_caption_names_what_the_scene_shows() -> None:
    chance = Chance(generator())
    for scene in draw_scenes(300, generator()):
        words = words_of(caption(scene, chance))
        assert {scene.colour, "violet", "pink", "turquoise"} & set(words)
        assert {scene.background, "grey"} & set(words)
        assert {scene.shape, "ball", "disc", "dot", "box"} & set(words)


def test_training_loses_words_and_throws_in_unknown_ones() -> None:
    chance = Chance(generator())
    texts = [training_caption(scene, chance) for scene in draw_scenes(1000, generator())]

    assert 50 < texts.count("") < 150
    assert 50 < sum(UNKNOWN in text for text in texts) < 400
    assert UNKNOWN not in known_words()


def test_words_outside_the_world_are_one_unknown_token() -> None:
    tokenizer = new_tokenizer()

    assert tokenizer("Zebra").input_ids == [tokenizer.unk_token_id, tokenizer.eos_token_id]
    assert tokenizer("RED Circle").input_ids == tokenizer("red circle").input_ids
