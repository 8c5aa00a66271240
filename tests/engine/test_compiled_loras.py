"""LoRAs on compiled blocks: they draw what they draw on others, nothing is compiled for them, and they leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from broker.wire.loras import LoraUse
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import InvalidInput
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.models.catalogue import default_model, model_for

SHORT = {"num_frames": 9, "num_inference_steps": 2, "seed": 3}


class Drawing:
    """The demo model with LoRAs of several ranks and layers, `speed` of its table as given."""

    def __init__(self, place: Path, **speed: Any) -> None:
        own = model_for(str(default_model())).setup.loras["boomerang"].files["transformer"]
        tensors = load_file(own)
        attention = {name: value for name, value in tensors.items() if ".attn1." in name}
        wide = {
            name: torch.cat((value, value), dim=0 if "lora_A" in name or "lora_down" in name else 1) / 2
            for name, value in tensors.items()
        }
        foreign = {name.replace(".attn1.", ".attn9."): value for name, value in tensors.items()}
        loras = {}
        for name, kept in {"part": attention, "wide": wide, "foreign": foreign}.items():
            loras[name] = str(place / f"{name}.safetensors")
            save_file({key: value.contiguous() for key, value in kept.items()}, loras[name])
        # Not refused by its header, so that the engine meets it.
        Path(loras["foreign"]).write_bytes(Path(loras["part"]).read_bytes())
        self.foreign = (Path(loras["foreign"]), foreign)
        model = model_for(str(default_model()), "m", {"loras": loras, "speed": speed})
        self.card = model.card
        self.engine = VideoEngine(Pipelines(Device("cpu", "auto", threads=1), {"m": model.setup}))
        self.engine.load(self.card)
        self.place = place

    def frames(self, *loras: LoraUse) -> Any:
        monitor = Monitor(Recorder.recording(), 1, 1, self.engine.pipelines.device.meter)
        spec = spec_for(self.card, **SHORT, loras=loras)
        return written(lambda: complete(self.engine.generate(self.card, spec, self.place, monitor, "normal"))).astype(
            int
        )


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module", params=[{}, {"transformer": "int8"}, {"transformer": "layerwise_fp8"}], ids=str)
def quantize(request: pytest.FixtureRequest) -> Any:
    """How the weights are kept: layers of fewer bits have slots, too."""
    return {"quantize": request.param} if request.param else {}


@pytest.fixture(scope="module")
def plain(quantize: Any, tmp_path_factory: pytest.TempPathFactory) -> Drawing:
    return Drawing(tmp_path_factory.mktemp("plain"), **quantize)


@pytest.fixture(scope="module")
def compiled(quantize: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawing]:
    place = tmp_path_factory.mktemp("compiled")
    yield Drawing(place, compile="eager", warm_up=["64x64x9"], **quantize)
    torch._dynamo.reset()


USES: list[tuple[LoraUse, ...]] = [
    (LoraUse(name="boomerang"),),
    (LoraUse(name="part", scale=0.5),),
    (LoraUse(name="wide"), LoraUse(name="part", scale=-0.25)),
    (LoraUse(name="boomerang", scale=0.3), LoraUse(name="wide", scale=0.4), LoraUse(name="part", scale=0.1)),
]


def test_they_draw_the_same_compile_nothing_and_leave_no_trace(plain: Drawing, compiled: Drawing) -> None:
    before = compiled.frames()
    made = graphs()
    error = abs(before - plain.frames()).mean()
    for uses in USES:
        whole, drawn = plain.frames(*uses), compiled.frames(*uses)
        assert abs(drawn - before).mean() > 4 * abs(drawn - whole).mean(), uses
        assert abs(drawn - whole).mean() <= 1.5 * error + 0.05, uses
        assert np.array_equal(compiled.frames(), before)
    assert graphs() == made, "a LoRA compiles nothing"
    adapters = compiled.engine.pipelines.loaded("m").adapters
    assert set(adapters.names()) == {"boomerang", "part", "wide"}
    assert all(adapter.bytes > 1000 for adapter in adapters._loaded.values())
    for name in adapters.names():
        adapters._drop(name)
        assert np.array_equal(compiled.frames(), before)
    assert graphs() == made


def test_one_that_cannot_be_loaded_changes_nothing(compiled: Drawing) -> None:
    before = compiled.frames()
    held = compiled.frames(LoraUse(name="part"))
    file, tensors = compiled.foreign
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    with pytest.raises(InvalidInput, match="'foreign' cannot be loaded"):
        compiled.frames(LoraUse(name="foreign"))
    assert np.array_equal(compiled.frames(), before)
    assert np.array_equal(compiled.frames(LoraUse(name="part")), held)
