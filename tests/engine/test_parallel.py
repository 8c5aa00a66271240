"""How many GPUs share a job, decided without torch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine import tiny
from workers.engine.errors import LoadError
from workers.engine.rank import Rank, own_rank
from workers.models.catalogue import default_model, model_for
from workers.models.parallel import Indivisible, Layout, Parallel, ParallelSetting, layout_for, on_group
from workers.models.sources import CatalogueError

WAN = {"heads": (12,), "no_sequence": "", "no_guidance": ""}


@pytest.mark.parametrize(
    ("setting", "ranks", "guided", "layout"),
    [
        ("auto", 2, True, Layout(guidance=2)),
        ("auto", 2, False, Layout(sequence=2)),
        ("auto", 3, True, Layout(sequence=3)),
        ("auto", 4, True, Layout(guidance=2, sequence=2)),
        ("auto", 4, False, Layout(sequence=4)),
        # Eight do not divide twelve heads, four do.
        ("auto", 8, True, Layout(guidance=2, sequence=4)),
        ("sequence", 4, True, Layout(sequence=4)),
        ("guidance", 2, True, Layout(guidance=2)),
        ("both", 4, True, Layout(guidance=2, sequence=2)),
        ("both", 4, False, Layout(sequence=4)),
    ],
)
def test_layouts(setting: ParallelSetting, ranks: int, guided: bool, layout: Layout) -> None:
    assert layout_for(Parallel(setting=setting, **WAN), ranks, guided=guided) == layout  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "ranks", "guided", "why"),
    [
        (WAN, 8, False, "8 GPUs cannot share a job without guidance: 12 heads of attention cannot be parted among 8 GPUs"),
        (
            {**WAN, "setting": "guidance"},
            4,
            True,
            "4 GPUs cannot share a job with guidance: guidance has two branches, and there are 4 GPUs",
        ),
        (
            {**WAN, "setting": "guidance"},
            2,
            False,
            "2 GPUs cannot share a job without guidance: without guidance there is one pass a step",
        ),
        ({**WAN, "setting": "both"}, 3, True, "3 GPUs cannot share a job with guidance: guidance has two branches, and there are 3 GPUs"),
        ({}, 2, False, "2 GPUs cannot share a job without guidance: nothing is known of its parts"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared(facts: dict[str, Any], ranks: int, guided: bool, why: str) -> None:
    with pytest.raises(Indivisible) as refused:
        layout_for(Parallel(**facts), ranks, guided=guided)
    assert str(refused.value) == why


def test_a_model_says_what_can_be_shared(tmp_path: Any) -> None:
    source = str(default_model())
    demo = model_for(source, "demo", {"parallel": "sequence"})
    assert demo.setup.parallel == Parallel(setting="sequence", heads=(4,), no_sequence="", no_guidance="")
    assert demo.card.setup["parallel"] == "sequence"
    flex = model_for(source, "demo", {"speed": {"attention": "flex"}}).setup.parallel
    assert flex.no_sequence.startswith("speed.attention is 'flex', and a sequence is shared with native, ")
    compiled = model_for(source, "demo", {"speed": {"compile": "eager"}}).setup.parallel
    assert compiled.no_sequence == "speed.compile is on, and attention that is spread over GPUs cannot be compiled"
    chroma = model_for(str(tiny.save_chroma(tmp_path)), "chroma").setup.parallel
    assert chroma.no_sequence == "the sequence of ChromaPipeline is not known to be divisible"
    assert chroma.no_guidance == "ChromaPipeline is not known to make two passes a step"
    with pytest.raises(CatalogueError, match="'rows' is not one of auto, both, guidance, sequence"):
        model_for(source, "demo", {"parallel": "rows"})


@pytest.mark.parametrize(
    ("table", "ranks", "words"),
    [
        ({}, 2, "guidance over 2 GPUs; without guidance: sequence over 2 GPUs"),
        ({"parallel": "sequence"}, 4, "sequence over 4 GPUs"),
        (
            {"parallel": "guidance"},
            2,
            "guidance over 2 GPUs; without guidance: 2 GPUs cannot share a job without guidance: without guidance there is one pass a step",
        ),
    ],
)  # fmt: skip
def test_the_card_says_how_a_group_shares_jobs(table: dict[str, Any], ranks: int, words: str) -> None:
    demo = model_for(str(default_model()), "demo", table)
    assert on_group(demo.card, demo.setup.parallel, ranks).setup["parallel"] == words
    assert on_group(demo.card, demo.setup.parallel, 1) == demo.card


def test_a_rank_is_what_its_environment_and_its_agent_say() -> None:
    group = {"WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "21000"}
    assert own_rank({}) is None
    first = own_rank({**group, "RANK": "0"}, listener=7)
    assert first == Rank(number=0, of=4, host="10.0.0.1", port=21_000, listener=7)
    third = own_rank({**group, "RANK": "2", "LOCAL_WORLD_SIZE": "2"})
    assert third == Rank(number=2, of=4, host="10.0.0.1", port=21_000, spread=True)
    with pytest.raises(LoadError, match="--meeting: rank 0 of a group was given no socket"):
        own_rank({**group, "RANK": "0"})
    with pytest.raises(LoadError, match="RANK: '4' is not a whole number from 0 to 3"):
        own_rank({**group, "RANK": "4"})
