"""LoRAs in an engine: every format acts alike, a job's LoRAs are gone with it, and nothing that goes wrong leaves a trace in the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, WanPipeline
from PIL import Image

from broker.wire.jobspec import JobSpec
from broker.wire.loras import LoraMemory, LoraUse
from tests.engine import lora_files
from tests.engine.conftest import spec_for
from tests.engine.families import build_flux, build_stable_diffusion, build_wan, parts
from tests.engine.raw_frames import tapped
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import InvalidInput
from workers.engine.image import ImageEngine
from workers.engine.loras import Adapters, LoraFiles
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.catalogue import model_for
from workers.models.model import Model

Draw = Callable[..., Any]


class Rig:
    """A tiny pipeline with LoRAs beside it, and the engine that draws it."""

    def __init__(self, place: Path, pipe: Any) -> None:
        self.place = place
        parts.wake(pipe)
        pipe.save_pretrained(place / "model")
        self.built = pipe
        self.loras: dict[str, Any] = {}

    def lora(self, name: str, tensors: Any, **entry: Any) -> None:
        self.loras[name] = {"file": str(lora_files.save(self.place / f"{name}.safetensors", tensors)), **entry}

    def ready(self) -> None:
        self.model: Model = model_for(str(self.place / "model"), "m", {"loras": self.loras})
        self.begin()

    def begin(self, memory: LoraMemory | None = None) -> None:
        """Take another engine, with nothing in memory."""
        setups = {"m": self.model.setup}
        self.pipelines = Pipelines(Device("cpu", "float32", threads=1), setups, lora_memory=memory)
        kind = VideoEngine if self.model.card.output == "video" else ImageEngine
        self.engine = kind(self.pipelines)

    @property
    def pipe(self) -> Any:
        return self.pipelines.get(self.model.card)

    def spec(self, *loras: LoraUse, **changes: Any) -> JobSpec:
        limits = self.model.card.limits
        frames = 5 if self.model.card.output == "video" else 1
        sides = {"width": limits.min_side, "height": limits.min_side, "num_frames": frames, "num_inference_steps": 2}
        return spec_for(self.model.card, **{**sides, "prompt": "a red circle", "loras": loras, **changes})

    def draw(self, *loras: LoraUse, slot: Slot | None = None, **changes: Any) -> Any:
        """The raw frames of one job."""
        place = self.place / "out"
        place.mkdir(exist_ok=True)
        monitor = Monitor(slot or Recorder.recording(), 1, 1, self.pipelines.device.meter)
        with tapped() as frames:
            made = complete(
                self.engine.generate(self.model.card, self.spec(*loras, **changes), place, monitor, "normal")
            )
        self.used = monitor.used
        if frames:
            return np.concatenate(next(iter(frames.values())))
        return np.asarray(Image.open(place / made[0].name))


def use(name: str, scale: float = 1.0, **components: float) -> LoraUse:
    return LoraUse(name=name, scale=scale, components=components)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    torch.manual_seed(0)
    rig = Rig(tmp_path_factory.mktemp("wan"), WanPipeline(transformer=build_wan.transformer(), **build_wan.common()))
    transformer = rig.built.transformer
    layers = lora_files.wan_layers(transformer)
    weights = lora_files.pairs(transformer, layers, size=0.5)
    musubi = {layer: lora_files.wan_name(layer) for layer in layers}
    rig.lora("diffusers", lora_files.diffusers(weights))
    rig.lora("comfyui", lora_files.original(weights))
    rig.lora("musubi", lora_files.kohya(weights, musubi))
    rig.lora("bare", lora_files.original(weights, prefix="", alpha=False))
    rig.lora("bare.diffusers", lora_files.diffusers(weights, component=""))
    rig.lora("peft", {f"base_model.model.{name}": one for name, one in lora_files.diffusers(weights, "").items()})
    rig.lora("other", lora_files.diffusers(lora_files.pairs(transformer, layers, seed=1, size=0.5)))
    rig.lora("half", lora_files.diffusers(lora_files.pairs(transformer, layers[:3], seed=2)))
    strange = {"transformer.blocks.9.attn1.to_q": weights["blocks.0.attn1.to_q"]}
    rig.lora("strange", lora_files.diffusers(weights))
    rig.ready()
    # At start it is refused; it came while the worker ran.
    rig.lora("strange", {**lora_files.diffusers(weights), **lora_files.diffusers(strange, component="")})
    return rig


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    torch.manual_seed(0)
    rig = Rig(
        tmp_path_factory.mktemp("flux"), FluxPipeline(transformer=build_flux.transformer(), **build_flux.common())
    )
    transformer = rig.built.transformer
    attention = "transformer_blocks.0.attn"
    layers = [f"{attention}.{to}" for to in ("to_q", "to_k", "to_v")]
    weights = lora_files.pairs(transformer, layers)
    # Kohya's file has queries, keys and values in one layer, which share what goes in.
    down = weights[layers[0]][0]
    weights = {layer: (down, up) for layer, (_, up) in weights.items()}
    fused = {"qkv": (down, torch.cat([up for _, up in weights.values()]))}
    rig.lora("diffusers", lora_files.diffusers(weights))
    rig.lora("kohya", lora_files.kohya(fused, {"qkv": "double_blocks.0.img_attn.qkv"}))
    text = lora_files.pairs(rig.built.text_encoder, _clip_layers(rig.built.text_encoder))
    rig.lora("text", {**lora_files.diffusers(weights), **lora_files.diffusers(text, "text_encoder")})
    rig.ready()
    return rig


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    torch.manual_seed(0)
    rig = Rig(
        tmp_path_factory.mktemp("sd"),
        StableDiffusionPipeline(unet=build_stable_diffusion.unet(), **build_stable_diffusion.common()),
    )
    layers = lora_files.attention(rig.built.unet)
    weights = lora_files.pairs(rig.built.unet, layers)
    rig.lora("diffusers", lora_files.diffusers(weights, "unet"))
    rig.lora("kohya", lora_files.kohya(weights, {layer: layer for layer in layers}))
    text = lora_files.pairs(rig.built.text_encoder, _clip_layers(rig.built.text_encoder))
    rig.lora("text", lora_files.diffusers(text, "text_encoder"))
    rig.ready()
    return rig


def _clip_layers(encoder: Any) -> list[str]:
    return [name for name, _ in encoder.named_modules() if name.endswith(("self_attn.q_proj", "self_attn.v_proj"))]


RIGS = ("wan", "flux", "sd")


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One of the rigs; afterwards it draws what it drew before anything was loaded, to the bit."""
    rig: Rig = request.getfixturevalue(request.param)
    if not hasattr(rig, "base"):
        rig.base = rig.draw()  # type: ignore[attr-defined]
    yield rig
    assert np.array_equal(rig.draw(), rig.base)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rig", RIGS, indirect=True)
def test_all_formats_of_one_lora_draw_the_same(rig: Rig) -> None:
    drawn = rig.draw(use("diffusers"))
    assert not np.array_equal(drawn, rig.draw())
    for name in rig.loras.keys() & {"comfyui", "musubi", "bare", "bare.diffusers", "peft", "kohya"}:
        assert np.array_equal(rig.draw(use(name)), drawn), name


@pytest.mark.parametrize("rig", RIGS, indirect=True)
def test_the_scale_counts_and_none_is_left_over(rig: Rig) -> None:
    whole, half = rig.draw(use("diffusers")), rig.draw(use("diffusers", 0.5))
    assert not np.array_equal(whole, half)
    assert np.array_equal(rig.draw(use("diffusers", 0.0)), rig.draw())
    assert np.array_equal(rig.draw(use("diffusers")), whole)


@pytest.mark.parametrize("rig", ["wan"], indirect=True)
def test_several_act_together_whichever_way_round(rig: Rig) -> None:
    one, two = use("diffusers", 0.7), use("other", 0.4)
    both = rig.draw(one, two)
    assert rig.used["loras"] == "diffusers 0.7, other 0.4"
    assert np.array_equal(rig.draw(two, one), both)
    assert not np.array_equal(both, rig.draw(one))
    assert not np.array_equal(both, rig.draw(two))
    assert np.array_equal(rig.draw(one, use("other", 0.4, transformer=0.0)), rig.draw(one))


@pytest.mark.parametrize("rig", RIGS, indirect=True)
@pytest.mark.parametrize(
    ("phase", "step", "hits"), [("encode", 0, 1), ("denoise", 0, 0), ("denoise", 1, 0), ("decode", 0, 0)]
)
def test_a_cancel_leaves_the_model_as_it_was(rig: Rig, phase: str, step: int, hits: int) -> None:
    name = "text" if "text" in rig.loras else "diffusers"
    try:
        rig.draw(use(name), slot=CancelAt.at(phase, step, hits), prompt=f"a blue square {phase} {step}")
    except Cancelled:
        assert np.array_equal(rig.draw(use(name)), rig.draw(use(name)))
    else:
        # A picture's pipeline decodes by itself, with no phase of its own.
        assert phase == "decode"


@pytest.mark.parametrize("rig", ["flux", "sd"], indirect=True)
def test_a_prompt_is_encoded_anew_where_the_text_encoder_is_changed(rig: Rig) -> None:
    plain = rig.draw()
    changed = rig.draw(use("text"))
    assert not np.array_equal(changed, plain)
    assert np.array_equal(rig.draw(), plain)
    assert np.array_equal(rig.draw(use("text")), changed)
    assert not np.array_equal(rig.draw(use("text", 0.5)), changed)


@pytest.mark.parametrize("rig", ["wan"], indirect=True)
def test_a_file_with_layers_that_the_model_lacks_fails_the_job(rig: Rig) -> None:
    with pytest.raises(
        InvalidInput,
        match=r"loras: 'strange' cannot be loaded: 1 of its 21 layers are none of this model, as blocks\.9",
    ):
        rig.draw(use("diffusers"), use("strange"))
    assert "strange" not in rig.pipelines.loaded(rig.model.card.name).adapters.names()


@pytest.mark.parametrize("rig", ["wan"], indirect=True)
@pytest.mark.parametrize("how", ["gone", "cut", "other"])
def test_a_file_that_went_bad_fails_the_job_and_a_mended_one_is_taken(rig: Rig, how: str) -> None:
    before = rig.draw(use("half"))
    file = Path(rig.loras["half"]["file"])
    whole, times = file.read_bytes(), file.stat()
    bad = {"cut": whole[:-8], "other": b"no weights at all, for once"}.get(how)
    file.unlink()
    if bad is not None:
        file.write_bytes(bad)
    with pytest.raises(InvalidInput, match="'half'"):
        rig.draw(use("half"))
    assert np.array_equal(rig.draw(), rig.base)  # type: ignore[attr-defined]
    file.write_bytes(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
    assert np.array_equal(rig.draw(use("half")), before)


@pytest.mark.parametrize("rig", ["wan"], indirect=True)
def test_a_changed_file_is_read_again(rig: Rig) -> None:
    before = rig.draw(use("half"))
    file = Path(rig.loras["half"]["file"])
    whole = file.read_bytes()
    lora_files.save(
        file,
        lora_files.diffusers(
            lora_files.pairs(rig.built.transformer, lora_files.wan_layers(rig.built.transformer)[:6], 9)
        ),
    )
    assert not np.array_equal(rig.draw(use("half")), before)
    file.write_bytes(whole)
    assert np.array_equal(rig.draw(use("half")), before)


def test_the_least_recently_used_go_first_and_the_last_leaves_no_layer_behind(wan: Rig) -> None:
    pipe: Any = WanPipeline.from_pretrained(wan.place / "model", use_safetensors=True)
    modules = [name for name, _ in pipe.transformer.named_modules()]
    adapters = Adapters(pipe, wan.model.setup.loras, LoraFiles(limit_bytes=0), limit_bytes=1)
    adapters.load([use("diffusers"), use("other")])
    assert adapters.names() == ("diffusers", "other")  # those of a job stay, whatever they take
    adapters.load([use("half")])
    assert adapters.names() == ("half",)
    assert not adapters.lacks([use("half")])
    assert adapters.lacks([use("diffusers")])
    with pytest.raises(InvalidInput):
        adapters.load([use("strange")])
    assert adapters.names() == ("half",)
    adapters._drop("half")
    assert [name for name, _ in pipe.transformer.named_modules()] == modules


def test_an_engine_tells_which_loras_are_beside_its_model(wan: Rig) -> None:
    wan.begin()
    assert wan.engine.loaded_loras() == ()
    wan.draw(use("other"))
    wan.draw(use("half"))
    wan.draw()
    assert wan.engine.loaded_loras() == ("half", "other")


def test_without_memory_for_them_loras_are_there_for_their_own_jobs_alone(wan: Rig) -> None:
    wan.begin()
    drawn = wan.draw(use("half"))
    wan.begin(LoraMemory(host_mb=0, device_mb=0))
    wan.draw(use("other"))
    assert np.array_equal(wan.draw(use("half")), drawn)
    assert wan.engine.loaded_loras() == ("half",)
    wan.draw()
    assert wan.engine.loaded_loras() == ()
    wan.begin()


def test_of_parsed_files_the_least_recently_used_go_first(wan: Rig) -> None:
    stamps = []
    for name in ("one", "two", "three"):
        file = lora_files.save(wan.place / f"{name}.safetensors", {"a": torch.zeros(100)})
        stamps.append((str(file), 1, file.stat().st_size))
    files = LoraFiles(limit_bytes=800)  # of two, at 400 bytes each
    for stamp in (stamps[0], stamps[1], stamps[0], stamps[2]):
        files.read(stamp)
    for path, *_ in stamps:
        os.unlink(path)
    files.read(stamps[0])
    files.read(stamps[2])
    with pytest.raises(FileNotFoundError):
        files.read(stamps[1])


def test_two_experts_have_a_file_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rig = Rig(
        tmp_path,
        WanPipeline(
            transformer=build_wan.transformer(),
            transformer_2=build_wan.transformer(),
            boundary_ratio=0.9,
            **build_wan.common(),
        ),
    )
    layers = lora_files.wan_layers(rig.built.transformer)
    files = {
        slot: str(
            lora_files.save(
                tmp_path / f"{slot}.safetensors",
                lora_files.original(lora_files.pairs(rig.built.transformer, layers, seed, 0.5)),
            )
        )
        for seed, slot in enumerate(("high", "low"))
    }
    rig.loras["pair"] = files
    rig.ready()
    assert rig.model.card.loras["pair"].components == ("transformer", "transformer_2")
    base = rig.draw()
    both, first, second = (
        rig.draw(one) for one in (use("pair"), use("pair", transformer_2=0.0), use("pair", transformer=0.0))
    )
    assert not any(np.array_equal(one, base) for one in (both, first, second))
    assert not np.array_equal(both, first)
    assert not np.array_equal(both, second)
    assert np.array_equal(rig.draw(), base)
