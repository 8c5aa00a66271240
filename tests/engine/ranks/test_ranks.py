"""Several processes draw one job: the latents are those of one process, whatever was cancelled, parked or failed before.

Each rank computes what one process would, with the same weights and in the same order, but matrices of few rows go through other kernels
than those of many: of a sequence of a dozen tokens a rank's half may differ in the last bits, and then so do the latents.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.loras import LoraUse
from tests.engine import tiny
from tests.engine.conftest import spec_for
from tests.engine.families import build_flux, build_images, parts
from tests.engine.ranks.group import Forks, RankGroup, SpreadGroup
from workers.engine.loop import EXIT_DEVICE_LOST, EXIT_DONE, EXIT_LOAD_FAILED
from workers.ipc.messages import JobCancelled, JobFailed, JobParked, LoadFailed
from workers.models.catalogue import default_model, model_for
from workers.models.model import Model

GUIDED, UNGUIDED = {"guidance_scale": 4.0}, {"guidance_scale": 1.0}


@pytest.fixture(scope="module")
def demo() -> Model:
    return model_for(str(default_model()), "demo")


@pytest.fixture(scope="module")
def i2v(tmp_path_factory: pytest.TempPathFactory, tiny_table: dict[str, Any]) -> Model:
    return model_for(str(tiny.save_wan_image_to_video(tmp_path_factory.mktemp("i2v"))), "i2v", tiny_table)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


def start(forks: Forks, ranks: int, *models: Model) -> RankGroup:
    setups = {model.card.name: model.setup for model in models}
    return forks.group(ranks, *(model.card for model in models), setups=setups)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, tiny_table: dict[str, Any]) -> dict[str, Model]:
    """Models whose text and picture are one sequence."""
    place = tmp_path_factory.mktemp("pictures")
    found = {}
    for name, built in (
        ("flux", build_flux.BUILDERS["FluxPipeline"]()),
        ("qwen", build_images.BUILDERS["QwenImagePipeline"]()),
    ):
        parts.wake(built)
        built.save_pretrained(place / name)
        found[name] = model_for(str(place / name), name)
    return found


@pytest.fixture(scope="module")
def alone(forks: Forks, demo: Model, i2v: Model, pictures: dict[str, Model]) -> Iterator[RankGroup]:
    made = start(forks, 1, demo, i2v, *pictures.values()).ready()
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(forks: Forks, demo: Model, i2v: Model, pictures: dict[str, Model]) -> Iterator[RankGroup]:
    """Two ranks whose jobs may fail, and which live on."""
    made = start(forks, 2, demo, i2v, *pictures.values()).ready()
    yield made
    made.close()


def small(card: ModelCard, **changes: Any) -> JobSpec:
    """Two latent frames of 64 tokens each, in three steps."""
    return spec_for(card, **{"num_frames": 5, "num_inference_steps": 3, **changes})


@pytest.fixture(scope="module")
def usual(alone: RankGroup, demo: Model) -> Any:
    """The latents of `small(demo.card)` out of one process."""
    return alone.draw(small(demo.card))[0]


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        (GUIDED, "guidance over 2 GPUs"),
        (UNGUIDED, "sequence over 2 GPUs"),
        # 5 x 3 x 3 tokens.
        ({**UNGUIDED, "num_frames": 17, "width": 48, "height": 48, "num_inference_steps": 2}, "sequence over 2 GPUs"),
        ({**GUIDED, "width": 96, "num_outputs": 2}, "guidance over 2 GPUs"),
        ({**GUIDED, "loras": (LoraUse(name="boomerang", scale=0.5),)}, "guidance over 2 GPUs"),
        ({**UNGUIDED, "loras": (LoraUse(name="boomerang", scale=0.5),)}, "sequence over 2 GPUs"),
        ({**GUIDED, "num_frames": 1, "output": "image"}, "guidance over 2 GPUs"),
    ],
)
def test_two_draw_what_one_draws(
    alone: RankGroup, pair: RankGroup, demo: Model, changes: dict[str, Any], how: str
) -> None:
    spec = small(demo.card, **changes)
    expected, drawn = alone.draw(spec), pair.draw(spec)
    assert [np.array_equal(*both) for both in zip(expected, drawn, strict=True)] == [True] * spec.num_outputs
    assert pair.ending.result.used["parallel"] == how
    assert "parallel" not in alone.ending.result.used
    assert [one.name for one in pair.ending.result.artefacts] == [one.name for one in alone.ending.result.artefacts]


def test_all_ranks_come_to_the_same_latents(pair: RankGroup, demo: Model, usual: Any) -> None:
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)
    assert np.array_equal(pair.latents(rank=1)[0], usual)


def test_two_machines_draw_what_one_draws(
    pair: RankGroup, demo: Model, i2v: Model, usual: Any, picture: Path, tmp_path: Path
) -> None:
    models = (demo, i2v)
    setups = {model.card.name: model.setup for model in models}
    group = SpreadGroup(tmp_path / "group", *(model.card for model in models), setups=setups)
    try:
        assert all(np.array_equal(latents, usual) for latents in group.draw(small(demo.card)))
        # The other machine has the files of the model, and none of a job's.
        spec = small(i2v.card, image=str(picture), width=96)
        assert all(np.array_equal(latents, pair.draw(spec)[0]) for latents in group.draw(spec))
        read = [Path((group.taps / f"read-{rank}").read_text()) for rank in (0, 1)]
        assert read[0] == picture != read[1]
        assert read[1].name == picture.name
        assert not read[1].exists()
    finally:
        group.close()


def test_a_still_of_few_tokens_differs_in_the_last_bits_alone(alone: RankGroup, pair: RankGroup, demo: Model) -> None:
    spec = small(demo.card, **UNGUIDED, num_frames=1, output="image")
    assert np.allclose(alone.draw(spec)[0], pair.draw(spec)[0], atol=1e-3)


def test_a_clip_that_begins_with_a_picture(alone: RankGroup, pair: RankGroup, i2v: Model, picture: Path) -> None:
    spec = small(i2v.card, image=str(picture), width=96)
    assert np.array_equal(alone.draw(spec)[0], pair.draw(spec)[0])


@pytest.mark.parametrize("name", ["flux", "qwen"])
@pytest.mark.parametrize(("negative", "how"), [("blurry", "guidance over 2 GPUs"), ("", "sequence over 2 GPUs")])
def test_pictures(
    alone: RankGroup, pair: RankGroup, pictures: dict[str, Model], name: str, negative: str, how: str
) -> None:
    card = pictures[name].card
    spec = spec_for(
        card,
        prompt="a red circle",
        negative_prompt=negative,
        guidance_scale=4.0 if negative else 1.0,
        num_inference_steps=3,
        width=96,
        height=card.limits.min_side,
        num_frames=1,
    )
    expected, drawn = alone.draw(spec)[0], pair.draw(spec)[0]
    assert pair.ending.result.used["parallel"] == how
    # Text and picture are attended in another order where their sequence is shared.
    assert np.array_equal(expected, drawn) if negative else np.allclose(expected, drawn, atol=1e-4)


def test_a_job_too_large_for_the_others_is_refused(pair: RankGroup, demo: Model, usual: Any) -> None:
    refused = pair.run(small(demo.card, extra={"words": "x" * 530_000}))
    assert isinstance(refused, JobFailed)
    assert refused.kind is FailureKind.INVALID_INPUT
    assert refused.message.endswith("bytes, and the processes of a group take 524288 at most")
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)


def test_a_cancel_between_two_passes_is_heard_by_all(pair: RankGroup, demo: Model, usual: Any) -> None:
    os.mkfifo(pair.taps / "go")
    for rank, changes in ((0, GUIDED), (1, UNGUIDED)):
        pair.fault("hold", rank)
        fence = pair.first.send(small(demo.card, **changes), pair.out)
        with open(pair.taps / "go", "w"):  # waits until the rank is there
            pair.first.words.slots[0].request_cancel(fence)
        assert isinstance(pair.first.ending(fence), JobCancelled)
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)


def test_a_parked_job_goes_on_as_if_it_had_not_been(
    alone: RankGroup, pair: RankGroup, demo: Model, tmp_path: Path
) -> None:
    spec = small(demo.card, num_inference_steps=5, num_outputs=2)
    kept = str(tmp_path / "kept")
    parked = pair.run(spec, checkpoints=kept, park_at=4)
    assert isinstance(parked, JobParked)
    assert parked.kept == 4  # two steps of each output
    drawn = pair.draw(spec, checkpoints=kept, kept=parked.kept)
    assert pair.ending.result.used["resumed"].startswith("after step 2 of 5")
    assert all(np.array_equal(*both) for both in zip(alone.draw(spec), drawn, strict=True))
    # Another number of processes may compute other last bits.
    alone.draw(spec, checkpoints=kept, kept=parked.kept)
    assert alone.ending.result.used["resumed"] == "no: it was made with another ranks"


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_rank_cannot_put_back_an_output_that_is_drawn_all_draw_it_again(
    alone: RankGroup, forks: Forks, demo: Model, tmp_path: Path, rank: int
) -> None:
    spec, kept = small(demo.card, num_outputs=2), str(tmp_path / "kept")
    expected = alone.draw(spec)
    group = forks.group(2, demo.card, setups={"demo": demo.setup}, checkpoint_s=1e-3).ready()
    group.draw(spec, checkpoints=kept)  # leaves the last state of each output
    group.fault("state", rank)
    drawn = group.draw(spec, checkpoints=kept, kept=6)
    assert all(np.array_equal(*both) for both in zip(expected, drawn, strict=True))
    # The first output was drawn again, and the second went on from its own.
    assert group.ending.result.used["resumed"] == "after step 3 of 3 of output 2"
    group.close()


def test_where_one_rank_leaves_with_a_draft_and_another_cannot_all_draw_again(
    pair: RankGroup, demo: Model, usual: Any, tmp_path: Path
) -> None:
    spec, kept = small(demo.card, num_inference_steps=5, num_outputs=2), str(tmp_path / "kept")
    parked = pair.run(spec, checkpoints=kept, park_at=4)
    assert isinstance(parked, JobParked)
    pair.fault("state", 1)
    again = pair.run(spec, checkpoints=kept, kept=parked.kept, park_at=4)
    assert isinstance(again, JobParked), (again, pair.log())
    assert not (pair.taps / "state-1").exists()
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_between_passes_fails_the_job_and_no_other(
    pair: RankGroup, demo: Model, usual: Any, rank: int
) -> None:
    pair.fault("between", rank)
    failed = pair.run(small(demo.card))
    assert isinstance(failed, JobFailed)
    named = "rank 1 of 2: RuntimeError: a fault of the test" if rank else "RuntimeError: a fault of the test"
    assert (failed.kind, failed.message, failed.fatal) == (FailureKind.ENGINE_ERROR, named, False)
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)


def test_what_a_client_got_wrong_ends_no_process(pair: RankGroup, i2v: Model, demo: Model, usual: Any) -> None:
    refused = pair.run(small(i2v.card, image="/nowhere.png"))
    assert isinstance(refused, JobFailed)
    assert refused.kind is FailureKind.INVALID_INPUT
    assert np.array_equal(pair.draw(small(demo.card))[0], usual)


@pytest.mark.parametrize(("fault", "rank"), [("pass", 1), ("die", 1), ("memory", 0)])
def test_a_rank_that_ends_within_a_pass_ends_all(forks: Forks, demo: Model, usual: Any, fault: str, rank: int) -> None:
    group = start(forks, 2, demo).ready()
    group.fault(fault, rank)
    failed = group.run(small(demo.card, **UNGUIDED))
    assert isinstance(failed, JobFailed)
    assert failed.fatal
    assert failed.kind is (FailureKind.OUT_OF_MEMORY if fault == "memory" else FailureKind.ENGINE_CRASHED)
    assert group.first.wait() == EXIT_DEVICE_LOST
    assert group.ranks[1].wait() != EXIT_DONE
    group.close()


def test_a_rank_whose_memory_runs_out_within_a_pass_reports_it(forks: Forks, demo: Model) -> None:
    group = start(forks, 2, demo).ready()
    group.fault("memory", 1)
    fence = group.first.send(small(demo.card, **UNGUIDED), group.out)
    reported = group.ranks[1].channel.receive()
    assert isinstance(reported, JobFailed)
    assert (reported.fence, reported.kind, reported.fatal) == (fence, FailureKind.OUT_OF_MEMORY, True)
    assert group.ranks[1].wait() == EXIT_DEVICE_LOST
    group.kill()


def test_the_end_of_an_agent_ends_a_follower(forks: Forks, demo: Model) -> None:
    group = start(forks, 2, demo).ready()
    assert group.ranks[1].close() == EXIT_DONE
    group.kill()


def test_four_share_guidance_and_sequences(forks: Forks, demo: Model, usual: Any) -> None:
    group = start(forks, 4, demo).ready()
    assert np.array_equal(group.draw(small(demo.card))[0], usual)
    assert group.ending.result.used["parallel"] == "guidance over 2 GPUs and sequence over 2 GPUs"
    group.close()


def test_what_cannot_be_shared_is_refused_at_load(forks: Forks, image_card: ModelCard) -> None:
    group = forks.group(2, image_card)
    assert isinstance(group.answer, LoadFailed)
    assert "2 GPUs cannot share a job with" in group.answer.message
    assert [one.wait() for one in group.ranks] == [EXIT_LOAD_FAILED] * 2
    group.close()


def test_a_rank_that_cannot_load_alone_says_why(forks: Forks, demo: Model) -> None:
    group = forks.group(2, demo.card, setups={"demo": demo.setup}, apart={1: {"dtype": "float3"}})
    assert isinstance(group.answer, LoadFailed)
    assert group.answer.message.startswith("dtype 'float3' is not a floating-point type")
    assert group.ranks[1].wait() == EXIT_LOAD_FAILED
    # The agent ends it; it is not the first to end.
    group.first.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        group.first.channel.receive()
    group.kill()
