"""Prompts longer than what the text encoders read, through the engine: a warning with both numbers, never a failure."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.engine.families.cases import CASES
from tests.engine.families.served import Served
from workers.engine.tokens import cut_prompts

# The libraries warn of many a thing that a tiny model is.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """CLIP of 77 tokens, and T5 of as many as the job says."""
    return _served("FluxPipeline", tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Two CLIP, each of 77 tokens."""
    return _served("StableDiffusionXLPipeline", tmp_path_factory.mktemp("sdxl"))


def _served(name: str, directory: Path) -> Served:
    return Served(next(case for case in CASES if case.label == name), directory)


def _words(number: int) -> str:
    """So many tokens, with the one that ends every text."""
    return " ".join(["red"] * (number - 1))


def _warnings(served: Served, **changes: object) -> tuple[str, ...]:
    return served.draw(**changes).finished().result.warnings


def test_the_longest_encoder_counts(flux: Served) -> None:
    assert _warnings(flux, prompt=_words(128), max_sequence_length=128) == ()
    assert _warnings(flux, prompt=_words(129), max_sequence_length=128) == (
        "prompt: of its 129 tokens this model reads 128; the rest was not used",
    )


def test_without_a_length_in_the_job_it_is_the_one_of_the_pipeline(flux: Served) -> None:
    assert _warnings(flux, prompt=_words(512), max_sequence_length=None) == ()
    assert _warnings(flux, prompt=_words(513), max_sequence_length=None) == (
        "prompt: of its 513 tokens this model reads 512; the rest was not used",
    )


def test_a_second_prompt_is_read_by_the_second_encoder_alone(flux: Served) -> None:
    long, short = _words(100), _words(20)

    assert _warnings(flux, prompt=short, extra={"prompt_2": long}, max_sequence_length=128) == ()
    assert _warnings(flux, prompt=short, extra={"prompt_2": long}, max_sequence_length=64) == (
        "prompt_2: of its 100 tokens this model reads 64; the rest was not used",
    )
    assert _warnings(flux, prompt=long, extra={"prompt_2": short}, max_sequence_length=128) == (
        "prompt: of its 100 tokens this model reads 77; the rest was not used",
    )


@pytest.mark.parametrize("tokens", [77, 78])
def test_both_prompts_are_counted(sdxl: Served, tokens: int) -> None:
    reported = _warnings(sdxl, prompt=_words(tokens), negative_prompt=_words(tokens + 1), guidance_scale=5.0)

    said = "{}: of its {} tokens this model reads 77; the rest was not used"
    both = (said.format("prompt", tokens), said.format("negative_prompt", tokens + 1))
    assert reported == (both if tokens > 77 else both[1:])


def test_a_negative_prompt_that_the_model_brings_is_its_own_affair(sdxl: Served) -> None:
    long = _words(100)
    card = msgspec.structs.replace(
        sdxl.card, defaults=msgspec.structs.replace(sdxl.card.defaults, negative_prompt=long)
    )
    spec = sdxl.spec(negative_prompt=long)

    assert cut_prompts(sdxl.pipe, card, spec, {"prompt": "red", "negative_prompt": long}) == ()


def test_an_encoder_that_the_model_does_without_reads_nothing(tmp_path: Path) -> None:
    served = _served("StableDiffusion3Pipeline", tmp_path)
    prompt = {"prompt": _words(100), "max_sequence_length": 256}
    pipe, card, spec = served.pipe, served.card, served.spec()

    assert cut_prompts(pipe, card, spec, prompt) == ()
    pipe.text_encoder_3 = None
    assert cut_prompts(pipe, card, spec, prompt) == (
        "prompt: of its 100 tokens this model reads 77; the rest was not used",
    )


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("WanPipeline", 512),
        ("LattePipeline", 120),
        ("Kandinsky3Pipeline", 128),
        ("PixArtAlphaPipeline", 120),
        ("EasyAnimatePipeline", 256),
        ("HunyuanVideo15Pipeline", 1000),
        ("KandinskyV22CombinedPipeline", 77),
        ("Kandinsky5T2VPipeline", 512),
    ],
)
def test_the_length_is_the_one_that_the_pipeline_uses(name: str, limit: int, tmp_path: Path) -> None:
    served = _served(name, tmp_path)
    pipe, card, spec = served.pipe, served.card, served.spec()

    assert cut_prompts(pipe, card, spec, {"prompt": _words(limit)}) == ()
    assert cut_prompts(pipe, card, spec, {"prompt": _words(limit + 1)}) == (
        f"prompt: of its {limit + 1} tokens this model reads {limit}; the rest was not used",
    )


def test_where_no_length_is_known_nothing_is_said(sdxl: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, config = sdxl.pipe.tokenizer, sdxl.pipe.text_encoder.config
    monkeypatch.setattr(tokenizer, "model_max_length", int(1e30))
    monkeypatch.setattr(config, "max_position_embeddings", int(1e30))

    assert cut_prompts(sdxl.pipe, sdxl.card, sdxl.spec(), {"prompt": _words(500)}) == ()


def test_a_tokenizer_that_fails_fails_no_job(sdxl: Served, caplog: pytest.LogCaptureFixture) -> None:
    prompt = _words(100)
    sdxl.draw(prompt=prompt).finished()
    kept = sdxl.pipe.tokenizer
    sdxl.pipe.tokenizer = lambda *_, **__: {}
    try:
        # The prompt was encoded before, so that nobody else asks the tokenizer.
        sdxl.draw(prompt=prompt).finished()
    finally:
        sdxl.pipe.tokenizer = kept

    assert "tokens were not counted" in caplog.text
