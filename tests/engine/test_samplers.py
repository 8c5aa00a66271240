"""Samplers and presets in a model's table: what is read, what is refused and how, and which distilled models are known by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.wire.sampling import Sampler
from workers.models.catalogue import card_for
from workers.models.samplers import KINDS, PRESETS
from workers.models.sources import CatalogueError

_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_BY_SIZE = {**_FLOW, "use_dynamic_shifting": True}
_NOISE = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}


def model(place: Path, pipeline: str, scheduler: dict[str, Any], **index: Any) -> str:
    """A model's directory with its index and its scheduler's config."""
    (place / "scheduler").mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return str(place)


def test_a_sampler_decides_the_defaults_of_its_model(tmp_path: Path) -> None:
    card = card_for(model(tmp_path / "m", "WanPipeline", _FLOW), "m", {"sampler": "wan-lightx2v-4step"})
    assert card.sampler == PRESETS["wan-lightx2v-4step"].sampler
    assert (card.defaults.num_inference_steps, card.defaults.guidance_scale) == (4, 1.0)


def test_presets_are_tables_names_or_names_with_changes(tmp_path: Path) -> None:
    presets: dict[str, Any] = {
        "fast": "wan-lightx2v-4step",
        "faster": {"preset": "fast", "sigmas": [1, 0.5]},
        "fine": {"kind": "uni_pc", "shift": 5, "steps": 30, "guidance": 5.5, "fixed": False},
    }
    card = card_for(model(tmp_path / "m", "WanPipeline", _FLOW), "m", {"presets": presets})
    assert card.presets["faster"] == Sampler(kind="euler", sigmas=(1.0, 0.5), shift=5.0, guidance=1.0, fixed=True)
    assert card.presets["fine"] == Sampler(kind="unipc", shift=5.0, steps=30, guidance=5.5, fixed=False)
    assert (card.sampler, card.defaults.num_inference_steps) == (None, 50)


def test_both_experts_of_a_pair_get_the_guidance(tmp_path: Path) -> None:
    source = model(tmp_path / "m", "WanPipeline", _FLOW, boundary_ratio=0.875)
    card = card_for(source, "m", {"sampler": {"preset": "wan-lightx2v-4step", "boundary": 0.9}})
    assert (card.defaults.guidance_scale, card.defaults.guidance_scale_2) == (1.0, 1.0)
    assert card.sampler is not None
    assert card.sampler.boundary == 0.9


WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("WanPipeline", _FLOW, {"sampler": "fast"}, "sampler: 'fast' is no preset; known: wan-lightx2v-4step, "),
    ("WanPipeline", _FLOW, {"sampler": {"kind": "eular"}}, "sampler.kind: 'eular' is not one of euler, "),
    ("WanPipeline", _FLOW, {"sampler": {"kinds": "euler"}}, "sampler.kinds: unknown key; did you mean kind? known: "),
    ("WanPipeline", _FLOW, {"sampler": {"shift": 0}}, "sampler.shift: "),
    ("WanPipeline", _FLOW, {"sampler": {"sigmas": [0.5, 1]}}, "sampler.sigmas: [0.5, 1.0] must fall from step to step"),
    ("WanPipeline", _FLOW, {"sampler": {"sigmas": [1, 0.5], "steps": 4}}, "sampler.steps: 4 contradicts sigmas, which are 2"),
    ("WanPipeline", _FLOW, {"sampler": {"sigmas": [1], "timesteps": [999]}}, "sampler.sigmas: [1.0] are given beside timesteps"),
    ("WanPipeline", _FLOW, {"sampler": {"timesteps": [999], "shift": 3}}, "sampler.shift: 3 does not move timesteps"),
    ("WanPipeline", _FLOW, {"sampler": {"kind": "ddim"}}, "sampler.kind: 'ddim' is not for models that predict the flow"),
    ("WanPipeline", _FLOW, {"sampler": {"spacing": "trailing"}}, "sampler.spacing: 'trailing' is of models that predict noise"),
    ("WanPipeline", _FLOW, {"sampler": {"boundary": 0.9}}, "sampler.boundary: 0.9 is where a second expert takes over"),
    (
        "WanPipeline", _FLOW, {"presets": {"x": {"kind": "dpm++", "sigmas": [1, 0.5]}}},
        "presets.x.sigmas: [1.0, 0.5] cannot be given to 'dpm++_2m'; these take them: euler, heun, lcm, unipc",
    ),
    (
        "StableDiffusionXLPipeline", _NOISE, {"sampler": {"shift": 3}},
        "sampler.shift: 3.0 is of flow-matching models, and EulerDiscreteScheduler is of models that predict noise; leave the key out",
    ),
    (
        "StableDiffusionXLPipeline", _NOISE, {"sampler": {"kind": "ddim", "timesteps": [999]}},
        "sampler.timesteps: [999.0] cannot be given to 'ddim'; these take them: euler, heun, lcm, tcd, dpm++_2m, dpm++_2m_sde, ddpm",
    ),
    (
        "HeliosPipeline", {"_class_name": "HeliosScheduler"}, {"sampler": {"kind": "euler"}},
        "sampler.kind: 'euler' cannot be had: the steps of HeliosPipeline are taken by its HeliosScheduler",
    ),
    (
        "WanPipeline", _FLOW, {"sampler": "wan-lightx2v-4step", "defaults": {"num_inference_steps": 50}},
        "defaults.num_inference_steps: 50 contradicts sampler, in which it is 4",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "scheduler", "table", "text"), WRONG, ids=[row[3][:40] for row in WRONG])
def test_what_a_model_cannot_have_is_one_sentence(
    tmp_path: Path, pipeline: str, scheduler: dict[str, Any], table: dict[str, Any], text: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        card_for(model(tmp_path / "m", pipeline, scheduler), "m", table)
    assert str(caught.value).startswith(f"[models.m] {text}")


#: (name of the directory, pipeline, scheduler, steps, guidance).
KNOWN = [
    ("Z-Image-Turbo", "ZImagePipeline", _FLOW, 8, 0.0),
    ("Z-Image", "ZImagePipeline", _FLOW, 50, 5.0),
    ("FastWan2.1-T2V-1.3B-Diffusers", "WanPipeline", _FLOW, 3, 1.0),
    ("Wan2.1-T2V-14B-StepDistill-CfgDistill", "WanPipeline", _FLOW, 4, 1.0),
    ("Wan2.1-T2V-14B-Diffusers", "WanPipeline", _FLOW, 50, 5.0),
    ("HunyuanVideo-1.5-480p-T2V-LightX2V", "HunyuanVideo15Pipeline", _FLOW, 4, 1.0),
    # Distilled by others, to another number of steps at other times.
    ("HunyuanVideo-1.5-Diffusers-480p_i2v_step_distilled", "HunyuanVideo15ImageToVideoPipeline", _FLOW, 50, None),
    ("Qwen-Image-Lightning-8steps", "QwenImagePipeline", _BY_SIZE, 8, 1.0),
    ("LTX-Video-0.9.8-13B-distilled", "LTXPipeline", _BY_SIZE, 7, 1.0),
    ("LTX-2-distilled", "LTX2Pipeline", _BY_SIZE, 8, 1.0),
    ("SDXL-Lightning", "StableDiffusionXLPipeline", _NOISE, 4, 0.0),
    ("Qwen-Image-Edit-Lightning-8steps", "QwenImageEditPlusPipeline", _BY_SIZE, 8, 1.0),
    ("Wan2.2-T2V-A14B-Lightning", "WanPipeline", _FLOW, 4, 1.0),
    ("SANA_Sprint_1.6B_1024px_diffusers", "SanaSprintPipeline", _FLOW, 2, 4.5),
    ("sdxl-turbo", "StableDiffusionXLPipeline", _NOISE, 1, 0.0),
    ("stable-diffusion-3.5-large-turbo", "StableDiffusion3Pipeline", _FLOW, 4, 0.0),
]


@pytest.mark.parametrize(("name", "pipeline", "scheduler", "steps", "guidance"), KNOWN, ids=[row[0] for row in KNOWN])
def test_distilled_models_are_known_by_their_name(
    tmp_path: Path, name: str, pipeline: str, scheduler: dict[str, Any], steps: int, guidance: float | None
) -> None:
    defaults = card_for(model(tmp_path / name, pipeline, scheduler)).defaults
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (steps, guidance)


def test_a_name_may_be_overruled(tmp_path: Path) -> None:
    card = card_for(model(tmp_path / "my-wan-dmd", "WanPipeline", _FLOW), "m", {"sampler": "own"})
    assert (card.sampler, card.defaults.num_inference_steps) == (None, 50)


def test_every_built_in_preset_is_of_a_solver_that_takes_what_it_says() -> None:
    for name, preset in PRESETS.items():
        sampler = preset.sampler
        assert sampler.own_steps, name
        if sampler.kind:
            kind = KINDS[sampler.kind]
            assert (kind.sigmas if kind.flow else True) or not sampler.sigmas, name
