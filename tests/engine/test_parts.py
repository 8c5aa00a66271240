"""Components out of files of their own: whose names they have, what is drawn with them, what is refused before anything is loaded."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file

from tests.engine import tiny
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.models.catalogue import model_for
from workers.models.sources import CatalogueError

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_wan_image_to_video(tmp_path_factory.mktemp("base"))


def weights(base: Path, component: str) -> Tensors:
    [file] = (base / component).glob("*.safetensors")
    return load_file(file)


def others(tensors: Tensors) -> Tensors:
    """Weights of the same shapes that are not the model's own; what float16 holds."""
    torch.manual_seed(1)
    return {name: (tensor + 0.1 * torch.randn_like(tensor)).half().float() for name, tensor in tensors.items()}


def authors_names(tensors: Tensors) -> Tensors:
    """A Wan transformer's weights as its authors name them."""
    words = [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1", "self_attn"),
        ("attn2", "cross_attn"),
        ("to_out.0", "o"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        ("proj_out", "head.head"),
        ("norm2", "norm3"),
    ]
    named = {}
    for name, tensor in tensors.items():
        theirs = name
        for ours, word in words:
            theirs = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\g<1>{word}.", theirs)
        theirs = "head.modulation" if name == "scale_shift_table" else theirs.replace("scale_shift_table", "modulation")
        named[theirs] = tensor
    assert convert_wan_transformer_to_diffusers(dict(named)).keys() == tensors.keys()
    return named


def behind(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in authors_names(tensors).items()}


def loaded(base: Path, parts: dict[str, str], dtype: str = "float32") -> Any:
    model = model_for(str(base), "m", {"parts": parts})
    return Pipelines(Device("cpu", dtype, threads=0), {"m": model.setup}).get(model.card)


@pytest.mark.parametrize("named", [dict, authors_names, behind("model.diffusion_model."), behind("diffusion_model.")])
def test_a_transformer_out_of_a_file_is_bit_equal(
    base: Path, tmp_path: Path, named: Callable[[Tensors], Tensors]
) -> None:
    wanted = others(weights(base, "transformer"))
    save_file(named(wanted), tmp_path / "other.safetensors")

    pipe = loaded(base, {"transformer": str(tmp_path / "other.safetensors")})

    state = pipe.transformer.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    vae = pipe.vae.state_dict()
    assert all(torch.equal(vae[name], tensor) for name, tensor in weights(base, "vae").items())


def test_a_component_has_the_types_that_it_has_in_a_directory(base: Path, tmp_path: Path) -> None:
    """Some of its layers stay in float32."""
    save_file(weights(base, "transformer"), tmp_path / "same.safetensors")

    replaced = loaded(base, {"transformer": str(tmp_path / "same.safetensors")}, "bfloat16").transformer.state_dict()

    usual = loaded(base, {}, "bfloat16").transformer.state_dict()
    assert {tensor.dtype for tensor in usual.values()} == {torch.bfloat16, torch.float32}
    assert all(replaced[name].dtype == tensor.dtype for name, tensor in usual.items())
    assert all(torch.equal(replaced[name], tensor) for name, tensor in usual.items())


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_any_component_can_be_replaced_and_its_own_weights_need_not_be_there(
    base: Path, tmp_path: Path, component: str
) -> None:
    wanted = others(weights(base, component))
    save_file(wanted, tmp_path / "other.safetensors")
    bare = shutil.copytree(base, tmp_path / "bare")
    for file in (bare / component).glob("*.safetensors"):
        file.unlink()

    pipe = loaded(bare, {component: str(tmp_path / "other.safetensors")})

    state = getattr(pipe, component).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())


def test_float8_weights_are_brought_to_the_model_s_type_by_their_scales(base: Path, tmp_path: Path) -> None:
    own = weights(base, "transformer")
    stored: Tensors = {"scaled_fp8": torch.zeros(2)}
    for name, tensor in authors_names(own).items():
        stored[name] = tensor
        if name.endswith(("q.weight", "k.weight")):
            scale = tensor.abs().max() / 448
            stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + "scale_weight"] = scale
    save_file(stored, tmp_path / "fp8.safetensors")

    state = loaded(base, {"transformer": str(tmp_path / "fp8.safetensors")}).transformer.state_dict()

    query = "blocks.0.attn1.to_q.weight"
    assert state[query].dtype == torch.float32
    # float8 has three bits behind the point.
    assert 0 < (state[query] - own[query]).abs().max() <= own[query].abs().max() / 16
    assert torch.equal(state["blocks.0.attn1.to_v.weight"], own["blocks.0.attn1.to_v.weight"])


def save_gguf(tensors: Tensors, file: Path, arch: str = "wan", name: str = "") -> Path:
    """As converters do: matrices in eight bits, all else as it is."""
    writer = gguf.GGUFWriter(str(file), arch)
    if name:
        writer.add_name(name)
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def frames(base: Path, parts: dict[str, str], monitor: Monitor, out_dir: Path) -> Any:
    """The frames that the model draws, in numbers that can be subtracted."""
    out_dir.mkdir()
    model = model_for(str(base), "m", {"parts": parts, "defaults": {"max_sequence_length": 16}})
    engine = VideoEngine(Pipelines(Device("cpu", "auto", threads=1), {"m": model.setup}))
    picture = out_dir.parent / "first.png"
    size = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    spec = spec_for(model.card, image=str(picture), **size)
    drawn = written(lambda: complete(engine.generate(model.card, spec, out_dir, monitor, "normal")))
    return drawn.astype(int)


def test_a_gguf_file_draws_nearly_what_its_weights_draw(
    base: Path, tmp_path: Path, monitor: Monitor, picture: Path
) -> None:
    changed = others(weights(base, "transformer"))
    save_file(changed, tmp_path / "whole.safetensors")
    file = save_gguf(authors_names(changed), tmp_path / "small.gguf")

    own = frames(base, {}, monitor, tmp_path / "own")
    whole = frames(base, {"transformer": str(tmp_path / "whole.safetensors")}, monitor, tmp_path / "whole")
    small = frames(base, {"transformer": str(file)}, monitor, tmp_path / "small")

    assert monitor.used == {"parts": "transformer small.gguf"}
    assert abs(whole - own).mean() > 2
    # Eight bits: half a percent of a weight.
    assert 0 < abs(small - whole).mean() < 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            lambda own: {k: v for k, v in own.items() if k != "proj_out.bias"},
            "lacks weights of the transformer: proj_out.bias; get the file anew",
        ),
        (lambda own: {**own, "extra.bias": torch.zeros(2)}, "has weights that the transformer has not: extra.bias; "),
    ],
)
def test_a_file_that_does_not_fit_is_no_model(
    base: Path, tmp_path: Path, changed: Callable[[Tensors], Tensors], message: str
) -> None:
    save_file(changed(weights(base, "transformer")), tmp_path / "odd.safetensors")

    with pytest.raises(LoadError, match=message):
        loaded(base, {"transformer": str(tmp_path / "odd.safetensors")})


# ---------------------------------------------------------------- refused by the header


def header(file: Path, names: list[str], shape: tuple[int, ...] = (1,)) -> Path:
    """A safetensors file of float16 tensors, all zero."""
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name in names}, file)
    return file


def refused(base: Path, parts: dict[str, str]) -> str:
    with pytest.raises(CatalogueError) as caught:
        model_for(str(base), "m", {"parts": parts})
    text = str(caught.value)
    assert text.startswith("[models.m] parts.")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("component", "names", "message"),
    [
        ("transformer", ["blocks.0.attn.lora_A.weight"], "is a LoRA, which changes weights and is none; it belongs in loras"),
        ("transformer", ["lora_unet_blocks_0.lora_up.weight"], "is a LoRA"),
        ("transformer", ["model.diffusion_model.x", "first_stage_model.y"], "is a whole checkpoint .model.diffusion_model.x beside"),
        ("transformer", ["encoder.conv1.weight", "decoder.conv1.weight"], "is a VAE by its names .*, and a transformer is needed"),
        ("transformer", ["encoder.block.0.layer.0.x", "shared.weight"], "is a text encoder by its names"),
        ("vae", ["blocks.0.self_attn.q.weight"], "is a transformer by its names .*, and a VAE is needed"),
        ("text_encoder", ["double_blocks.0.x"], "is a transformer by its names .*, and a text encoder is needed"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(
    base: Path, tmp_path: Path, component: str, names: list[str], message: str
) -> None:
    file = header(tmp_path / "x.safetensors", names)

    assert re.search(rf"parts\.{component}: {re.escape(str(file))} {message}", refused(base, {component: str(file)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        (b"", "is neither safetensors nor GGUF"),
        (b"PK\x03\x04" + b"x" * 100, "is a pickle, which can run code when it is read, and is not opened; get it as"),
        (b"\x80\x02}q\x01" + b"x" * 100, "is a pickle"),
        (struct.pack("<Q", 500) + b"{}", "is cut short: 10 of at least 508 bytes"),
        (struct.pack("<Q", 2) + b"[]", "is neither safetensors nor GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 5, 0), "is a damaged GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 5, 0), "is GGUF version 9; versions 2 and 3 are read"),
    ],
)
def test_what_is_no_file_of_weights_is_told(base: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "x.safetensors"
    if content is not None:
        file.write_bytes(content)

    assert f"{file} {message}" in refused(base, {"transformer": str(file)})


def test_a_component_that_the_model_has_not_is_told_from_those_it_has(base: Path) -> None:
    text = refused(base, {"transfromer": "x"})

    assert text.endswith(
        "is for a component that the model has not; those with weights are text_encoder, transformer, vae"
    )


def test_weights_of_another_size_are_told_by_their_shapes(base: Path, tmp_path: Path) -> None:
    wider = {name: torch.zeros(*tensor.shape[:-1], 7) for name, tensor in weights(base, "transformer").items()}
    save_file(wider, tmp_path / "wide.safetensors")

    text = refused(base, {"transformer": str(tmp_path / "wide.safetensors")})

    assert "is of another model: shapes of blocks.0.attn1.norm_k.weight are 7 and 32 in the file and in" in text


#: Part of a name of transformers -> of llama.cpp, for a T5 encoder.
_LLAMA_CPP = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "encoder.block.": "enc.blk.",
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def llama_cpp_names(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in _LLAMA_CPP.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def test_a_text_encoder_from_a_gguf_file_of_llama_cpp(base: Path, tmp_path: Path) -> None:
    changed = others(weights(base, "text_encoder"))
    file = save_gguf(llama_cpp_names(changed), tmp_path / "umt5.gguf", arch="t5encoder", name="umt5")

    encoder = loaded(base, {"text_encoder": str(file)}).text_encoder

    found = encoder.state_dict()
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in found
    for name, tensor in changed.items():
        assert found[name].dtype == torch.float32
        # Eight bits with a scale for 32 numbers: half a step of 127.
        assert (found[name] - tensor).abs().max() <= tensor.abs().max() / 254 * 1.01
    assert any(not torch.equal(found[name], tensor) for name, tensor in changed.items()), "it was quantised"


def test_a_gguf_file_is_for_what_is_read_from_one(base: Path, tmp_path: Path) -> None:
    plain = save_gguf({"shared.weight": torch.zeros(8, 32)}, tmp_path / "t5.gguf")
    assert "t5.gguf has no tensors under llama.cpp's names for a UMT5EncoderModel; get it as safetensors" in refused(
        base, {"text_encoder": str(plain)}
    )
    model = shutil.copytree(base, tmp_path / "clip")
    index = json.loads((model / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (model / "model_index.json").write_text(json.dumps(index))
    assert "t5.gguf is a GGUF file, and transformers reads none for a CLIPTextModel; get it as safetensors" in refused(
        model, {"text_encoder": str(plain)}
    )


def test_a_model_that_is_quantised_keeps_its_own(base: Path, tmp_path: Path) -> None:
    model = shutil.copytree(base, tmp_path / "quantised")
    own = json.loads((model / "transformer" / "config.json").read_text())
    (model / "transformer" / "config.json").write_text(json.dumps({**own, "quantization_config": {}}))
    file = header(tmp_path / "x.safetensors", ["blocks.0.x"])

    assert "by the config of the model's own transformer, which is quantised; " in refused(
        model, {"transformer": str(file)}
    )


def test_the_model_s_own_table_names_files_from_its_directory(base: Path, tmp_path: Path) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    save_file(weights(base, "vae"), model / "better-vae.safetensors")
    (model / "zoetrope.toml").write_text('parts = { vae = "better-vae.safetensors" }\n')

    assert model_for(str(model), "m").setup.parts == {"vae": str(model / "better-vae.safetensors")}


def test_no_file_s_place_is_in_the_card(base: Path, tmp_path: Path) -> None:
    (place := tmp_path / "secret").mkdir()
    save_file(weights(base, "vae"), place / "own.safetensors")

    card = model_for(str(base), "m", {"parts": {"vae": str(place / "own.safetensors")}}).card

    assert "own.safetensors" in str(card)
    assert "secret" not in str(card)
