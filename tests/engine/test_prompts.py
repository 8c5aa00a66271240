"""A prompt is encoded once, and nobody can tell."""

from __future__ import annotations

import pytest
import torch

from workers.engine.prompts import PromptCache


class Encoder:
    """Counts its calls; encodes a prompt as the lengths of its seat."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def encode_prompt(self, prompt, negative_prompt=None, do_cfg=True, prompt_embeds=None, max_sequence_length=8):
        self.calls.append(prompt)
        slot = (prompt if isinstance(prompt, str) else prompt[0]).split()
        lengths = torch.zeros(max_sequence_length)
        lengths[: len(slot)] = torch.tensor([float(len(word)) for word in slot])
        return lengths, None if negative_prompt is None else -lengths


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_the_same_prompt_is_encoded_once(encoder: Encoder) -> None:
    cached = PromptCache(encoder.encode_prompt)
    first, second = cached("a red circle"), cached(prompt="a red circle")

    assert len(encoder.calls) == 1
    assert torch.equal(first[0], second[0])
    assert first[1] is None
    assert second[1] is None


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a blue circle"}, {"negative_prompt": ""}, {"do_cfg": False}, {"max_sequence_length": 9}],
    ids=lambda change: next(iter(change)),
)
def test_any_other_argument_is_another_result(encoder: Encoder, change: dict[str, object]) -> None:
    cached = PromptCache(encoder.encode_prompt)
    cached(prompt="a red circle")
    changed = cached(**{"prompt": "a red circle", **change})

    assert len(encoder.calls) == 2
    fresh = Encoder().encode_prompt(**{"prompt": "a red circle", **change})
    assert torch.equal(changed[0], fresh[0])


def test_changing_a_result_in_place_does_not_change_the_next(encoder: Encoder) -> None:
    cached = PromptCache(encoder.encode_prompt)
    cached("a red circle")[0].zero_()
    cached("a red circle")[0].zero_()

    assert cached("a red circle")[0].tolist()[:3] == [1.0, 3.0, 6.0]


def test_lists_of_prompts_count_as_prompts_and_tensors_go_through(encoder: Encoder) -> None:
    cached = PromptCache(encoder.encode_prompt)
    cached(["a red circle"])
    cached(["a red circle"])
    assert len(encoder.calls) == 1
    for _ in range(2):
        cached("a red circle", prompt_embeds=torch.ones(1))
    assert len(encoder.calls) == 3


def test_the_least_recently_used_result_goes_first(encoder: Encoder) -> None:
    cached = PromptCache(encoder.encode_prompt, limit_bytes=2 * 8 * 4)
    cached("one")
    cached("two")
    cached("one")
    cached("three")
    cached("one")
    assert encoder.calls == ["one", "two", "three"]
    cached("two")
    assert encoder.calls[-1] == "two"


def test_a_result_too_large_is_not_kept_and_a_failure_is_not_remembered(encoder: Encoder) -> None:
    cached = PromptCache(encoder.encode_prompt, limit_bytes=8)
    cached("one")
    cached("one")
    assert len(encoder.calls) == 2
    with pytest.raises(TypeError):
        cached("one", unknown=1)
