"""What a table may say of a model: its reader, and how what it says reaches the engine."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from workers.ipc.messages import Setup
from workers.models.catalogue import model_for
from workers.models.model import ModelSetup
from workers.models.sources import CatalogueError
from workers.models.speed import Speed
from workers.models.table import Layers, read


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lora": {}}, "lora: unknown key; did you mean loras? known: also_image, config,"),
        ({"speed": {"atention": "sage"}}, "speed.atention: unknown key; did you mean attention? known: attention, "),
        ({"speed": "fast"}, "speed: 'fast' must be a table"),
        ({"speed": {"quantize": {"transformer": 8}}}, "speed.quantize.transformer: 8 must be a string"),
        ({"loras": {"x": {"file": "a", "scales": 1}}}, "loras.x.scales: unknown key; did you mean scale? known: "),
        ({"loras": {"x": {"scale": "much"}}}, "loras.x.scale: 'much' must be a number"),
        ({"sampler": {"shift": "five"}}, "sampler.shift: 'five' must be a number"),
        (
            {"loras": {"a": "a.safetensors", "b c": {"file": 3}}, "presets": {"x": {"shift": 2}}},
            'loras."b c".file: 3 must be a string',
        ),
        ({"parts": {"vae": "v.safetensors", "unet": 3}}, "parts.unet: 3 must be a string"),
        ({"presets": {"a": "x", "b": {"sigmas": [1, 2]}}}, "presets.b.sigmas[1]: 2 must be at most 1"),
        ({"sampler": {"shift": float("nan")}}, "sampler.shift: nan must be above 0"),
        ({"sampler": {"steps": 10**30}}, "sampler.steps: 1000000000000000000000000000000 must be at most 200"),
        ({"sampler": {"kind": "x" * 65}}, f"sampler.kind: '{'x' * 65}' must have at most 64 characters"),
        (
            {"speed": {"compile": "true"}},
            "speed.compile: 'true' is not one of true or false, eager, inductor; leave the quotes out",
        ),
        ({"speed": {"warm_up": "64x64"}}, "speed.warm_up: '64x64' must be a list"),
        ({"also_image": "true"}, "also_image: 'true' must be true or false; leave the quotes out"),
        ({"also_image": 1}, "also_image: 1 must be true or false"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        read("[models.m]", table)

    assert str(caught.value).startswith(f"[models.m] {message}")


def test_a_service_s_table_stands_before_the_model_s_own_key_by_key() -> None:
    own = {"pipeline": "WanPipeline", "defaults": {"fps": 8.0, "width": 64}, "output": "video"}
    given = {"output": "image", "defaults": {"width": 128}}

    assert Layers(own, given).merged() == {
        "pipeline": "WanPipeline", "output": "image", "defaults": {"fps": 8.0, "width": 128},
    }  # fmt: skip


def test_a_setup_reaches_the_engine_whole() -> None:
    setup = ModelSetup(variant="fp16", speed=Speed(quantize={"transformer": "fp8"}))
    sent = Setup(models=(model_for("fake").card,), preload="fake", device="cpu", setups={"fake": setup})

    received = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Setup)

    assert received.setups == {"fake": setup}


def test_the_tables_in_the_documents_can_be_read() -> None:
    documents = Path(__file__).parents[2] / "docs"
    blocks = [
        block
        for name in ("models.md", "configuration.md")
        for block in re.findall(r"```toml\n(.*?)```", (documents / name).read_text(encoding="utf-8"), re.DOTALL)
    ]
    tables = [table for block in blocks for table in tomllib.loads(block).get("models", {}).values()]
    assert len(tables) >= 3
    for table in tables:
        read("[models.documented]", table)


def test_a_card_says_how_the_model_is_set_up_and_no_path(tmp_path: Path) -> None:
    part = ["diffusers", "AutoencoderKLWan"]
    source = _model(tmp_path / "m", "WanPipeline", vae=part, transformer=["diffusers", "WanTransformer3DModel"])
    table = {
        "placement": "group",
        "speed": {"attention": "native", "compile": "eager", "warm_up": ["64x64x5"], "vae_dtype": "bfloat16"},
        "video_file": {"codec": "h264", "crf": 30},
    }

    card = model_for(source, "m", table).card

    assert card.setup == {
        "placement": "group", "attention": "native", "compile": "eager", "warm_up": "64x64x5", "vae_dtype": "bfloat16",
        "video_file": "h264 crf 30 yuv420p",
    }  # fmt: skip
    assert (card.vae_dtype, model_for(source).card.vae_dtype, model_for(source).card.setup) == (
        "bfloat16",
        "float32",
        {},
    )


# ---------------------------------------------------------------- what means nothing


def _model(directory: Path, pipeline: str, **index: Any) -> str:
    """A model's directory without weights."""
    directory.mkdir(parents=True)
    (directory / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    return str(directory)


def _refused(source: str, table: dict[str, Any], name: str = "m") -> str:
    with pytest.raises(CatalogueError) as caught:
        model_for(source, name, table)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sampler": {"guidance_2": 3}}, "sampler.guidance_2: 3 is of a second expert, which this model has not; leave the key out"),
        ({"presets": {"x": {"guidance_2": 3}}}, "presets.x.guidance_2: 3 is of a second expert"),
        ({"defaults": {"guidance_scale_2": 3}}, "defaults.guidance_scale_2: 3 has no effect on this WanPipeline; leave the key out"),
        ({"presets": {"": {"steps": 4}}}, 'presets."": \'\' is no name of a preset; one has 1 to 256 characters'),
        ({"presets": {"a\nb": {"steps": 4}}}, 'presets."a\\nb": \'a\\nb\' is no name of a preset'),
        ({"presets": {"x": {"steps": 150}}, "limits": {"max_steps": 100}}, "presets.x: takes 150 steps, and limits.max_steps is 100"),
        ({"sampler": {"steps": 30}, "defaults": {"num_inference_steps": 20}}, "defaults.num_inference_steps: 20 contradicts sampler"),
        (
            {"sampler": {"guidance": 1, "fixed": True}, "defaults": {"guidance_scale": 6}},
            "defaults.guidance_scale: 6 contradicts sampler, in which it is 1; leave either out",
        ),
        ({"presets": {f"p{i}": {"steps": 3} for i in range(300)}}, "presets: are 300, and at most 256 can be had"),
        ({"path": "x" * 5000}, "path: '" + "x" * 79 + "… cannot be looked up: File name too long"),
        ({"parts": {"vae": "a\0b"}}, "parts.vae: 'a\\x00b' must have no NUL character"),
        ({"lora_dir": "\0"}, "lora_dir: '\\x00' must have no NUL character"),
        ({"speed": {"download_kernels": True}}, "speed.download_kernels: true is for an attention out of the hub; leave the key out"),
        ({"limits": {"frame_choices": [17, 500]}}, "limits.frame_choices: [17, 500] is above limits.max_frames, 257"),
        ({"limits": {"frame_offset": 300}}, "limits.frame_offset: 300 is above limits.max_frames, 257"),
        ({"defaults": {"negative_prompt": "x" * 20_001}}, "defaults.negative_prompt: 'xxxxx"),
        ({"pipeline": "DiffusionPipeline"}, "pipeline: 'DiffusionPipeline' is no pipeline of diffusers "),
        ({"name": "other"}, "name: 'other' is for the zoetrope.toml in a model's directory"),
        ({"limits": {"side_multiple": 0}}, "limits.side_multiple: 0 must be 1 to 16384"),
        ({"limits": {"max_frames": -1}}, "limits.max_frames: -1 must be 1 to 100000"),
        ({"limits": {"min_side": 512, "max_side": 256}}, "limits.min_side: 512 is above limits.max_side, 256"),
        ({"limits": {"frame_choices": [0, 5]}}, "limits.frame_choices: [0, 5] must be rising numbers of frames"),
        ({"defaults": {"fps": float("nan")}}, "defaults.fps: nan must be 1 to 240"),
        ({"defaults": {"guidance_scale": -1}}, "defaults.guidance_scale: -1 must be 0 to 100"),
        ({"defaults": {"max_sequence_length": 0}}, "defaults.max_sequence_length: 0 must be 1 to 65536"),
        ({"pipeline": "WanPipelineOutput"}, "pipeline: 'WanPipelineOutput' is no pipeline of diffusers "),
        ({"pipeline": "WanPipelin"}, "pipeline: 'WanPipelin' is no pipeline of diffusers "),
        ({"pipeline": "OmniGenCollator"}, "pipeline: 'OmniGenCollator' is no pipeline of diffusers "),
        ({"pipeline": "FluxPipeline"}, "pipeline: 'FluxPipeline' is made of a scheduler, too, which "),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    assert _refused(_model(tmp_path / "m", "WanPipeline"), table).startswith(f"[models.m] {message}")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"output": "video"}, "output: 'video' is not what FluxPipeline makes, an image; leave the key out"),
        ({"defaults": {"fps": 8}}, "defaults.fps: 8 is for clips, and the model makes images; leave the key out"),
        (
            {"limits": {"max_frames": 81}},
            "limits.max_frames: 81 is for clips, and the model makes images; leave the key out",
        ),
        ({"also_image": True}, "also_image: true is for models of clips; leave the key out"),
        ({"video_file": {"crf": 3}}, "video_file: is for clips, and the model makes images; leave the table out"),
    ],
)
def test_what_is_for_clips_is_refused_for_images(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    assert _refused(_model(tmp_path / "m", "FluxPipeline"), table) == f"[models.m] {message}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loras", {"a": "/a.safetensors"}),
        ("lora_dir", "/loras"),
        ("sampler", {"kind": "euler"}),
        ("presets", {"x": {"steps": 4}}),
        ("speed", {"cache": "safe"}),
        ("placement", "model"),
        ("parts", {"vae": "/v.safetensors"}),
        ("variant", "fp16"),
        ("config", "/c"),
        ("trust_remote_code", True),
        ("pipeline", "WanPipeline"),
        ("video_file", {"crf": 3}),
    ],
)
def test_the_engine_fake_says_what_it_has_no_use_for(key: str, value: Any) -> None:
    text = _refused("fake", {"engine": "fake", key: value})
    assert text.startswith(f"[models.m] {key}: ")
    assert text.endswith(" is for models with weights, and the engine fake has none; leave the key out")


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 257])
def test_a_table_without_a_name_of_its_own_is_refused(name: str) -> None:
    assert _refused("fake", {"engine": "fake"}, name).endswith(
        ": a name has 1 to 256 characters, none of them for control, and no space at its ends"
    )


def test_what_is_wrong_in_the_models_own_file_names_that_file(tmp_path: Path) -> None:
    source = _model(tmp_path / "m", "WanPipeline")
    file = tmp_path / "m" / "zoetrope.toml"

    file.write_text("[defaults]\nwidth = 100\n")
    assert _refused(source, {"limits": {"max_steps": 60}}).startswith(
        f"{file} defaults.width: 100 is not a multiple of 16"
    )
    assert _refused(source, {"defaults": {"width": 200}}).startswith(
        "[models.m] defaults.width: 200 is not a multiple of"
    )
    file.write_text("[defaults]\nwidth = 512\n")
    assert _refused(source, {"limits": {"max_side": 256}}).startswith(
        "[models.m] defaults.width: 512 is not a multiple of"
    )
    file.write_text('path = "/elsewhere"\n')
    assert _refused(source, {}).startswith(
        f"{file} path: '/elsewhere' is not for a model to say of itself; it belongs in"
    )


def test_the_services_sampler_stands_before_the_models_own_defaults(tmp_path: Path) -> None:
    source = _model(tmp_path / "m", "WanPipeline")
    (tmp_path / "m" / "zoetrope.toml").write_text(
        "[defaults]\nnum_inference_steps = 10\nguidance_scale = 4.0\nfps = 8.0\n"
    )

    card = model_for(source, "m", {"sampler": "wan-lightx2v-4step"}).card

    assert (card.defaults.num_inference_steps, card.defaults.guidance_scale, card.defaults.fps) == (4, 1.0, 8.0)


def test_the_services_defaults_stand_before_a_sampler_of_the_models_own_that_is_not_fixed(tmp_path: Path) -> None:
    source = _model(tmp_path / "m", "WanPipeline")
    (tmp_path / "m" / "zoetrope.toml").write_text("[sampler]\nsteps = 10\n")

    assert model_for(source, "m", {"defaults": {"num_inference_steps": 20}}).card.defaults.num_inference_steps == 20
