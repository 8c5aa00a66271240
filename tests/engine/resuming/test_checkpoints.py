"""Checkpoints: a job that was interrupted goes on after its last one and draws what it would have drawn; anything else begins anew."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance
from msgspec import structs
from safetensors import safe_open

from tests.engine.families import build_more_images
from tests.engine.resumed import STEPS, Rig, same
from tests.engine.scripted import CancelAt
from workers.engine.checkpoints import Checkpoints
from workers.engine.device import Device
from workers.engine.progress import Cancelled
from workers.models.content import content_of, model_content
from workers.models.model import ModelSetup


@pytest.fixture
def slow_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint is on disk before the next step, as with steps of a real length."""
    keep = Checkpoints.keep

    def kept(self: Checkpoints, *args: Any) -> None:
        keep(self, *args)
        self.settle()

    monkeypatch.setattr(Checkpoints, "keep", kept)


pytestmark = pytest.mark.usefixtures("slow_enough")


# ---------------------------------------------------------------- going on


def test_a_job_goes_on_after_its_last_checkpoint_and_takes_the_other_steps_alone(wan: Rig) -> None:
    whole = wan.draw()
    wan.forget()
    all_steps = wan.asked
    wan.stop_after(4)

    again = wan.draw()

    assert same(whole, again)
    assert wan.used["resumed"] == f"after step 4 of {STEPS}"
    assert wan.asked == all_steps * 2 // STEPS


def test_the_time_of_the_steps_that_were_not_taken_again_counts(wan: Rig) -> None:
    """What jobs of this size cost is learned from it."""
    wan.draw()
    whole_s = wan.denoise_s
    wan.forget()
    wan.stop_after(5)

    wan.draw()

    assert wan.denoise_s == wan.monitor.times.run_s() == whole_s > 0


def test_steps_that_are_passed_over_are_not_shown(wan: Rig) -> None:
    """An agent would take them for the pace of the job."""
    wan.stop_after(4)
    wan.draw()
    assert [step for phase, step, _ in wan.slot.seen if phase == "denoise"] == [0, 5, 6]


def test_noise_of_the_steps_goes_on_where_it_was(stable_diffusion: Rig) -> None:
    whole = stable_diffusion.draw(preset="noisy")
    stable_diffusion.forget()
    stable_diffusion.stop_after(3, preset="noisy")

    again = stable_diffusion.draw(preset="noisy")

    assert stable_diffusion.used["resumed"] == f"after step 3 of {STEPS}"
    assert same(whole, again)


def test_the_momentum_of_guidance_goes_on_where_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe = build_more_images.BUILDERS["HunyuanImagePipeline"]()
    pipe.guider = AdaptiveProjectedMixGuidance(guidance_scale=3.5, adaptive_projected_guidance_start_step=0)
    rig = Rig(tmp_path, pipe)
    whole = rig.draw()
    rig.forget()
    rig.stop_after(3)

    again = rig.draw()

    assert rig.used["resumed"] == f"after step 3 of {STEPS}"
    assert same(whole, again)


def test_outputs_that_are_denoised_are_not_denoised_again(wan: Rig) -> None:
    whole = wan.draw(num_outputs=3)
    all_steps, all_s = wan.asked, wan.denoise_s
    wan.forget()
    wan.stop_after(2 * STEPS + 2, num_outputs=3)

    again = wan.draw(num_outputs=3)

    assert same(whole, again)
    assert wan.used["resumed"] == f"after step 2 of {STEPS} of output 3"
    assert wan.asked == all_steps * (STEPS - 2) // (3 * STEPS)
    assert wan.denoise_s == all_s > 0


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_job_that_is_interrupted_in_its_decoding_takes_no_step_again(wan: Rig, outputs: int) -> None:
    whole = wan.draw(num_outputs=outputs)
    all_s = wan.denoise_s
    wan.forget()
    with pytest.raises(Cancelled):
        wan.draw(CancelAt.at("decode", 0, 1), num_outputs=outputs)

    again = wan.draw(num_outputs=outputs)

    assert same(whole, again)
    which = f" of output {outputs}" if outputs > 1 else ""
    assert wan.used["resumed"] == f"after step {STEPS} of {STEPS}{which}"
    assert wan.asked == 0
    assert wan.denoise_s == all_s > 0
    assert wan.slot.progress().kept == outputs * STEPS


def test_a_job_may_be_interrupted_again_and_again(wan: Rig) -> None:
    whole = wan.draw()
    wan.forget()
    for step in (1, 3, 5):
        wan.stop_after(step)
    assert same(whole, wan.draw())
    assert wan.used["resumed"] == f"after step 5 of {STEPS}"


def test_a_cancel_while_steps_are_passed_over_leaves_the_model_as_it_was(wan: Rig) -> None:
    whole = wan.draw(seed=5)
    wan.forget()
    wan.stop_after(5)
    wan.stop_after(0)  # before the first step that is shown

    assert "forward" not in vars(wan.pipelines.get(wan.model.card).transformer)
    assert same(whole, wan.draw(seed=5, request="another"))


# ---------------------------------------------------------------- beginning anew


def another_content(rig: Rig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(rig.engine, "_contents", {})
    patch.setattr("workers.engine.diffusion.model_content", lambda *_: "another")
    return {}


def another_revision(rig: Rig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(rig.pipelines.loaded(rig.model.card.name), "revision", "another")
    return {}


def another_lora(rig: Rig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(rig.pipelines.loaded(rig.model.card.name).adapters, "content", lambda _: "another")
    return {}


def another_version(_: Rig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr("workers.engine.diffusion.versions", lambda: "torch 1.0")
    return {}


def another_device(_: Rig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(Device, "name", "NVIDIA A100")
    return {}


#: Each word of a checkpoint's binding, and how to ask for something else: what is patched, and what of the job changes.
OTHERS: dict[str, Callable[[Rig, pytest.MonkeyPatch], dict[str, Any]]] = {
    "request": lambda *_: {"request": "another"},
    "model": another_content,
    "file": another_revision,
    "LoRA": another_lora,
    "sampler": lambda *_: {"preset": "noisy"},
    "version of a library": another_version,
    "device": another_device,
}


def test_all_that_a_checkpoint_is_bound_to_is_in_the_table(stable_diffusion: Rig) -> None:
    stable_diffusion.stop_after(2)
    with safe_open(stable_diffusion.kept / stable_diffusion.files()[0], framework="pt") as file:
        assert set(json.loads(file.metadata()["binding"])) == set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_anything_else_is_refused(
    stable_diffusion: Rig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stable_diffusion.stop_after(4)
    changes = OTHERS[name](stable_diffusion, monkeypatch)

    again = stable_diffusion.draw(every_s=1000.0, **changes)

    assert stable_diffusion.used["resumed"] == f"no: it was made with another {name}"
    anew = stable_diffusion.asked
    stable_diffusion.forget()
    assert same(stable_diffusion.draw(every_s=1000.0, **changes), again)
    assert stable_diffusion.asked == anew, "every step was taken"


def test_on_another_machine_files_count_by_their_content(
    stable_diffusion: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stable_diffusion.draw(every_s=1000.0)
    stable_diffusion.stop_after(4)
    another_revision(stable_diffusion, monkeypatch)
    monkeypatch.setattr("platform.node", lambda: "another-machine")
    assert same(stable_diffusion.draw(every_s=1000.0), whole)
    assert stable_diffusion.used["resumed"] == f"after step 4 of {STEPS}"


@pytest.mark.parametrize("changed", ["beginning", "sample", "size", "name"])
def test_what_a_file_is_looked_at_for(tmp_path: Path, changed: str) -> None:
    big = bytearray(range(256)) * 4096 * 10  # 10 MiB
    one, other, name = tmp_path / "one", tmp_path / "other", "weights"
    one.write_bytes(big)
    assert content_of([(name, one)]) == content_of([(name, one)])
    match changed:
        case "beginning":
            big[2000] ^= 1
        case "sample":
            big[9 * 1024 * 1024 + 100 : 9 * 1024 * 1024 + 5000] = bytes(4900)
        case "size":
            big.append(0)
        case "name":
            name = "others"
    other.write_bytes(big)
    assert content_of([("weights", one)]) != content_of([(name, other)])


def test_a_model_has_the_same_content_wherever_it_lies_and_whoever_fetched_it(wan: Rig, tmp_path: Path) -> None:
    card, setup = wan.model.card, ModelSetup()
    there = tmp_path / "there"
    shutil.copytree(card.source, there)
    (there / ".cache").mkdir()
    (there / ".cache" / "fetched").write_text("yesterday")
    here = model_content(card, setup, "cpu", "float32")
    assert model_content(structs.replace(card, source=str(there)), setup, "cpu", "float32") == here
    (there / "model_index.json").write_text("{}")
    assert model_content(structs.replace(card, source=str(there)), setup, "cpu", "float32") != here


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(wan: Rig) -> None:
    whole = wan.draw()
    wan.forget()
    wan.stop_after(4)
    assert wan.files() == ["0-3.safetensors", "0-4.safetensors"]
    newest = wan.kept / "0-4.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])

    assert same(whole, wan.draw())
    assert (
        wan.used["resumed"]
        == f"after step 3 of {STEPS}, as a newer checkpoint was refused: it is damaged: its digest is another"
    )


@pytest.mark.parametrize("damage", ["torn", "empty", "junk", "lacks a tensor", "another shape"])
def test_no_damage_fails_a_job(wan: Rig, damage: str) -> None:
    whole = wan.draw()
    wan.forget()
    wan.stop_after(1)
    [path] = wan.kept.iterdir()
    content = path.read_bytes()
    match damage:
        case "torn":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "junk":
            path.write_bytes(bytes(range(256)) * 40)
        case _:
            rewrite(path, damage)

    again = wan.draw()

    assert same(whole, again)
    assert wan.used["resumed"].startswith("no: ")


def rewrite(path: Path, damage: str) -> None:
    """The same checkpoint as another service might write it, with a digest that is right."""
    with safe_open(path, framework="pt") as file:
        binding = json.loads(file.metadata()["binding"])
    store = Checkpoints(path.parent, 0.0)
    state, _ = store.find(0, binding)
    assert state is not None
    tensors = dict(state.tensors)
    if damage == "lacks a tensor":
        del tensors["loop.latents"]
    else:
        tensors["loop.latents"] = tensors["loop.latents"][..., :1].contiguous()
    store.keep(structs.replace(state, tensors=tensors), binding)
    store.settle()


def test_where_nothing_can_be_written_the_job_is_drawn(wan: Rig, caplog: pytest.LogCaptureFixture) -> None:
    whole = wan.draw()
    wan.forget()
    wan.kept.rmdir()
    wan.kept.write_text("no directory")
    try:
        with caplog.at_level(logging.WARNING):
            assert same(whole, wan.draw())
    finally:
        wan.kept.unlink()
    assert "a checkpoint cannot be written" in caplog.text


def test_a_state_that_cannot_be_kept_costs_the_job_nothing(
    wan: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = wan.draw()
    wan.forget()
    monkeypatch.setattr(wan.pipelines.get(wan.model.card).scheduler, "solver", object(), raising=False)
    with caplog.at_level(logging.WARNING):
        assert same(whole, wan.draw())
    assert wan.files() == []
    assert caplog.text.count("no checkpoints of this job") == 1


def test_a_job_that_is_much_shorter_than_the_interval_writes_none(wan: Rig) -> None:
    wan.draw(every_s=1000.0)
    assert wan.files() == []


def test_where_checkpoints_are_off_none_is_written_after_the_last_step(wan: Rig) -> None:
    wan.draw(every_s=math.inf)
    assert wan.files() == []


def test_a_step_cache_has_a_state_of_its_own(wan: Rig) -> None:
    wan.draw(cache="safe", num_inference_steps=12)
    assert wan.files() == []
