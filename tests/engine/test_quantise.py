"""Weights in fewer bits: what is drawn stays close, what is held becomes smaller, and what cannot be done is told at start."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from broker.wire.jobspec import ModelCard
from broker.wire.loras import LoraUse
from tests.engine import tiny
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.quantise import layers, quantise
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.catalogue import default_model, model_for
from workers.models.quantise import QuantizeMethod, unfit_device
from workers.models.sources import CatalogueError

SHORT = {"num_frames": 9, "num_inference_steps": 4}


def held(component: nn.Module) -> int:
    """Bytes of all weights, those inside quantised ones too."""

    def size(tensor: Any) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return int(tensor.nbytes)

    return sum(size(weight) for weight in component.parameters())


class Drawing:
    """The demo model with a table of its own, in memory."""

    def __init__(self, quantize: dict[str, str]) -> None:
        model = model_for(str(default_model()), "m", {"speed": {"quantize": quantize}})
        self.card: ModelCard = model.card
        self.engine = VideoEngine(Pipelines(Device("cpu", "auto", threads=1), {"m": model.setup}))
        self.engine.load(self.card)
        self.pipe = self.engine.pipelines.get(self.card)

    def frames(self, slot: Slot, out_dir: Path, *loras: LoraUse) -> tuple[Any, dict[str, str]]:
        """What it draws, and what the job's record says that it was drawn with."""
        spec = spec_for(self.card, **SHORT, loras=loras)
        monitor = Monitor(slot, 1, 1, self.engine.pipelines.device.meter)
        drawn = written(lambda: complete(self.engine.generate(self.card, spec, out_dir, monitor, "normal")))
        return drawn.astype(int), monitor.used


@pytest.fixture(scope="module")
def whole() -> Drawing:
    return Drawing({})


#: Method -> (most that a value of a frame, 0 to 255, differs in the mean; most of the weights' bytes that are left).
CLOSE: dict[QuantizeMethod, tuple[float, float]] = {
    "fp8": (3, 0.4), "int8": (1, 0.4), "nf4": (8, 0.3), "layerwise_fp8": (3, 0.4),
}  # fmt: skip


@pytest.mark.parametrize("method", sorted(CLOSE))
def test_a_quantised_model_draws_nearly_the_same_in_less_room(
    whole: Drawing, tmp_path: Path, slot: Slot, method: QuantizeMethod
) -> None:
    small = Drawing({"transformer": method, "text_encoder": method})

    own, _ = whole.frames(slot, tmp_path)
    drawn, used = small.frames(slot, tmp_path)

    close, left = CLOSE[method]
    difference = abs(drawn - own).mean()
    assert 0 < difference < close
    assert held(small.pipe.transformer) < left * held(whole.pipe.transformer)
    assert held(small.pipe.text_encoder) < held(whole.pipe.text_encoder)
    assert held(small.pipe.vae) == held(whole.pipe.vae)
    assert used == {"quantize": f"text_encoder {method}, transformer {method}"}


@pytest.mark.parametrize("method", sorted(CLOSE))
def test_a_cancel_is_heard_inside_a_quantised_model_and_the_next_job_is_whole(
    tmp_path: Path, slot: Slot, method: QuantizeMethod
) -> None:
    small = Drawing({"transformer": method})
    before, _ = small.frames(slot, tmp_path)

    cancelled = CancelAt.at("denoise", 2, 5)
    with pytest.raises(Cancelled):
        small.frames(cancelled, tmp_path)

    assert cancelled.progress().step == 2
    after, _ = small.frames(slot, tmp_path)
    assert (after == before).all()


@pytest.mark.parametrize("method", sorted(CLOSE))
def test_a_lora_acts_on_quantised_weights_as_on_whole_ones_and_leaves_no_trace(
    whole: Drawing, tmp_path: Path, slot: Slot, method: QuantizeMethod
) -> None:
    small = Drawing({"transformer": method})
    boomerang = LoraUse(name="boomerang")
    own, _ = small.frames(slot, tmp_path)

    drawn, used = small.frames(slot, tmp_path, boomerang)
    after, _ = small.frames(slot, tmp_path)
    unquantised, _ = whole.frames(slot, tmp_path, boomerang)
    error = abs(own - whole.frames(slot, tmp_path)[0]).mean()
    small.engine.pipelines.loaded("m").adapters._drop("boomerang")
    dropped, _ = small.frames(slot, tmp_path)

    # It acts by more than the fewer bits do, and they do no more with it than without.
    assert abs(drawn - own).mean() > error
    assert abs(drawn - unquantised).mean() < 1.5 * error
    assert (used["loras"], used["quantize"]) == ("boomerang 1", f"transformer {method}")
    assert (after == own).all()
    assert (dropped == own).all()


class Blocks(nn.Module):
    """What layers of transformers are called."""

    _keep_in_fp32_modules = ("wo",)

    def __init__(self) -> None:
        super().__init__()
        self.proj_in = nn.Linear(64, 64)
        block = {
            "to_q": nn.Linear(64, 64),
            "norm1_linear": nn.Linear(64, 64),
            "wo": nn.Linear(64, 64),
            "odd": nn.Linear(64, 33),
        }
        self.blocks = nn.ModuleList([nn.ModuleDict(block)])
        self.ln_final = nn.Sequential(nn.Linear(64, 64))


def test_only_layers_of_the_blocks_that_lose_little_are_quantised() -> None:
    assert list(layers(Blocks(), 16)) == ["blocks.0.to_q"]
    assert list(layers(Blocks(), 1)) == ["blocks.0.to_q", "blocks.0.odd"]


def test_a_component_without_such_layers_is_no_model() -> None:
    with pytest.raises(
        LoadError,
        match="is not for Linear, which has no linear layers in repeated blocks with sides that are multiples of 16",
    ):
        quantise(nn.Linear(64, 64), "int8", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("method", "device", "capability", "why"),
    [
        ("fp8_dynamic", "cuda", (9, 0), ""),
        ("fp8_dynamic", "cuda", (8, 9), ""),
        ("fp8_dynamic", "cuda", (8, 6), "compute capability 8.9 or later, and this has 8.6"),
        ("fp8_dynamic", "cpu", (0, 0), "compute capability 8.9 or later, and this is none"),
        ("fp8", "cpu", (0, 0), ""),
        ("nf4", "cuda", (7, 5), ""),
    ],
)
def test_methods_and_devices(method: QuantizeMethod, device: str, capability: tuple[int, int], why: str) -> None:
    found = unfit_device(method, device, capability)
    assert why in found
    assert bool(found) == bool(why)


def test_arithmetic_that_the_device_has_not_is_told_when_the_model_is_loaded() -> None:
    with pytest.raises(LoadError) as caught:
        Drawing({"transformer": "fp8_dynamic"})
    assert str(caught.value).startswith('[models.m] speed.quantize.transformer: "fp8_dynamic" computes in float8')
    assert "and this is none" in str(caught.value)


# ---------------------------------------------------------------- refused at start


def refused(source: str | Path, quantize: dict[str, str], **more: Any) -> str:
    with pytest.raises(CatalogueError) as caught:
        model_for(str(source), "m", {"speed": {"quantize": quantize}, **more})
    return str(caught.value)


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ({"transformer": "fp4"}, "'fp4' is not one of fp8, fp8_dynamic, int8, layerwise_fp8, nf4"),
        ({"transformer_2": "fp8"},
         "'fp8' is for a component that the model has not; those that can be quantised are text_encoder, transformer"),
        ({"vae": "fp8"}, "'fp8' is for transformers, UNets and encoders of text and images alone; leave the key out"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantised_is_told_at_start(quantize: dict[str, str], message: str) -> None:
    [name] = quantize

    assert refused(default_model(), quantize) == f"[models.m] speed.quantize.{name}: {message}"


def test_a_package_that_is_not_there_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name))

    assert refused(default_model(), {"transformer": "int8"}) == (
        "[models.m] speed.quantize.transformer: 'int8' needs the package torchao, which is not installed: "
        "pip install torchao"
    )


def test_what_is_quantised_as_it_is_stored_stays_so(tmp_path: Path) -> None:
    model = shutil.copytree(default_model(), tmp_path / "model")
    own = json.loads((model / "transformer" / "config.json").read_text())
    (model / "transformer" / "config.json").write_text(json.dumps({**own, "quantization_config": {}}))

    assert "is quantised as it is stored, and stays so; leave the key out" in refused(model, {"transformer": "fp8"})


def test_a_gguf_file_stays_as_it_is_stored(tmp_path: Path) -> None:
    base = tiny.save_wan_image_to_video(tmp_path / "base")
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "wan")
    writer.add_tensor("blocks.0.self_attn.q.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    text = refused(base, {"transformer": "fp8"}, parts={"transformer": str(tmp_path / "x.gguf")})

    assert text.endswith("x.gguf is quantised as it is stored, and stays so; leave the key out")
