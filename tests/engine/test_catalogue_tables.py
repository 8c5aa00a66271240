"""Tables, paths and names by which a model is found, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.model_dirs import model_dir
from workers.models.catalogue import card_for
from workers.models.sources import CatalogueError


def test_name_is_the_directorys_unless_given(tmp_path: Path) -> None:
    source = model_dir(tmp_path / "my-model", "WanPipeline")

    assert card_for(source).name == "my-model"
    assert card_for(source, "other").name == "other"


def test_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_dir(tmp_path / "m", "WanPipeline")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert card_for("~/m").source == source


def test_tables_come_before_the_models_own_settings_and_those_before_its_family(tmp_path: Path) -> None:
    source = model_dir(tmp_path / "m", "WanPipeline")
    (tmp_path / "m" / "zoetrope.toml").write_text(
        'name = "mine"\n[defaults]\nfps = 12.0\nnum_frames = 33\n[limits]\nmax_frames = 49\n'
    )

    own = card_for(source)
    given = card_for(source, None, {"defaults": {"num_frames": 17}, "limits": {"max_steps": 60}})

    assert (own.name, own.defaults.fps, own.defaults.num_frames, own.defaults.width) == ("mine", 12, 33, 832)
    assert (given.defaults.fps, given.defaults.num_frames) == (12, 17)
    assert (given.limits.max_frames, given.limits.max_steps) == (49, 60)


def test_path_of_a_table_is_the_models(tmp_path: Path) -> None:
    source = model_dir(tmp_path / "m", "FluxPipeline")

    card = card_for("big", "big", {"path": source})

    assert (card.name, card.source, card.pipeline) == ("big", source, "FluxPipeline")


def test_hub_id_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--some--model"
    model_dir(cache / "snapshots" / "abc", "LTXPipeline")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    card = card_for("some/model")

    assert (card.name, card.source, card.pipeline) == ("some/model", "some/model", "LTXPipeline")


def test_hub_id_that_is_not_here_needs_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(CatalogueError, match="neither a directory nor in the hub's cache"):
        card_for("some/model", "m")
    assert card_for("some/model", "m", {"pipeline": "WanPipeline"}).output == "video"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"colour": "red"}, r"\[models\.m\] colour: unknown key; known: also_image, config, defaults, engine"),
        (
            {"engine": "image"},
            r"\[models\.m\] engine: 'image' does not draw what WanPipeline makes, video; leave the key out",
        ),
        ({"engine": "steam"}, r"\[models\.m\] engine: 'steam' is not one of fake, image, video"),
        ({"output": "smell"}, "output: 'smell' is not one of image, video"),
        ({"path": 7}, "path: 7 must be a string"),
        ({"defaults": "big"}, "defaults: 'big' must be a table"),
        ({"defaults": {"widht": 64}}, r"\[models\.m\] defaults\.widht: unknown key; did you mean width\? known: fps"),
        ({"defaults": {"width": "big"}}, r"defaults\.width: 'big' must be a whole number"),
        (
            {"defaults": {"width": 100}},
            "defaults.width: 100 is not a multiple of 16 from 64 to 1920; set it, or limits",
        ),
        ({"defaults": {"num_frames": 16}}, r"defaults\.num_frames: 16 is not 1 to 257 and 4k\+1"),
        (
            {"defaults": {"num_inference_steps": 500}},
            "defaults.num_inference_steps: 500 is not 1 to 200; set it, or limits.max_steps",
        ),
        ({"defaults": {"fps": 0}}, "defaults.fps: 0 must be 1 to 240"),
        (
            {"limits": {"max_pixels": 64}},
            "defaults.width: 832x480 are 399360 pixels, and limits.max_pixels is 64; set either",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path: Path, table: Any, message: str) -> None:
    source = model_dir(tmp_path / "m", "WanPipeline")

    with pytest.raises(CatalogueError, match=message) as caught:
        card_for(source, "m", table)

    assert str(caught.value).startswith("[models.m] ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a diffusers pipeline: no model_index.json"),
        (
            {"model_index.json": '{"_class_name": "UnheardOfPipeline"}'},
            "is run by 'UnheardOfPipeline', which is no pipeline of diffusers",
        ),
        (
            {"model_index.json": '{"_class_name": ["own", "OwnPipeline"]}'},
            "code of its own, own.OwnPipeline, which is not run",
        ),
        ({"modular_model_index.json": "{}"}, "is a modular pipeline"),
        (
            {"Wan2.1_VAE.pth": "", "config.json": '{"_class_name": "WanModel"}'},
            "layout of their authors .Wan2.1_VAE.pth",
        ),
        (
            {"flux1-dev.safetensors": "", "ae.safetensors": ""},
            "layout of their authors .* get the model in diffusers' layout",
        ),
        ({"pytorch_lora_weights.safetensors": ""}, "holds a LoRA"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "holds a LoRA"),
        (
            {"config.json": '{"_class_name": "WanTransformer3DModel"}', "diffusion_pytorch_model.safetensors": ""},
            "holds one part of a model .WanTransformer3DModel.; name the directory above",
        ),
        ({"transformer/config.json": "{}", "vae/config.json": "{}"}, "the download is not complete"),
        ({"model_index.json": "{"}, "model_index.json cannot be read"),
        ({"model_index.json": "[]"}, "holds no JSON object"),
        ({"model_index.json": "{}"}, "no model_index.json with its class"),
        ({"model_index.json": '{"_class_name": "WanPipeline"}', "zoetrope.toml": "="}, "zoetrope.toml"),
        (
            {"model_index.json": '{"_class_name": "WanPipeline"}', "zoetrope.toml": "a = 1"},
            r"zoetrope\.toml a: unknown key",
        ),
    ],
)
def test_directories_that_are_no_models(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    with pytest.raises(CatalogueError, match=message):
        card_for(str(tmp_path), "m")


def test_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(CatalogueError, match=r"^model: '/nowhere/at/all' is not there; name the directory of a model"):
        card_for("/nowhere/at/all")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flux1-dev.safetensors", "is one file, which does not say how its model is built"),
        ("v1-5.ckpt", "is one file"),
        ("flux1-dev-Q4_0.gguf", "is a GGUF file"),
    ],
)
def test_a_single_file_is_told_from_nothing(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(CatalogueError, match=message):
        card_for(str(tmp_path / name))
    with pytest.raises(CatalogueError, match=f"^model: '/nowhere/{name}' is not there; a model is"):
        card_for(f"/nowhere/{name}")
