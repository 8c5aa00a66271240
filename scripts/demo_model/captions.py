"""Captions of scenes in free English, and the words the model knows.

Most sentences are for training; a few are kept for judging, made of the same words in an order that training never shows. In training,
some words are lost on purpose or replaced by unknown ones, so that a prompt from outside this world still gives a shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import torch

from scripts.demo_model.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, moves

#: Stands for any word the tokenizer does not know.
UNKNOWN = "qqq"

_COLOUR_WORDS = {"purple": ("purple", "violet"), "magenta": ("magenta", "pink"), "cyan": ("cyan", "turquoise")}
_SHAPE_WORDS = {"circle": ("circle", "circle", "circle", "ball", "disc", "dot"), "square": ("square", "square", "box")}
_BACKGROUND_WORDS = {"gray": ("gray", "grey")}
_SPEED_WORDS = {"slow": ("slowly",), "fast": ("fast", "quickly")}
_GOING = ("moving",) * 4 + ("going", "sliding", "drifting", "flying", "travelling")
_GOES = ("moves",) * 3 + ("goes", "slides", "drifts", "flies", "travels")

#: (as "is ...", as a verb, as an adjective before the noun) where a motion has words of its own.
_OWN_WORDS = {
    "still": (
        ("standing still", "still", "not moving", "staying still", "staying in place", "static", "motionless"),
        ("stands still", "stays still", "does not move", "stays in place"),
        ("still", "static", "motionless"),
    ),
    "growing": (
        ("growing", "getting bigger", "getting larger", "becoming bigger"),
        ("grows", "gets bigger", "gets larger", "becomes bigger"),
        ("growing",),
    ),
    "shrinking": (
        ("shrinking", "getting smaller", "becoming smaller"),
        ("shrinks", "gets smaller", "becomes smaller"),
        ("shrinking",),
    ),
    "up": (("rising",), ("rises",), ("rising",)),
    "down": (("falling",), ("falls",), ("falling",)),
}
_AXIS_WORDS = {
    "left": ("left", "to the left", "to the left", "leftward", "leftwards", "towards the left", "from right to left"),
    "right": (
        "right",
        "to the right",
        "to the right",
        "rightward",
        "rightwards",
        "towards the right",
        "from left to right",
    ),
    "up": ("up", "up", "upward", "upwards", "to the top"),
    "down": ("down", "down", "downward", "downwards", "to the bottom"),
}
_CORNER_WORDS = (
    "{v} and {h}", "{v} and to the {h}", "{v} {h}", "{h} and {v}", "diagonally {v} and to the {h}", "diagonally {v} {h}",
    "to the {edge} {h}", "towards the {edge} {h}", "{v} - {h}",
)  # fmt: skip
_EDGES = {"up": "top", "down": "bottom"}

#: {c} colour, {s} shape, {b} background; {ing} "moving left", {does} "moves left", {adj} "still": sentences with {adj} are for few motions.
TRAINING = (
    ("{a} {c} {s} {ing} on a {b} background",) * 4
    + ("{c} {s} {ing}, {b} background",) * 2
    + ("{c} {s} {ing} on {b}",) * 2
    + (
        "the {c} {s} is {ing} on {b}",
        "a video of {a} {c} {s} {ing} on a {b} background",
        "a clip of the {c} {s} {ing} over a {b} background",
        "an animation of {a} {c} {s} which is {ing}, on {b}",
        "{a} {c} {s} {ing} with a {b} background",
        "{a} {c} {s} {ing} in front of a {b} background",
        "{a} {c} {s} {does} on a {b} background",
        "the {c} {s} {does}, the background is {b}",
        "{b} background, {c} {s} {ing}",
        "{b} background with {a} {c} {s} that {does}",
        "on a {b} background, {a} {c} {s} {does}",
        "{c} {s}, {b} background, {ing}",
        "{a} {s} in {c} {ing} against {b}",
        "the background is {b}. {a} {c} {s} is {ing}",
        "{a} {c} {s} on {b}, {ing}",
        "{a} {s} {does} on {b}, it is {c}",
    )
)
_TRAINING_ADJECTIVES = ("{adj} {c} {s} on {b}", "a {adj} {c} {s} on a {b} background", "{adj} {c} {s}, {b} background")
HELD_OUT = (
    "a clip of {a} {c} {s} that is {ing} against a {b} background",
    "{a} {c} {s} on a {b} background {ing}",
    "the background is {b} and the {c} {s} {does}",
    "an animation with {a} {c} {s} {ing}, background {b}",
    "in front of {b}, the {c} {s} is {ing}",
    "video: {c} {s} which {does} over {b}",
)

#: Words of no sentence above that people may well use; training throws them in.
_FILLERS = (
    "simple",
    "single",
    "shape",
    "object",
    "thing",
    "picture",
    "image",
    "please",
    "very",
    "big",
    "small",
    "and",
    "with",
    "of",
)


class Chance:
    """Choices from a torch generator, drawn in blocks because a call for each would cost more than the training step's maths."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._drawn: list[float] = []

    def below(self, share: float) -> bool:
        """True in `share` of all calls."""
        return self._next() < share

    def one_of(self, choices: Sequence[str]) -> str:
        """One of the choices, each as likely as the next."""
        return choices[int(self._next() * len(choices))]

    def position(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return int(self._next() * count)

    def _next(self) -> float:
        if not self._drawn:
            self._drawn = torch.rand(512, generator=self._generator).tolist()
        return self._drawn.pop()


def caption(scene: Scene, chance: Chance, held_out: bool = False) -> str:
    """A sentence that describes the whole scene, from the training sentences or from those kept for judging."""
    adjectives = _OWN_WORDS.get(scene.motion, ((), (), ()))[2]
    if not held_out and adjectives and not scene.speed and chance.below(0.2):
        sentence, adjective = chance.one_of(_TRAINING_ADJECTIVES), chance.one_of(adjectives)
    else:
        sentence, adjective = chance.one_of(HELD_OUT if held_out else TRAINING), ""
    colour = chance.one_of(_COLOUR_WORDS.get(scene.colour, (scene.colour,)))
    return sentence.format(
        a="an" if colour[0] in "aeiou" and " in " not in sentence[:12] else "a",
        c=colour,
        s=chance.one_of(_SHAPE_WORDS.get(scene.shape, (scene.shape,))),
        b=chance.one_of(_BACKGROUND_WORDS.get(scene.background, (scene.background,))),
        ing=_motion(scene, chance, _GOING, 0) if "{ing}" in sentence else "",
        does=_motion(scene, chance, _GOES, 1) if "{does}" in sentence else "",
        adj=adjective,
    )


def training_caption(scene: Scene, chance: Chance) -> str:
    """A training sentence, at times with words lost, unknown or added, and for one clip in ten nothing at all."""
    if chance.below(0.1):
        return ""
    text = caption(scene, chance)
    if chance.below(0.12):
        text = _spoil(text, chance)
    words = text.split(" ")
    if chance.below(0.2):
        for _ in range(1 + chance.position(3)):
            extra = UNKNOWN if chance.below(0.6) else chance.one_of(_FILLERS)
            words.insert(chance.position(len(words) + 1), extra)
    return " ".join(words) + ("." if chance.below(0.1) else "")


def known_words() -> list[str]:
    """Every word of the captions, sorted: the tokenizer's vocabulary."""
    return list(_known_words())


def words_of(text: str) -> list[str]:
    """A text in the tokenizer's pieces: words and single marks in small letters."""
    return re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower())


def _motion(scene: Scene, chance: Chance, verbs: Sequence[str], form: int) -> str:
    """The motion in words; `form` 0 after "is", 1 as a verb."""
    own = _OWN_WORDS.get(scene.motion)
    if own and (not moves(scene.motion) or chance.below(0.15)):
        phrase, where = chance.one_of(own[form]), ""
    else:
        phrase, where = chance.one_of(verbs), " " + _direction(scene.motion, chance)
    if not scene.speed:
        return phrase + where
    speed = chance.one_of(_SPEED_WORDS[scene.speed])
    if speed != "fast" and chance.below(0.25):
        return f"{speed} {phrase}{where}"
    return f"{phrase} {speed}{where}" if chance.below(0.5) else f"{phrase}{where} {speed}"


def _direction(motion: str, chance: Chance) -> str:
    if motion in _AXIS_WORDS:
        return chance.one_of(_AXIS_WORDS[motion])
    vertical, horizontal = motion.split(" ")
    return chance.one_of(_CORNER_WORDS).format(v=vertical, h=horizontal, edge=_EDGES[vertical])


def _spoil(text: str, chance: Chance) -> str:
    """The text without one or several of its words, or with unknown ones in their place."""
    share = 0.15 if chance.below(0.8) else 0.7
    instead = UNKNOWN if chance.below(0.7) else ""
    words = [instead if chance.below(share) else word for word in text.split(" ")]
    return " ".join(word for word in words if word)


@cache
def _known_words() -> tuple[str, ...]:
    tables = [
        COLOURS,
        SHAPES,
        BACKGROUNDS,
        MOTIONS,
        _FILLERS,
        _GOING,
        _GOES,
        _CORNER_WORDS,
        TRAINING,
        _TRAINING_ADJECTIVES,
    ]
    tables += [HELD_OUT, ["an , . - : !"], _EDGES.values()]
    for table in (_COLOUR_WORDS, _SHAPE_WORDS, _BACKGROUND_WORDS, _SPEED_WORDS, _AXIS_WORDS):
        tables += list(table.values())
    tables += [phrases for forms in _OWN_WORDS.values() for phrases in forms]
    texts = (re.sub(r"\{\w+\}", " ", text) for table in tables for text in table)
    return tuple(sorted({word for text in texts for word in words_of(text)}))
