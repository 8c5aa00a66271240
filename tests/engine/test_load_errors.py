"""Models that cannot be loaded: each error is one sentence that names the table, the key, the value, what is wrong and the cure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.child import Child
from workers.engine.device import Device
from workers.engine.errors import EngineError, LoadError, OutOfMemory
from workers.engine.loop import EXIT_LOAD_FAILED
from workers.engine.pipelines import Pipelines
from workers.engine.video import VideoEngine
from workers.ipc.messages import LoadFailed
from workers.models.catalogue import default_model, model_for
from workers.models.model import Model

# The libraries warn of what is an error here.
pytestmark = pytest.mark.filterwarnings("ignore")

Weights = dict[str, torch.Tensor]
Break = Callable[[Path], object]


def _file(model: Path, part: str) -> Path:
    (file,) = (model / part).glob("*.safetensors")
    return file


def _weights(part: str, change: Callable[[Weights], Weights]) -> Break:
    def act(model: Path) -> None:
        file = _file(model, part)
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return act


def _text(file: str, change: Callable[[str], str]) -> Break:
    return lambda model: (model / file).write_text(change((model / file).read_text()))


def _config(file: str, **changes: Any) -> Break:
    return _text(file, lambda text: json.dumps({**json.loads(text), **changes}))


def _damaged(model: Path) -> None:
    """A header whose offsets are not those of the tensors."""
    file = _file(model, "transformer")
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    next(entry for name, entry in header.items() if name != "__metadata__")["data_offsets"][0] += 4
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[end:])


def _resized(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: torch.zeros(7, 7) if key.endswith(name) else tensor for key, tensor in weights.items()}


def _without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if name not in key}


def _loaded(model: Model) -> Any:
    return VideoEngine(Pipelines(Device("cpu", "auto", threads=1), {model.card.name: model.setup})).load(model.card)


def _copied(directory: Path) -> Path:
    return Path(shutil.copytree(default_model(), directory / "model"))


#: What is done to a model's directory, and what is said of it then.
BROKEN: dict[str, tuple[Break, str]] = {
    "no weights": (
        lambda model: _file(model, "transformer").unlink(),
        "$/transformer/diffusion_pytorch_model.safetensors is not there",
    ),
    "no weights of an encoder": (
        lambda model: _file(model, "text_encoder").unlink(),
        "$/text_encoder/model.safetensors is not there",
    ),
    "no config": (lambda model: (model / "vae/config.json").unlink(), "$/vae/config.json is not there"),
    "no scheduler": (
        lambda model: (model / "scheduler/scheduler_config.json").unlink(),
        "$/scheduler/scheduler_config.json is not there",
    ),
    "no index": (lambda model: (model / "model_index.json").unlink(), "$/model_index.json is not there"),
    "no component": (
        lambda model: shutil.rmtree(model / "vae"),
        "its vae, which model_index.json names, is not in the directory",
    ),
    "no tokenizer": (
        lambda model: [file.unlink() for file in (model / "tokenizer").iterdir()],
        "the files of its tokenizer are not there, or damaged",
    ),
    "config that is none": (_text("vae/config.json", lambda text: text[:40]), "$/vae/config.json is no JSON"),
    "file cut short": (
        lambda model: _file(model, "vae").write_bytes(_file(model, "vae").read_bytes()[:-100]),
        "vae/diffusion_pytorch_model.safetensors is cut short",
    ),
    "damaged file": (_damaged, "$/transformer/diffusion_pytorch_model.safetensors is damaged"),
    "weight lacking": (
        _weights("transformer", _without("blocks.0.attn1.to_k.weight")),
        "its WanTransformer3DModel lacks 1 of 177 weights, blocks.0.attn1.to_k.weight: config and weights are of different models",
    ),
    "weight lacking of an encoder": (
        _weights("text_encoder", _without("block.1.layer.0.SelfAttention.q.weight")),
        "its UMT5EncoderModel lacks 1 of 23 weights, encoder.block.1.layer.0.SelfAttention.q.weight",
    ),
    "weight of another shape": (
        _weights("transformer", _resized("blocks.0.attn1.to_q.weight")),
        "blocks.0.attn1.to_q.weight has the shape [7, 7] in the file and [128, 128] by the config",
    ),
    "weight of another shape in an encoder": (
        _weights("text_encoder", _resized("block.0.layer.1.DenseReluDense.wo.weight")),
        "its UMT5EncoderModel has encoder.block.0.layer.1.DenseReluDense.wo.weight in another shape than its config says",
    ),
    "config with more blocks": (
        _config("transformer/config.json", num_layers=9),
        "its WanTransformer3DModel lacks 81 of 258 weights, blocks.6.attn1.norm_k.weight and 80 more",
    ),
    "config with fewer blocks": (
        _config("transformer/config.json", num_layers=5),
        "its WanTransformer3DModel has fewer blocks by its config than its weights, which have blocks.5.attn1.norm_k.weight and 26 more",
    ),
    "class that is none": (
        _text("model_index.json", lambda text: text.replace("WanTransformer3DModel", "WanTransformer4DModel")),
        "model_index.json names the class WanTransformer4DModel, which the installed diffusers has not; install the release",
    ),
    "library that is none": (
        _config("model_index.json", vae=["mylibrary", "AutoencoderKLWan"]),
        "model_index.json names the library mylibrary, which is none of diffusers' or transformers'",
    ),
    "quantiser that is not installed": (
        _config("transformer/config.json", quantization_config={"quant_method": "sdnq"}),
        "its transformer is quantised with sdnq, which is not installed: pip install sdnq",
    ),
}


@pytest.mark.parametrize(("act", "why"), BROKEN.values(), ids=BROKEN)
def test_a_model_that_is_broken_after_its_start_is_told_in_one_sentence(act: Break, why: str, tmp_path: Path) -> None:
    directory = _copied(tmp_path)
    model = model_for(str(directory), "demo", {})
    act(directory)

    with pytest.raises(LoadError) as caught:
        _loaded(model)

    text = str(caught.value)
    why = why.replace("$", str(directory))
    assert text.startswith(f"[models.demo] path: '{directory}' cannot be loaded: {why}")
    assert "\n" not in text
    assert text.endswith(("; get its files anew", "leave the model out", "pip install sdnq"))


def test_more_weights_than_a_component_has_are_no_error(tmp_path: Path) -> None:
    directory = _copied(tmp_path)
    _weights("transformer", lambda weights: {**weights, "ema.decay": torch.zeros(1)})(directory)
    _loaded(model_for(str(directory), "demo", {}))


PARTS: dict[str, tuple[Callable[[Path, Weights], object], str]] = {
    "gone": (lambda file, weights: file.unlink(), "it is not there"),
    "cut short": (lambda file, weights: file.write_bytes(file.read_bytes()[:-100]), "it is cut short: "),
    "damaged": (lambda file, weights: file.write_bytes(b"\x20" + bytes(7) + b"{" * 60), "it is neither safetensors"),
    "weight lacking": (
        lambda file, weights: save_file(_without("blocks.0.attn1.to_k.weight")(weights), file),
        "it lacks weights of the transformer: blocks.0.attn1.to_k.weight",
    ),
    "foreign weight": (
        lambda file, weights: save_file({**weights, "foreign.weight": torch.zeros(1)}, file),
        "it has weights that the transformer has not: foreign.weight",
    ),
    "another shape": (
        lambda file, weights: save_file(_resized("blocks.0.attn1.to_q.weight")(weights), file),
        "blocks.0.attn1.to_q.weight has the shape [7, 7] in the file and [128, 128] by the config",
    ),
}


@pytest.mark.parametrize(("act", "why"), PARTS.values(), ids=PARTS)
def test_a_part_that_is_broken_after_its_start_is_told_by_its_key(
    act: Callable[[Path, Weights], object], why: str, tmp_path: Path
) -> None:
    file, weights = tmp_path / "part.safetensors", load_file(_file(default_model(), "transformer"))
    save_file(weights, file)
    model = model_for(str(default_model()), "demo", {"parts": {"transformer": str(file)}})
    act(file, weights)

    with pytest.raises(LoadError) as caught:
        _loaded(model)

    text = str(caught.value)
    assert text.startswith(f"[models.demo] parts.transformer: '{file}' cannot be loaded: {why}"), text
    assert text.endswith("; get the file anew, or leave parts.transformer out")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("double_blocks.0.img_attn.qkv.weight",), "it lacks weights"),
        (("blocks.0.self_attn.q.weight", "patch_embedding.weight", "head.modulation"), "they are of different models"),
    ],
    ids=["another architecture", "another size"],
)
def test_a_gguf_file_of_another_model_is_told_by_its_key(names: tuple[str, ...], why: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(tmp_path / "part.gguf"), "wan")
    for name in names:
        writer.add_tensor(name, np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = model_for(str(default_model()), "demo", {"parts": {"transformer": str(tmp_path / "part.gguf")}})

    with pytest.raises(LoadError, match=rf"^\[models\.demo\] parts\.transformer: '.*' cannot be loaded: .*{why}"):
        _loaded(model)


@pytest.mark.parametrize(
    ("speed", "key"),
    [
        ({"attention": "flash"}, "speed.attention"),
        ({"quantize": {"transformer": "fp8_dynamic"}}, "speed.quantize.transformer"),
    ],
)
def test_what_the_device_or_the_machine_cannot_do_is_told_by_its_key(speed: dict[str, Any], key: str) -> None:
    with pytest.raises(Exception, match=rf"^\[models\.demo\] {key}: ") as caught:  # some of it is seen at start
        _loaded(model_for(str(default_model()), "demo", {"speed": speed}))
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_while_weights_are_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("workers.engine.ready.load", full)
    with pytest.raises(OutOfMemory) as caught:
        _loaded(model_for(str(default_model()), "demo", {}))
    text = str(caught.value)
    assert text.startswith(
        f"[models.demo] path: '{default_model()}' cannot be loaded: memory ran out while it was loaded"
    )
    assert "speed.quantize" in text


def test_a_model_of_the_command_line_is_called_by_its_name(tmp_path: Path) -> None:
    directory = _copied(tmp_path)
    model = model_for(str(directory), "demo")
    _file(directory, "vae").unlink()
    with pytest.raises(EngineError, match=r"^model 'demo' path: '.*' cannot be loaded: "):
        _loaded(model)


def test_the_engine_says_it_once_and_ends_with_the_status_of_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    directory = _copied(tmp_path)
    model = model_for(str(directory), "demo", {})
    _file(directory, "transformer").unlink()
    child = Child()
    try:
        answer = child.setup(model.card, setups={"demo": model.setup})
        assert isinstance(answer, LoadFailed)
        assert answer.message.startswith(f"[models.demo] path: '{directory}' cannot be loaded: ")
        assert child.wait() == EXIT_LOAD_FAILED
        log = child.log()
    finally:
        child.close()
    assert log.count(answer.message) == 1
    assert "Traceback" not in log
