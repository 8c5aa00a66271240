"""Kinds of step caches: each leaves blocks out, stays near what is drawn without, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from broker.wire.jobspec import JobSpec, ModelCard
from tests.engine.conftest import spec_for
from tests.engine.scripted import CancelAt, blank
from workers.engine.device import Device
from workers.engine.memory import ProcessMemory
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.catalogue import default_model, model_for
from workers.models.sources import CatalogueError
from workers.models.step_caches import CacheKind

#: The demo model's, as a calibration of 20 steps gives them.
RATIOS = [
    1.0, 0.908, 0.946, 0.958, 0.963, 0.955, 0.971, 0.96, 0.955, 0.955, 0.946, 0.935, 0.931, 0.917, 0.902, 0.892, 0.875, 0.873, 0.931, 1.876,
]  # fmt: skip
STEPS = 16

#: Kind -> its table, and by what share of their norm the latents of "safe" and of "fast" may be away from those of all blocks.
KINDS: dict[CacheKind, tuple[dict[str, Any], float, float]] = {
    "first_block": ({}, 0.05, 0.2),
    "taylorseer": ({}, 0.05, 0.2),
    "mag": ({"cache_ratios": RATIOS}, 0.05, 0.2),
    "dbcache": ({}, 0.05, 0.2),
}


class Drawing:
    """The demo model with a step cache of one kind."""

    def __init__(self, kind: CacheKind) -> None:
        speed = {"cache_kind": kind, **KINDS[kind][0]}
        model = model_for(str(default_model()), "m", {"speed": speed})
        self.card: ModelCard = model.card
        self.engine = VideoEngine(Pipelines(Device("cpu", "auto", threads=1), {"m": model.setup}))
        self.engine.load(self.card)
        self.run = 0
        self.last = self.engine.pipelines.get(self.card).transformer.blocks[-1]
        self.last.attn1.register_forward_pre_hook(self._tick)

    def _tick(self, *_: Any) -> None:
        self.run += 1

    def job(self, **changes: Any) -> JobSpec:
        small = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": STEPS, "guidance_scale": 3.0}
        return spec_for(self.card, **{**small, **changes})

    def latents(self, slot: Slot | None = None, **changes: Any) -> tuple[torch.Tensor, dict[str, str], int]:
        """Latents of a job, what it was drawn with, and how often the last block computed."""
        spec = self.job(**changes)
        monitor = Monitor(slot or Slot(blank(), 0), 1, 1, ProcessMemory())
        pipe = self.engine.prepare(self.card, spec, monitor, "normal")
        before = self.run
        with self.engine.adjusted(pipe, self.card, spec, monitor):
            drawn = self.engine.call(pipe, self.card, spec, 0, monitor, output_type="latent").frames
        return drawn, monitor.used, self.run - before

    @cached_property
    def whole(self) -> torch.Tensor:
        """Of the usual job without a cache."""
        return self.latents()[0]

    @cached_property
    def fast(self) -> torch.Tensor:
        """Of the usual job with the cache."""
        return self.latents(cache="fast")[0]


@pytest.fixture(scope="module", params=sorted(KINDS))
def drawing(request: pytest.FixtureRequest) -> tuple[CacheKind, Drawing]:
    return request.param, Drawing(request.param)


def away(drawn: torch.Tensor, whole: torch.Tensor) -> float:
    return float((drawn - whole).norm() / whole.norm())


def test_blocks_are_left_out_within_bounds_and_nothing_stays(drawing: tuple[CacheKind, Drawing]) -> None:
    kind, of = drawing
    every = 2 * STEPS
    for mode, bound in zip(("safe", "fast"), KINDS[kind][1:], strict=True):
        cached, used, run = of.latents(cache=mode)
        assert run < every or (kind == "first_block" and mode == "safe")
        assert away(cached, of.whole) < bound
        assert used["cache"] == (mode if kind == "first_block" else f"{mode}, {kind}")
    assert torch.equal(cached, of.fast)
    after, used, run = of.latents()
    assert torch.equal(after, of.whole)
    assert run == every
    assert "cache" not in used


def test_without_guidance_every_call_is_of_one_kind(drawing: tuple[CacheKind, Drawing]) -> None:
    kind, of = drawing
    whole, _, every = of.latents(guidance_scale=1.0)
    cached, _, run = of.latents(guidance_scale=1.0, cache="fast")
    assert every == STEPS
    assert run < every
    assert away(cached, whole) < KINDS[kind][2]


def test_a_cancel_or_another_size_leaves_the_next_job_as_it_is(drawing: tuple[CacheKind, Drawing]) -> None:
    _, of = drawing
    whole, fast = of.whole, of.fast
    stopped = CancelAt.at("denoise", 6, hits=1)
    with pytest.raises(Cancelled):
        of.latents(stopped, cache="fast", width=96)
    assert torch.equal(of.latents(cache="fast")[0], fast)
    assert torch.equal(of.latents()[0], whole)


def test_a_job_that_fails_leaves_the_next_one_as_it_is(drawing: tuple[CacheKind, Drawing]) -> None:
    _, of = drawing
    whole = of.whole

    def fail(*_: Any) -> None:
        raise RuntimeError("it broke")

    handle = of.last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="it broke"):
        of.latents(cache="fast")
    handle.remove()
    assert torch.equal(of.latents()[0], whole)


# ---------------------------------------------------------------- refused at start


def _index(place: Path, pipeline: str, **index: Any) -> str:
    place.mkdir()
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    return str(place)


_WAN = {"transformer": ["diffusers", "WanTransformer3DModel"]}
_TWO = {**_WAN, "transformer_2": ["diffusers", "WanTransformer3DModel"]}
_SANA = {"transformer": ["diffusers", "SanaTransformer2DModel"]}


@pytest.mark.parametrize(
    ("pipeline", "index", "speed", "text"),
    [
        ("WanPipeline", _WAN, {"cache_kind": "tea"}, "cache_kind: 'tea' is not one of dbcache, first_block, mag, taylorseer"),
        ("WanPipeline", _WAN, {"cache_kind": "mag"}, "cache_kind: 'mag' cannot be had: it needs cache_ratios, one number a step"),
        ("WanPipeline", _TWO, {"cache_kind": "mag", "cache_ratios": [1.0]}, "cache_kind: 'mag' cannot be had: WanPipeline has two"),
        ("WanPipeline", _WAN, {"cache_ratios": [1.0]}, "cache_ratios: [1.0] are for the kind \"mag\" alone; leave the key out"),
        ("SanaPipeline", _SANA, {"cache_kind": "taylorseer"}, "cache_kind: 'taylorseer' cannot be had: SanaPipeline cannot leave"),
        ("SanaPipeline", _SANA, {"cache_kind": "dbcache"}, "cache_kind: 'dbcache' cannot be had: SanaPipeline was not seen"),
    ],
)  # fmt: skip
def test_a_kind_that_a_model_cannot_have_is_said_at_start(
    tmp_path: Path, pipeline: str, index: dict[str, Any], speed: dict[str, Any], text: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        model_for(_index(tmp_path / "m", pipeline, **index), "m", {"speed": speed})
    assert str(caught.value).startswith(f"[models.m] speed.{text}")


def test_a_kind_whose_package_is_not_there_is_said_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cache_dit" else find(name))
    with pytest.raises(CatalogueError, match="needs the package cache-dit, which is not installed: pip install"):
        model_for(_index(tmp_path / "m", "WanPipeline", **_WAN), "m", {"speed": {"cache_kind": "dbcache"}})


def test_dbcache_serves_pipelines_that_do_not_tell_their_calls_apart(tmp_path: Path) -> None:
    flux = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
    kontext = _index(tmp_path / "k", "FluxKontextPipeline", **flux)
    assert model_for(kontext, "m", {}).card.caches == ()
    assert model_for(kontext, "m", {"speed": {"cache_kind": "dbcache"}}).card.caches == ("off", "safe", "fast")
