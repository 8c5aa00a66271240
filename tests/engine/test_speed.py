"""`speed` of a model: attention backends, step caches, the dtype of the VAE; what a model or a machine cannot have is said at start."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from broker.wire.jobspec import JobSpec, ModelCard
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder, blank
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import InvalidInput, LoadError
from workers.engine.instrumentation import checked_in_blocks
from workers.engine.memory import ProcessMemory
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models import attention
from workers.models.attention import BACKENDS, unfit_device
from workers.models.catalogue import card_for
from workers.models.denoisers import denoisers
from workers.models.model import ModelSetup
from workers.models.sources import CatalogueError
from workers.models.speed import Speed
from workers.models.step_caches import CacheKind


def model(place: Path, pipeline: str, **index: Any) -> str:
    place.mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    return str(place)


_WAN = {"transformer": ["diffusers", "WanTransformer3DModel"]}
_FLUX = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
_MOCHI = {"transformer": ["diffusers", "MochiTransformer3DModel"]}
_SDXL = {"unet": ["diffusers", "UNet2DConditionModel"]}

WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "WanPipeline",
        _WAN,
        {"attention": "sage"},
        "attention: 'sage' needs the package sageattention, which is not installed: ",
    ),
    (
        "WanPipeline",
        _WAN,
        {"attention": "flash"},
        "attention: 'flash' needs the package flash-attn, which is not installed: pip install",
    ),
    ("WanPipeline", _WAN, {"attention": "fa3"}, "attention: 'fa3' is not one of native, "),
    (
        "MochiPipeline",
        _MOCHI,
        {"attention": "native"},
        "attention: 'native' is not for MochiTransformer3DModel, whose attention cannot be chosen",
    ),
    (
        "StableDiffusionXLPipeline",
        _SDXL,
        {"cache": "fast"},
        "cache: 'fast' cannot be had: StableDiffusionXLPipeline cannot leave out blocks between steps",
    ),
    ("WanPipeline", _WAN, {"cache": "quick"}, "cache: 'quick' is not one of fast, off, safe"),
    (
        "MochiPipeline",
        _MOCHI,
        {"compile": True},
        "compile: true is not for MochiTransformer3DModel, which has no blocks that are known to repeat",
    ),
    ("WanPipeline", _WAN, {"warm_up": ["832-480"]}, "warm_up: '832-480' is no size; write \"832x480x81\""),
    (
        "WanPipeline",
        _WAN,
        {"warm_up": ["830x480x81"]},
        "warm_up: '830x480x81' has sides that are not multiples of 16 from 64 to 1920; write \"832x480x81\"",
    ),
    (
        "WanPipeline",
        _WAN,
        {"warm_up": ["832x480x80"]},
        "warm_up: '832x480x80' has 80 frames, and there are 1 to 257 and 4k+1",
    ),
    (
        "WanPipeline",
        _WAN,
        {"warm_up": ["832x480"]},
        "warm_up: '832x480' lacks the number of frames; write \"832x480x81\"",
    ),
    ("WanPipeline", _WAN, {"warm_up": ["٨٣٢x480x81"]}, "warm_up: '٨٣٢x480x81' is no size"),
    (
        "WanPipeline",
        _WAN,
        {"warm_up": ["1920x1920x1"]},
        "warm_up: '1920x1920x1' has 3686400 pixels, and limits.max_pixels is",
    ),
    (
        "FluxPipeline",
        _FLUX,
        {"warm_up": ["64x64x5"]},
        "warm_up: '64x64x5' has 5 frames, and there are 1 to 1; write \"1024x1024\"",
    ),
    (
        "FluxPipeline",
        _FLUX,
        {"vae_dtype": "float32"},
        "vae_dtype: 'float32' is not for FluxPipeline, which runs its VAE in the dtype of the rest",
    ),
    (
        "LucyEditPipeline",
        _WAN,
        {"vae_dtype": "bfloat16"},
        "vae_dtype: 'bfloat16' is not for LucyEditPipeline, which gives its VAE a clip in float32",
    ),
]


@pytest.mark.parametrize(("pipeline", "index", "speed", "text"), WRONG, ids=[row[3][:45] for row in WRONG])
def test_what_a_model_or_a_machine_cannot_have_is_said_at_start(
    tmp_path: Path, pipeline: str, index: dict[str, Any], speed: dict[str, Any], text: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        card_for(model(tmp_path / "m", pipeline, **index), "m", {"speed": speed})
    assert str(caught.value).startswith(f"[models.m] speed.{text}")


def test_a_kernel_of_the_hub_is_used_where_it_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        attention.BACKENDS, "_flash_3_hub", msgspec.structs.replace(BACKENDS["_flash_3_hub"], module="", least="")
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "which is not in the hub's cache" in attention.why_not("_flash_3_hub", downloads=False)
    assert attention.why_not("_flash_3_hub", downloads=True) == ""
    (tmp_path / "models--kernels-community--flash-attn3" / "snapshots").mkdir(parents=True)
    assert attention.why_not("_flash_3_hub", downloads=False) == ""


@pytest.mark.parametrize(
    ("name", "device", "capability", "half", "why"),
    [
        ("native", "cpu", (0, 0), False, ""),
        ("_native_math", "cpu", (0, 0), False, ""),
        ("sage", "cuda", (8, 9), True, ""),
        ("_flash_3", "cuda", (9, 0), True, ""),
        (
            "_flash_3",
            "cuda",
            (8, 9),
            True,
            "'_flash_3' needs a GPU of compute capability 9.0 or later, and this has 8.9",
        ),
        ("flash", "cpu", (0, 0), True, "'flash' needs a GPU of compute capability 8.0 or later, and this is none"),
        (
            "_native_cudnn",
            "cuda",
            (9, 0),
            False,
            "'_native_cudnn' computes in bfloat16 or float16 only, and the model is in float32",
        ),
    ],
)
def test_backends_and_devices(name: str, device: str, capability: tuple[int, int], half: bool, why: str) -> None:
    assert unfit_device(name, device, capability, half=half) == why


def test_every_backend_is_one_of_diffusers() -> None:
    assert set(BACKENDS) <= {one.value for one in AttentionBackendName}


def test_what_a_denoiser_can_do_is_read_from_its_source() -> None:
    (wan,), (mochi,) = denoisers(_WAN), denoisers(_MOCHI)
    assert (wan.chooses_attention, wan.has_repeated_blocks, wan.caches) == (True, True, True)
    assert (mochi.chooses_attention, mochi.has_repeated_blocks, mochi.caches) == (False, False, True)
    assert denoisers({"transformer": ["somewhere", "Else"]}) == []


def test_cards_say_which_caches_there_are(tmp_path: Path, demo_card: ModelCard) -> None:
    assert (demo_card.caches, demo_card.cache) == (("off", "safe", "fast"), "off")
    assert card_for(model(tmp_path / "flux", "FluxImg2ImgPipeline", **_FLUX)).caches == ()
    assert card_for(model(tmp_path / "wan", "WanPipeline", **_WAN), "m", {"speed": {"cache": "safe"}}).cache == "safe"


# ---------------------------------------------------------------- with a model


def engine_with(device: Device, card: ModelCard, speed: Speed) -> VideoEngine:
    engine = VideoEngine(Pipelines(device, {card.name: ModelSetup(speed=speed)}))
    engine.load(card)
    return engine


def job(card: ModelCard, **changes: Any) -> JobSpec:
    return spec_for(card, **{"num_frames": 5, "num_inference_steps": 12, "guidance_scale": 3.0, **changes})


def drawn(engine: VideoEngine, card: ModelCard, spec: JobSpec, place: Path, monitor: Monitor | None = None) -> Any:
    """The frames that are drawn, before they are made a file."""
    place.mkdir(exist_ok=True)
    monitor = monitor or Monitor(Slot(blank(), 0), 1, 1, ProcessMemory())
    return written(lambda: complete(engine.generate(card, spec, place, monitor, "normal")))


def test_attention_of_one_model_is_no_other_s(
    device: Device, demo_card: ModelCard, monitor: Monitor, tmp_path: Path
) -> None:
    before = _AttentionBackendRegistry._active_backend
    engine = engine_with(device, demo_card, Speed(attention="_native_math"))
    processors = [
        module.processor
        for module in engine.pipelines.get(demo_card).transformer.modules()
        if hasattr(module, "processor")
    ]
    assert {one._attention_backend.value for one in processors} == {"_native_math"}
    assert _AttentionBackendRegistry._active_backend == before
    drawn(engine, demo_card, job(demo_card, num_inference_steps=2), tmp_path / "a", monitor)
    assert monitor.used["attention"] == "_native_math"


def test_a_backend_of_gpus_is_no_stage_of_a_cpu(device: Device, demo_card: ModelCard) -> None:
    with pytest.raises(LoadError, match=r"speed\.attention: '_native_cudnn' needs a GPU of compute capability 8\.0"):
        engine_with(device, demo_card, Speed(attention="_native_cudnn"))


def test_the_vae_is_in_the_dtype_that_is_chosen(
    device: Device, demo_card: ModelCard, monitor: Monitor, tmp_path: Path
) -> None:
    engine = engine_with(device, demo_card, Speed(vae_dtype="bfloat16"))
    pipe = engine.pipelines.get(demo_card)
    assert (pipe.vae.dtype, pipe.transformer.dtype) == (torch.bfloat16, torch.float32)
    frames = drawn(engine, demo_card, job(demo_card, num_inference_steps=2), tmp_path / "a", monitor)
    assert frames.shape[0] == 5
    assert monitor.used["vae_dtype"] == "bfloat16"


@pytest.fixture(scope="module")
def compiled(device: Device, demo_card: ModelCard) -> Iterator[VideoEngine]:
    """The demo model with its blocks traced by torch's compiler, called once in one size. Nothing of it stays in this process."""
    setup = ModelSetup(speed=Speed(compile="eager"), warm_up=((64, 64, 5),))
    engine = VideoEngine(Pipelines(device, {demo_card.name: setup}))
    engine.load(demo_card)
    yield engine
    torch._dynamo.reset()


def test_compiled_blocks_draw_the_same_and_hear_a_cancel(
    compiled: VideoEngine, video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    spec = job(demo_card, num_inference_steps=2, width=64, height=64)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 1, "the warm-up compiles"
    monitor = Monitor(Slot(blank(), 0), 1, 1, ProcessMemory())
    plain = drawn(video_engine, demo_card, spec, tmp_path / "a")
    assert np.array_equal(drawn(compiled, demo_card, spec, tmp_path / "b", monitor), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "a job compiles nothing"
    assert monitor.used["compile"] == "eager"

    pipe = compiled.pipelines.get(demo_card)
    blocks = pipe.transformer.blocks
    asked: list[int] = []
    with checked_in_blocks([pipe.transformer], lambda: asked.append(1)):
        call = {
            "prompt": "a",
            "height": 64,
            "width": 64,
            "num_frames": 5,
            "num_inference_steps": 1,
            "guidance_scale": 1.0,
        }
        pipe(**call, output_type="latent")
    assert len(asked) == 1 + len(blocks)
    own = [block.forward for block in blocks]
    heard = CancelAt.at("denoise", 1, hits=2)
    with pytest.raises(Cancelled):
        drawn(compiled, demo_card, spec, tmp_path / "c", Monitor(heard, 1, 1, ProcessMemory()))
    assert [block.forward for block in blocks] == own
    assert np.array_equal(drawn(compiled, demo_card, spec, tmp_path / "d"), plain)


def test_other_sizes_of_clips_compile_nothing_and_pictures_once_for_all_sizes(
    compiled: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    def graphs_after(name: str, **changes: Any) -> int:
        drawn(compiled, demo_card, job(demo_card, num_inference_steps=1, **changes), tmp_path / name)
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    warmed_up = graphs_after("a", width=64, height=64, num_frames=5)
    assert graphs_after("b", width=96, height=64, num_frames=9) == warmed_up
    assert graphs_after("c", width=64, height=128, num_frames=5) == warmed_up
    pictures = graphs_after("d", width=64, height=64, num_frames=1)
    assert pictures <= warmed_up + 1, "a size of one is a graph of its own"
    assert graphs_after("e", width=128, height=96, num_frames=1) == pictures


@pytest.mark.parametrize("kind", ["first_block", "taylorseer", "dbcache"])
def test_a_step_cache_beside_compiled_blocks_compiles_nothing_and_draws_the_same(
    compiled: VideoEngine, video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path, kind: Any
) -> None:
    plain = job(demo_card, width=64, height=64)
    fast = msgspec.structs.replace(plain, cache="fast")
    before = drawn(compiled, demo_card, plain, tmp_path / "a")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    both = (compiled, video_engine)
    with cached_by(kind, both, demo_card):
        run = blocks_run(compiled, demo_card, lambda: drawn(compiled, demo_card, fast, tmp_path / "d"))
        assert run < 24
        ours, theirs = (drawn(engine, demo_card, fast, tmp_path / f"{number}") for number, engine in enumerate(both))
    assert np.array_equal(ours, theirs)
    assert np.array_equal(drawn(compiled, demo_card, plain, tmp_path / "c"), before)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@contextmanager
def cached_by(kind: CacheKind, engines: Iterable[VideoEngine], card: ModelCard) -> Iterator[None]:
    """Inside, jobs of these engines have step caches of this kind."""
    setups = [engine.pipelines._setups for engine in engines]
    for engine in engines:
        setup = engine.pipelines.setup(card)
        speed = msgspec.structs.replace(setup.speed, cache_kind=kind)
        engine.pipelines._setups = {card.name: msgspec.structs.replace(setup, speed=speed)}
    try:
        yield
    finally:
        for engine, own in zip(engines, setups, strict=True):
            engine.pipelines._setups = own


def test_a_warm_up_is_shown_and_heard(device: Device, demo_card: ModelCard, tmp_path: Path) -> None:
    setup = ModelSetup(warm_up=((64, 64, 5), (64, 64, 1)))
    engine = VideoEngine(Pipelines(device, {demo_card.name: setup}))
    stopped = CancelAt.at("warm_up", 0, hits=20)
    with pytest.raises(Cancelled):
        drawn(engine, demo_card, job(demo_card), tmp_path / "a", Monitor(stopped, 1, 1, ProcessMemory()))
    recorder = Recorder.recording()
    drawn(
        engine,
        demo_card,
        job(demo_card, num_inference_steps=2),
        tmp_path / "b",
        Monitor(recorder, 1, 1, ProcessMemory()),
    )
    assert [(step, total) for phase, step, total in recorder.seen if phase == "warm_up"] == [(0, 2), (1, 2), (2, 2)]
    assert [step for phase, step, _ in recorder.seen if phase == "denoise"][-1] == 2
    assert engine.pipelines.loaded(demo_card.name).used == {}


def blocks_run(engine: VideoEngine, card: ModelCard, act: Any) -> int:
    """How often the last block of the denoiser computes."""
    block, count = engine.pipelines.get(card).transformer.blocks[-1].attn1, 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1

    handle = block.register_forward_pre_hook(tick)
    try:
        act()
    finally:
        handle.remove()
    return count


def test_a_cache_leaves_blocks_out_and_nothing_behind(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    plain, fast = job(demo_card), job(demo_card, cache="fast")
    before = drawn(video_engine, demo_card, plain, tmp_path / "a")
    monitor = Monitor(Slot(blank(), 0), 1, 1, ProcessMemory())
    run = blocks_run(video_engine, demo_card, lambda: drawn(video_engine, demo_card, fast, tmp_path / "b", monitor))
    assert run < 24
    assert monitor.used["cache"] == "fast"
    assert np.array_equal(drawn(video_engine, demo_card, plain, tmp_path / "c"), before)


def test_a_cancel_in_the_middle_of_a_cached_job_leaves_nothing(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    plain = job(demo_card, width=96, height=64)
    fast = msgspec.structs.replace(plain, cache="fast")
    before = drawn(video_engine, demo_card, plain, tmp_path / "a")
    cached = drawn(video_engine, demo_card, fast, tmp_path / "e")
    stopped = Monitor(CancelAt.at("denoise", 5, hits=3), 1, 1, ProcessMemory())
    with pytest.raises(Cancelled):
        drawn(video_engine, demo_card, job(demo_card, cache="fast"), tmp_path / "b", stopped)
    assert np.array_equal(drawn(video_engine, demo_card, fast, tmp_path / "c"), cached)
    assert np.array_equal(drawn(video_engine, demo_card, plain, tmp_path / "d"), before)


def test_in_few_steps_a_cache_is_off_and_says_so(
    video_engine: VideoEngine, demo_card: ModelCard, monitor: Monitor, tmp_path: Path
) -> None:
    spec = job(demo_card, num_inference_steps=4, cache="safe")
    drawn(video_engine, demo_card, spec, tmp_path / "a", monitor)
    assert monitor.used["cache"] == "off, as 4 steps are fewer than 12"
    assert monitor.warnings == ("cache: off, as it does nothing in fewer than 12 steps",)


def test_a_model_s_usual_cache_gives_way_to_a_job_s(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path
) -> None:
    card = msgspec.structs.replace(demo_card, cache="fast")
    usual, off = (Monitor(Slot(blank(), 0), 1, 1, ProcessMemory()) for _ in range(2))
    drawn(video_engine, card, job(card), tmp_path / "a", usual)
    drawn(video_engine, card, job(card, cache="off"), tmp_path / "b", off)
    assert (usual.used.get("cache"), off.used.get("cache")) == ("fast", None)


def test_a_cache_that_the_model_has_not_is_refused(
    video_engine: VideoEngine, demo_card: ModelCard, monitor: Monitor, tmp_path: Path
) -> None:
    card = msgspec.structs.replace(demo_card, caches=())
    with pytest.raises(InvalidInput, match="cache: 'fast' is not one of model"):
        video_engine.generate(card, job(card, cache="fast"), tmp_path, monitor, "normal")
