"""Models come into memory, stay while there is room, and go when there is none."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderKLAllegro
from safetensors.torch import load_file, save_file

from broker.wire.jobspec import ModelCard
from workers.engine import loading
from workers.engine.device import Device
from workers.engine.errors import LoadError, OutOfMemory
from workers.engine.memory import ProcessMemory
from workers.engine.packages import missing_package
from workers.engine.pipelines import Pipelines
from workers.engine.tiles import tile_vae
from workers.models.weights import loaded_bytes, variant_of


class SmallDevice(Device):
    """A CPU on which the test says how much is free: now, and after each release."""

    def __init__(self, free: int = 2**40) -> None:
        super().__init__("cpu", "auto", threads=0)
        self.free = free

    def free_bytes(self) -> int:
        return self.free


def _as(card: ModelCard, name: str, **changes: str) -> ModelCard:
    return msgspec.structs.replace(card, name=name, **changes)


def test_models_stay_in_memory(demo_card: ModelCard) -> None:
    pipelines = Pipelines(SmallDevice())

    first = pipelines.get(_as(demo_card, "one"))
    pipelines.get(_as(demo_card, "two"))

    assert pipelines.get(_as(demo_card, "one")) is first
    assert pipelines.names() == ("two", "one")
    assert pipelines.has(_as(demo_card, "two"))


def test_half_precision_files_are_loaded_whole_on_a_cpu(demo_card: ModelCard) -> None:
    pipe = Pipelines(SmallDevice()).get(demo_card)

    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {torch.float32}


def test_wan_keeps_its_vae_in_float32(demo_card: ModelCard) -> None:
    pipe = Pipelines(Device("cpu", "bfloat16", threads=0)).get(demo_card)

    assert (pipe.transformer.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)


def test_least_recently_used_model_goes_when_room_is_short(demo_card: ModelCard) -> None:
    device = SmallDevice()
    pipelines = Pipelines(device)
    for name in ("one", "two", "one"):
        pipelines.get(_as(demo_card, name))

    device.free = 0
    pipelines.get(_as(demo_card, "three"))

    assert pipelines.names() == ("three",)


def test_no_more_goes_than_must(demo_card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    device = SmallDevice()
    pipelines = Pipelines(device)
    for name in ("one", "two"):
        pipelines.get(_as(demo_card, name))

    device.free = 0
    monkeypatch.setattr(
        device, "release", lambda: setattr(device, "free", 2**40 if pipelines.names() == ("two",) else 0)
    )
    pipelines.get(_as(demo_card, "three"))

    assert pipelines.names() == ("two", "three")


def test_a_changed_source_is_loaded_anew(demo_card: ModelCard, tmp_path: Path) -> None:
    pipelines = Pipelines(SmallDevice())
    first = pipelines.get(demo_card)
    shutil.copytree(demo_card.source, tmp_path / "copy")

    assert pipelines.get(_as(demo_card, demo_card.name, source=str(tmp_path / "copy"))) is not first


def test_offload_is_no_change_on_a_cpu(demo_card: ModelCard) -> None:
    pipelines = Pipelines(SmallDevice())

    assert pipelines.get(demo_card, "offload") is pipelines.get(demo_card, "normal")


def test_a_vae_that_only_decodes_in_tiles_is_always_tiled() -> None:
    """Allegro's raises NotImplementedError for a whole picture, after a hundred steps."""
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2
    ).eval()
    usual = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)

    for on in (True, False):
        tile_vae(SimpleNamespace(vae=vae), on=on)
        tile_vae(SimpleNamespace(vae=usual), on=on)
        assert (vae.use_tiling, usual.use_tiling) == (True, on)


_VAE_WEIGHTS = Path("vae", "diffusion_pytorch_model.safetensors")


def _cut(file: Path, off: int) -> None:
    file.write_bytes(file.read_bytes()[:-off])


def _link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nowhere/weights")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: shutil.rmtree(model), "is not there"),
        (lambda model: (model / "model_index.json").unlink(), "model_index.json"),
        (lambda model: (model / "transformer" / "config.json").write_text("{"), "transformer"),
        (
            lambda model: (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 64),
            "diffusion_pytorch_model.safetensors is damaged",
        ),
        (
            lambda model: (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink(),
            "diffusion_pytorch_model",
        ),
        (
            lambda model: _cut(model / _VAE_WEIGHTS, 1000),
            "vae/diffusion_pytorch_model.safetensors is cut short: [0-9]+ of [0-9]+ bytes",
        ),
        (lambda model: (model / _VAE_WEIGHTS).write_bytes(b""), "is cut short: 0 of 8 bytes"),
        (lambda model: _link(model / _VAE_WEIGHTS), "is a link to /nowhere/weights, which is not there"),
        (lambda model: shutil.rmtree(model / "vae"), "its vae, which model_index.json names, is not in the directory"),
    ],
    ids=[
        "no directory",
        "no index",
        "config is no JSON",
        "weights are no weights",
        "weights are missing",
        "weights are cut short",
        "weights are empty",
        "weights are a link",
        "a part is missing",
    ],
)
def test_damaged_model_is_named(demo_card: ModelCard, tmp_path: Path, damage: object, message: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_card.source, model)
    damage(model)  # type: ignore[operator]

    with pytest.raises(LoadError, match=message) as caught:
        Pipelines(SmallDevice()).get(_as(demo_card, "damaged", source=str(model)))

    assert "'damaged'" in str(caught.value)
    assert str(model) in str(caught.value)


def _rename_weights(model: Path, *parts: str, variant: str) -> None:
    for part in parts:
        for file in (model / part).glob("*.safetensors"):
            file.rename(file.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize(
    ("parts", "variant"),
    [
        (("transformer", "vae", "text_encoder"), "fp16"),
        (("transformer",), "fp16"),
        (("transformer", "vae", "text_encoder"), "bf16"),
    ],
)
def test_a_model_stored_in_a_variant_alone_is_loaded(
    demo_card: ModelCard, tmp_path: Path, parts: tuple[str, ...], variant: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_card.source, model)
    _rename_weights(model, *parts, variant=variant)

    pipe = Pipelines(SmallDevice()).get(_as(demo_card, "half", source=str(model)))

    assert variant_of(model) == variant
    whole = Pipelines(SmallDevice()).get(demo_card)
    assert torch.equal(pipe.transformer.proj_out.weight, whole.transformer.proj_out.weight)


def test_of_a_model_stored_twice_one_variant_counts(demo_card: ModelCard, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_card.source, model)
    once = loaded_bytes(model, 4, {})
    for file in list(model.glob("*/*.safetensors")):
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
        shutil.copy(file, file.with_suffix(".bin"))

    assert once > 2**20
    assert (variant_of(model), loaded_bytes(model, 4, {})) == (None, once)


def test_what_weights_will_take_is_read_from_their_headers(demo_card: ModelCard) -> None:
    pipe = Pipelines(SmallDevice()).get(demo_card)
    parts = (pipe.text_encoder, pipe.transformer, pipe.vae)
    floats = sum(weight.numel() for part in parts for weight in part.parameters())
    directory = Path(demo_card.source)
    assert [loaded_bytes(directory, size, {}) for size in (2, 4)] == [2 * floats, 4 * floats]
    without = sum(weight.numel() for part in (pipe.text_encoder, pipe.vae) for weight in part.parameters())
    file = str(directory / "vae" / "diffusion_pytorch_model.safetensors")
    twice = sum(weight.numel() for weight in pipe.vae.parameters())
    assert loaded_bytes(directory, 2, {"transformer": file}) == 2 * (without + twice)


def test_a_missing_quantiser_is_named_with_its_command(demo_card: ModelCard, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_card.source, model)
    config = json.loads((model / "transformer" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "sdnq"}
    (model / "transformer" / "config.json").write_text(json.dumps(config))

    with pytest.raises(LoadError) as caught:
        Pipelines(SmallDevice()).get(_as(demo_card, "quantised", source=str(model)))

    assert str(caught.value).endswith(
        ": its transformer is quantised with sdnq, which is not installed: pip install sdnq"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ImportError("\n`cosmos_guardrail` is not installed. Please"),
            "cosmos_guardrail, which is not installed: pip install cosmos_guardrail",
        ),
        (
            ModuleNotFoundError("No module named 'cv2'"),
            "opencv-python-headless, which is not installed: pip install opencv-python-headless",
        ),
        (importlib.metadata.PackageNotFoundError("gguf"), "gguf, which is not installed: pip install gguf"),
        (ValueError("something else"), ""),
    ],
)
def test_a_missing_package_is_named_with_its_command(error: Exception, expected: str) -> None:
    assert missing_package(error) == (f"it needs {expected}" if expected else "")


def test_a_name_that_was_not_imported_for_want_of_a_package_is_explained(tmp_path: Path) -> None:
    """As diffusers guards the imports of a pipeline's module."""
    file = tmp_path / "guarded.py"
    file.write_text(
        "from diffusers.utils import is_kornia_available\n"
        "if is_kornia_available():\n    from kornia import Processor\n"
        "def guarded(): return Processor()\n"
        "def misspelt(): return Procesor()\n"
    )
    spec = importlib.util.spec_from_file_location("guarded", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    for call, expected in (
        (module.guarded, "it needs kornia, which is not installed: pip install kornia"),
        (module.misspelt, ""),
    ):
        with pytest.raises(NameError) as caught:
            call()
        assert missing_package(caught.value) == expected


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
def test_torchvision_is_asked_for_in_the_build_of_torch() -> None:
    with pytest.raises(ImportError) as caught:
        transformers.Qwen2VLVideoProcessor()

    expected = missing_package(caught.value)

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    assert major == 2
    assert (
        f"it needs torchvision, which is not installed: pip install --no-deps 'torchvision==0.{minor + 15}.*'"
        in expected
    )
    assert ("whl/cpu" in expected) == torch.__version__.endswith("+cpu")


def test_what_of_a_directory_is_not_used_as_it_is_stored_is_logged(
    demo_card: ModelCard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_card.source, model)
    file = next((model / "transformer").glob("*.safetensors"))
    weights = load_file(file)
    weights["proj_out.weight"] = weights["proj_out.weight"].to(torch.float8_e4m3fn)
    save_file(weights, file)
    (model / "pytorch_lora_weights.safetensors").touch()

    Pipelines(SmallDevice()).get(_as(demo_card, "odd", source=str(model)))

    assert "not part of the model, and not used: pytorch_lora_weights.safetensors" in caplog.text
    assert "weights of transformer are stored in float8 and brought to torch.float32" in caplog.text


def test_an_engine_fetches_nothing(demo_card: ModelCard) -> None:
    with pytest.raises(LoadError, match="fetch it: python -m workers pull nobody/nothing"):
        Pipelines(SmallDevice()).get(_as(demo_card, "hub", source="nobody/nothing"))


class Full:
    """A loader for which there is memory only when no other model is there."""

    def __init__(self, pipelines: Pipelines, real: object, needs_empty: bool) -> None:
        self.pipelines, self.real, self.needs_empty, self.calls = pipelines, real, needs_empty, 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.pipelines.names() or not self.needs_empty:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.real(*args, **kwargs)  # type: ignore[operator]


@pytest.mark.parametrize("enough", [True, False])
def test_load_that_runs_out_of_memory_drops_the_others(
    demo_card: ModelCard, monkeypatch: pytest.MonkeyPatch, enough: bool
) -> None:
    pipelines = Pipelines(SmallDevice())
    pipelines.get(_as(demo_card, "one"))
    full = Full(pipelines, loading._from_pretrained, needs_empty=enough)
    monkeypatch.setattr(loading, "_from_pretrained", full)

    if enough:
        pipelines.get(_as(demo_card, "two"))
        assert pipelines.names() == ("two",)
    else:
        with pytest.raises(OutOfMemory, match="'two'"):
            pipelines.get(_as(demo_card, "two"))
        assert pipelines.names() == ()
    assert full.calls == 2


@pytest.mark.parametrize(
    ("kind", "dtype", "message"),
    [
        ("tpu", "auto", "'tpu' is not one of cpu, cuda"),
        ("cpu", "float99", "'float99' is not a floating-point type"),
        ("cpu", "int8", "'int8' is not a floating-point type"),
    ],
)
def test_device_that_cannot_be_is_refused(kind: str, dtype: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        Device(kind, dtype, threads=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_an_error_in_words() -> None:
    with pytest.raises(LoadError, match="no GPU"):
        Device("cuda", "auto", threads=0)


def test_peak_is_that_of_the_job() -> None:
    meter = ProcessMemory()
    meter.reset_peak()
    before = meter.peak_mb()

    held = np.ones(64 * 2**20, np.uint8)
    del held

    if meter._kernel_peak:  # elsewhere only samples are known, and none was taken while it was held
        assert 60 <= meter.peak_mb() - before <= 90
        meter.reset_peak()
        assert meter.peak_mb() < before + 30
