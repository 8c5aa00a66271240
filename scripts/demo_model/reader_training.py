"""Training of the text encoder before anything is drawn: the things that a caption names must show in the states of its every word.

Learning to read and to draw at once took most of the transformer's time: the flow's loss says little about which word asks for what.
Here a caption's words are asked for the five things directly, some minutes of training suffice, and the transformer finds the answer
at whichever word it looks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.demo_model.captions import Chance, training_caption
from scripts.demo_model.parts import Student
from scripts.demo_model.stages import Stage, level_rate
from scripts.demo_model.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SPEEDS, Scene, draw_scenes

#: The questions to a caption, and the possible answers.
QUESTIONS = {
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "motion": tuple(MOTIONS),
    "background": tuple(BACKGROUNDS),
    "speed": tuple(SPEEDS),
}
#: Captions in a part of a step; a step has two parts.
_BATCH = 96


def reader_stage(student: Student, steps: int) -> Stage:
    """The text encoder and a linear answer to each question, which is thrown away afterwards."""
    width = student.text_encoder.config.d_model
    answers = nn.ModuleDict({question: nn.Linear(width, len(words)) for question, words in QUESTIONS.items()})
    answers.to(student.text_encoder.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        scenes = draw_scenes(_BATCH, generator)
        chance = Chance(generator)
        states, mask = student.read([training_caption(scene, chance) for scene in scenes])
        return _loss(answers, states, mask, scenes)

    parameters = [*student.text_encoder.parameters(), *answers.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    modules = {"text_encoder": student.text_encoder, "answers": answers}
    return Stage(
        "reader", steps, modules, [optimiser], loss, lambda step: level_rate(step, steps), clip=1.0, parts=2
    )  # fmt: skip


def _loss(
    answers: nn.ModuleDict, states: Tensor, mask: Tensor, scenes: list[Scene]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of all answers at all words, and the percentage of words that answer all questions rightly."""
    total = torch.zeros((), device=states.device)
    right = torch.ones_like(mask, dtype=torch.bool)
    words = mask.sum()
    for question, possible in QUESTIONS.items():
        logits = answers[question](states)
        wanted = torch.tensor([possible.index(getattr(scene, question)) for scene in scenes], device=states.device)
        wanted = wanted[:, None].expand(mask.shape)
        total = total + (cross_entropy(logits.transpose(1, 2), wanted, reduction="none") * mask).sum() / words
        right &= logits.argmax(-1) == wanted
    return total, {"right %": 100 * (right & mask.bool()).sum() / words}
