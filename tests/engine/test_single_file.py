"""A whole model out of one file: its weights are those of the file, and what is no such file is told at start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
)
from safetensors.torch import load_file, save_file

from tests.engine.families.build_ltx import BUILDERS
from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.engine.pipelines import Pipelines
from workers.models.catalogue import model_for
from workers.models.sources import CatalogueError

Tensors = dict[str, torch.Tensor]

#: Blocks of an LTX VAE: ours -> the authors'. What is longer comes first.
DECODER = {
    "mid_block": "up_blocks.0", "up_blocks.0": "up_blocks.1", "up_blocks.1.upsamplers.0": "up_blocks.2", "up_blocks.1": "up_blocks.3",
    "up_blocks.2.upsamplers.0": "up_blocks.5", "up_blocks.2": "up_blocks.6", "up_blocks.3.upsamplers.0": "up_blocks.8",
    "up_blocks.3": "up_blocks.9",
}  # fmt: skip
ENCODER = {
    "down_blocks.0.downsamplers.0": "down_blocks.1", "down_blocks.1.downsamplers.0": "down_blocks.4", "down_blocks.1": "down_blocks.3",
    "down_blocks.2.downsamplers.0": "down_blocks.7", "down_blocks.2": "down_blocks.6", "down_blocks.3": "down_blocks.8",
    "mid_block": "down_blocks.9",
}  # fmt: skip


def authors_vae(own: Tensors) -> Tensors:
    named = {}
    for name, tensor in own.items():
        side, _, rest = name.partition(".")
        blocks = DECODER if side == "decoder" else ENCODER
        for ours, theirs in sorted(blocks.items(), key=lambda pair: -len(pair[0])):
            if rest.startswith(ours + "."):
                rest = theirs + rest.removeprefix(ours)
                break
        rest = rest.replace("resnets", "res_blocks")
        statistics = {
            "latents_mean": "per_channel_statistics.mean-of-means",
            "latents_std": "per_channel_statistics.std-of-means",
        }
        named["vae." + statistics.get(name, f"{side}.{rest}")] = tensor
    assert convert_ltx_vae_checkpoint_to_diffusers(dict(named)).keys() == own.keys()
    return named


def authors_transformer(own: Tensors) -> Tensors:
    words = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
    named = {}
    for name, tensor in own.items():
        theirs = ".".join(words.get(word, word) for word in name.split("."))
        named["model.diffusion_model." + theirs] = tensor
    assert convert_ltx_transformer_checkpoint_to_diffusers(dict(named)).keys() == own.keys()
    return named


def weights(directory: Path, component: str) -> Tensors:
    [file] = (directory / component).glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("ltx")
    BUILDERS["LTXPipeline"]().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def configs(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's directory without the weights that the file has."""
    bare = shutil.copytree(saved, tmp_path_factory.mktemp("configs") / "ltx")
    for component in ("transformer", "vae"):
        for file in (bare / component).glob("*.safetensors"):
            file.unlink()
    return bare


@pytest.fixture(scope="module")
def file(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "ltx-video.safetensors"
    save_file({**authors_transformer(weights(saved, "transformer")), **authors_vae(weights(saved, "vae"))}, path)
    return path


def loaded(table: dict[str, Any], dtype: str = "float32") -> Any:
    model = model_for("m", "m", table)
    return Pipelines(Device("cpu", dtype, threads=0), {"m": model.setup}).get(model.card)


def refused(table: dict[str, Any]) -> str:
    with pytest.raises(CatalogueError) as caught:
        model_for("m", "m", table)
    return str(caught.value)


def test_a_model_out_of_one_file_has_its_weights(saved: Path, configs: Path, file: Path) -> None:
    pipe = loaded({"path": str(file), "config": str(configs)})

    assert type(pipe).__name__ == "LTXPipeline"
    for component in ("transformer", "vae", "text_encoder"):
        state = getattr(pipe, component).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in weights(saved, component).items())


def test_its_card_is_that_of_the_directory(saved: Path, configs: Path, file: Path) -> None:
    own = model_for(str(saved), "m").card
    card = model_for("m", "m", {"path": str(file), "config": str(configs)}).card

    assert (card.pipeline, card.defaults, card.limits) == (own.pipeline, own.defaults, own.limits)
    assert model_for(str(file), None, {"config": str(configs)}).card.name == "ltx-video"


def test_components_may_come_from_other_files_too(saved: Path, configs: Path, file: Path, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in weights(saved, "text_encoder").items()}
    save_file(other, tmp_path / "t5.safetensors")

    pipe = loaded(
        {"path": str(file), "config": str(configs), "parts": {"text_encoder": str(tmp_path / "t5.safetensors")}}
    )

    state = pipe.text_encoder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in other.items())


def test_a_file_that_lacks_weights_is_no_model(file: Path, configs: Path, tmp_path: Path) -> None:
    own = load_file(file)
    del own["model.diffusion_model.proj_out.bias"]
    save_file(own, tmp_path / "less.safetensors")

    with pytest.raises(LoadError, match=r"lacks weights of a component, or .* is of another model"):
        loaded({"path": str(tmp_path / "less.safetensors"), "config": str(configs)})


def test_a_file_without_configs_is_told_what_it_needs(file: Path) -> None:
    text = refused({"path": str(file)})

    assert text.startswith(f"[models.m] path: {str(file)!r} is one file, which does not say how its model is built")
    assert 'config = "DIRECTORY"' in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["transformer.blocks.0.lora_A.weight"], "is a LoRA, which changes a model and is none; it belongs in loras"),
        (["double_blocks.0.img_attn.qkv.weight"], "is one component of a model by its names (double_blocks"),
        (["model.diffusion_model.x"], "is one component of a model"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_whole_model_is_named(configs: Path, tmp_path: Path, names: list[str], message: str) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")

    assert message in refused({"path": str(tmp_path / "x.safetensors"), "config": str(configs)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.ckpt", "has a name that does not end in .safetensors; pickles are not opened"),
        ("x.safetensors", "is neither safetensors nor GGUF"),
        ("x.gguf", "is a GGUF file, one component; name its model as path, and the file in parts"),
    ],
)
def test_other_formats_are_refused(configs: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"")

    assert message in refused({"path": str(tmp_path / name), "config": str(configs)})


def test_a_pipeline_that_is_not_read_from_one_file_is_told_the_way(file: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))

    assert refused({"path": str(file), "config": str(tmp_path)}) == (
        f"[models.m] path: {file} cannot be read: diffusers reads no WanPipeline from one file; "
        "name the model's directory as path, and the file in parts"
    )


def test_what_is_for_a_directory_alone_is_refused(configs: Path, file: Path, saved: Path) -> None:
    assert "variant: 'fp16' is for a directory" in refused(
        {"path": str(file), "config": str(configs), "variant": "fp16"}
    )
    assert "is for a path that is one file" in refused({"path": str(saved), "config": str(configs)})
    assert "config: '/nowhere' is neither a directory nor in the hub's cache" in refused(
        {"path": str(file), "config": "/nowhere"}
    )
