"""Which of a directory's weights are loaded, and what of it is never opened or run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import modeling_utils
from safetensors.torch import load_file, save_file

from tests.engine import tiny
from workers.engine.device import Device
from workers.engine.pipelines import Pipelines
from workers.models.catalogue import model_for
from workers.models.sources import CatalogueError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_wan_image_to_video(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def base(saved: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return shutil.copytree(saved, tmp_path / "base")


def loaded(base: Path, table: dict[str, Any]) -> Any:
    model = model_for(str(base), "m", table)
    return Pipelines(Device("cpu", "float32", threads=0), {"m": model.setup}).get(model.card)


def refused(base: Path, table: dict[str, Any]) -> str:
    with pytest.raises(CatalogueError) as caught:
        model_for(str(base), "m", table)
    return str(caught.value)


def add_variant(base: Path, name: str) -> torch.Tensor:
    """Weights of the transformer in a variant, where its bias differs, which is given."""
    own = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    own["proj_out.bias"] = own["proj_out.bias"] + 1
    save_file(own, base / "transformer" / f"diffusion_pytorch_model.{name}.safetensors")
    return own["proj_out.bias"]


def test_the_variant_that_is_named_is_taken(base: Path) -> None:
    theirs = add_variant(base, "fp16")

    assert not torch.equal(loaded(base, {}).transformer.proj_out.bias, theirs)
    assert torch.equal(loaded(base, {"variant": "fp16"}).transformer.proj_out.bias, theirs)


def test_a_variant_that_there_is_not_is_told_from_those_there_are(base: Path) -> None:
    assert refused(base, {"variant": "fp16"}).endswith("; its weights have no variants, so leave the key out")
    add_variant(base, "bf16")
    assert refused(base, {"variant": "fp16"}).endswith("; those there are bf16")


def test_pickled_weights_are_refused_and_not_opened(base: Path) -> None:
    file = base / "transformer" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))

    text = refused(base, {})

    assert text.startswith(f"[models.m] path: {file.with_suffix('.bin')} is a pickle")
    assert "get the model with safetensors, or convert it" in text


def test_a_pickle_beside_safetensors_is_left_alone(base: Path) -> None:
    (base / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02 no pickle")

    assert loaded(base, {}).transformer is not None


def add_code(base: Path) -> None:
    """A scheduler of the model's own, in its directory."""
    code = (
        "from diffusers import FlowMatchEulerDiscreteScheduler\nclass Own(FlowMatchEulerDiscreteScheduler):\n    pass\n"
    )
    (base / "scheduler" / "own_code.py").write_text(code)
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "scheduler": ["own_code", "Own"]}))


def test_a_model_s_own_code_runs_only_where_the_service_says_so(base: Path) -> None:
    add_code(base)

    assert "is code of the model's own scheduler, which may not run; " in refused(base, {})
    assert type(loaded(base, {"trust_remote_code": True}).scheduler).__name__ == "Own"


def test_a_model_cannot_trust_itself(base: Path) -> None:
    add_code(base)
    (base / "zoetrope.toml").write_text("trust_remote_code = true\n")

    assert "trust_remote_code: true is not for a model to say of itself; it belongs in the service's table" in refused(
        base, {}
    )


def test_shards_read_by_several_threads_are_the_same_weights(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loaded(base, {}).transformer
    shutil.rmtree(base / "transformer")
    whole.save_pretrained(base / "transformer", max_shard_size="20KB")
    assert len(list((base / "transformer").glob("*.safetensors"))) > 2
    monkeypatch.setattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING", True)

    sharded = loaded(base, {}).transformer.state_dict()

    assert all(torch.equal(sharded[name], tensor) for name, tensor in whole.state_dict().items())
