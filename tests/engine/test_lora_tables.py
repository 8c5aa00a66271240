"""LoRAs in a model's table: read from headers at start, and what is none of this model is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from broker.wire.loras import LoraCard
from workers.models.catalogue import model_for
from workers.models.sources import CatalogueError

INTO = 24


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """A model's directory with the header of one layer's weights."""
    return _model(tmp_path / "wan", "WanPipeline")


def _model(place: Path, pipeline: str, **index: Any) -> Path:
    (place / "transformer").mkdir(parents=True)
    (place / "scheduler").mkdir()
    parts = {"transformer": ["diffusers", "WanTransformer3DModel"], **index}
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **parts}))
    (place / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    )
    (place / "transformer" / "config.json").write_text("{}")
    weights = {"blocks.0.attn1.to_q.weight": torch.zeros(INTO, INTO)}
    save_file(weights, place / "transformer" / "diffusion_pytorch_model.safetensors")
    return place


def pair(name: str, into: int = INTO, rank: int = 2) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": torch.zeros(rank, into), f"{name}.lora_B.weight": torch.zeros(into, rank)}


LAYER = "transformer.blocks.0.attn1.to_q"


def lora(place: Path, tensors: dict[str, torch.Tensor] | None = None) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(pair(LAYER) if tensors is None else tensors, place)
    return str(place)


def test_a_table_names_files_with_scale_trigger_and_preset(wan: Path, tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors")
    table: dict[str, Any] = {
        "plain": file,
        "style": {"file": file, "scale": 0.8, "trigger": "in style", "preset": "wan-lightx2v-4step"},
    }
    model = model_for(str(wan), "m", {"loras": table})
    assert model.card.loras == {
        "plain": LoraCard(components=("transformer",)),
        "style": LoraCard(scale=0.8, trigger="in style", components=("transformer",), preset="wan-lightx2v-4step"),
    }
    assert model.card.presets["wan-lightx2v-4step"].own_steps == 4
    assert model.setup.loras["plain"].files == {"transformer": file}


def test_a_directory_names_them_by_their_stems(wan: Path, tmp_path: Path) -> None:
    place = tmp_path / "loras"
    for name in ("b.v1", "a"):
        lora(place / f"{name}.safetensors")
    (place / "README.md").touch()
    assert list(model_for(str(wan), "m", {"lora_dir": str(place)}).card.loras) == ["a", "b.v1"]
    named = model_for(
        str(wan), "m", {"lora_dir": str(place), "loras": {"a": {"file": lora(tmp_path / "x.safetensors"), "scale": 2}}}
    )
    assert named.card.loras["a"].scale == 2.0


def test_a_link_out_of_the_directory_is_refused_and_one_inside_is_not(wan: Path, tmp_path: Path) -> None:
    place = tmp_path / "loras"
    lora(place / "a.safetensors")
    (place / "b.safetensors").symlink_to(place / "a.safetensors")
    assert list(model_for(str(wan), "m", {"lora_dir": str(place)}).card.loras) == ["a", "b"]
    (place / "c.safetensors").symlink_to(lora(tmp_path / "out.safetensors"))
    with pytest.raises(CatalogueError, match=r"\[models\.m\] lora_dir: '.*/c\.safetensors' is a link out of "):
        model_for(str(wan), "m", {"lora_dir": str(place)})


def test_a_models_own_table_names_files_in_its_directory(wan: Path, tmp_path: Path) -> None:
    lora(wan / "loras" / "a.safetensors")
    settings = wan / "zoetrope.toml"
    settings.write_text('[loras]\na = "loras/a.safetensors"\n')
    assert list(model_for(str(wan), "m").card.loras) == ["a"]
    left_out = {"loras": {"a": "", "b": lora(tmp_path / "b.safetensors")}}
    assert list(model_for(str(wan), "m", left_out).card.loras) == ["b"]
    assert model_for(str(wan), "m", {"loras": {"a": ""}, "speed": {"compile": True}}).card.loras == {}
    lora(tmp_path / "out.safetensors")
    settings.write_text('[loras]\na = "../out.safetensors"\n')
    with pytest.raises(
        CatalogueError, match=r"/wan/zoetrope.toml loras.a: '../out.safetensors' is outside of the model's directory"
    ):
        model_for(str(wan), "m")


@pytest.mark.parametrize(
    "tensors",
    [
        pair("diffusion_model.blocks.0.self_attn.q"),
        pair("blocks.0.attn1.to_q"),
        pair("base_model.model.blocks.0.attn1.to_q"),
        {
            "lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.zeros(2, INTO),
            "lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.zeros(INTO, 2),
            "lora_unet_blocks_0_self_attn_q.alpha": torch.tensor(2.0),
        },
    ],
)
def test_formats_are_known_by_their_names(wan: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    file = lora(tmp_path / "a.safetensors", tensors)
    assert model_for(str(wan), "m", {"loras": {"a": file}}).card.loras["a"].components == ("transformer",)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (
            pair(LAYER, into=32),
            "was made for another model: transformer.blocks.0.attn1.to_q takes 32 numbers, and the model's 24",
        ),
        (
            pair("diffusion_model.blocks.0.self_attn.q", into=5120),
            "its layers take 5120 numbers, and those of this transformer take 24",
        ),
        (pair("text_encoder.layers.0.q"), "is for a model with a text_encoder, and this one has none"),
        (
            {**pair(LAYER), **pair("transformer.blocks.0.attn1.to_k")},
            "was made for another model: 1 of its 2 layers are none of this transformer, as transformer.blocks.0.attn1.to_k",
        ),
        (
            pair("transformer.transformer_blocks.0.attn.to_q"),
            "was made for another model: 1 of its 1 layers are none of this transformer",
        ),
        (
            pair("diffusion_model.blocks.7.self_attn.q"),
            "diffusion_model.blocks.7.self_attn.q is none of this transformer, whose last block is 0",
        ),
        (
            {
                "lora_unet_blocks_39_self_attn_q.lora_down.weight": torch.zeros(2, INTO),
                "lora_unet_blocks_39_self_attn_q.lora_up.weight": torch.zeros(INTO, 2),
            },
            "lora_unet_blocks_39_self_attn_q is none of this transformer, whose last block is 0",
        ),
        ({"blocks.0.attn1.to_q.weight": torch.zeros(2, 2)}, "is no LoRA: none of its tensors are low-rank pairs"),
        ({f"{LAYER}.lokr_w1": torch.zeros(2, 2)}, "is a LoKr"),
        ({**pair(LAYER), f"{LAYER}.dora_scale": torch.zeros(2)}, "is a DoRA"),
    ],
)
def test_what_is_no_lora_of_this_model_is_told_at_start(wan: Path, tmp_path: Path, tensors: Any, text: str) -> None:
    file = lora(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CatalogueError, match=r"^\[models\.m\] loras\.a: ") as reported:
        model_for(str(wan), "m", {"loras": {"a": file}})
    assert text in str(reported.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x80\x04code", "is a pickle"),
        (b"", "is neither"),
        (None, "is not there"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "is cut short"),
    ],
)
def test_a_file_of_another_kind_is_not_opened(wan: Path, tmp_path: Path, content: bytes | None, text: str) -> None:
    file = tmp_path / "a.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CatalogueError, match=text):
        model_for(str(wan), "m", {"loras": {"a": str(file)}})


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_as_long_as_a_pickle_begins_is_one(wan: Path, tmp_path: Path, length: int) -> None:
    file = Path(lora(tmp_path / "a.safetensors"))
    read = file.read_bytes()
    own = 8 + int.from_bytes(read[:8], "little")
    file.write_bytes(length.to_bytes(8, "little") + read[8:own].ljust(length) + read[own:])
    assert file.read_bytes()[0] == 0x80
    assert list(model_for(str(wan), "m", {"loras": {"a": str(file)}}).card.loras) == ["a"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"scale": 1}, "loras.x: no file is named; give file, or high and low"),
        (
            {"high": "a", "low": "b"},
            "loras.x.high: 'a' is for a model with two experts, and this one has one; give file",
        ),
        ({"file": "a", "high": "b"}, "loras.x.file: 'a' stands beside high or low"),
        ({"file": "a", "scale": 100}, "loras.x.scale: 100.0 must be -10 to 10"),
    ],
)
def test_a_wrong_entry_is_told(wan: Path, entry: dict[str, Any], text: str) -> None:
    with pytest.raises(CatalogueError, match=text):
        model_for(str(wan), "m", {"loras": {"x": entry}})


@pytest.mark.parametrize("name", ["a/b", "..", " a", "a\\b", "x" * 129])
def test_a_name_is_never_a_path(wan: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogueError, match="is no name; one has 1 to 128 characters without /"):
        model_for(str(wan), "m", {"loras": {name: lora(tmp_path / "a.safetensors")}})


def test_a_pipeline_that_takes_none_says_so(tmp_path: Path) -> None:
    place = _model(tmp_path / "m", "HunyuanVideo15Pipeline")
    with pytest.raises(
        CatalogueError, match=r"loras\.a: 'a' is of no use: HunyuanVideo15Pipeline takes no LoRA; leave the key out"
    ):
        model_for(str(place), "m", {"loras": {"a": lora(tmp_path / "a.safetensors")}})


def test_an_unknown_preset_is_told(wan: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CatalogueError, match=r"\[models\.m\] loras\.a\.preset: 'quick' is no preset; known: wan-lightx2v-4step, "
    ):
        model_for(str(wan), "m", {"loras": {"a": {"file": lora(tmp_path / "a.safetensors"), "preset": "quick"}}})


def test_a_compiled_model_in_eight_bits_takes_loras(wan: Path, tmp_path: Path) -> None:
    for method in ("int8", "layerwise_fp8"):
        table = {
            "loras": {"a": lora(tmp_path / "a.safetensors")},
            "speed": {"compile": True, "quantize": {"transformer": method}},
        }
        assert [*model_for(str(wan), "m", table).card.loras] == ["a"]
