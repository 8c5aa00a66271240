"""Measure ways to make a model quicker: variants of one model side by side, in one process, on one device.

Reads a JSON object from stdin, {"model": directory, "device": "cpu" or "cuda", "threads": n, "steps": n, "size": [width, height, frames]
or null for the model's own, "variants": names of `VARIANTS` (none: all)}, and prints a list, one object a variant: seconds of a step and
of decoding, most memory, the ratio to the plain model, and how far its pixels are from the plain model's. Each is drawn once unmeasured.
A variant that the model or the machine cannot have says why.

    echo '{"model": "workers/demo_model", "device": "cpu", "threads": 2, "steps": 12}' | .venv/bin/python -m scripts.engine_speed
"""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bench.suites.speed import Order, Row
from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.artefacts import Mp4Writer
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.errors import EngineError
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.catalogue import card_for, model_for
from workers.models.sources import CatalogueError

_WORDS = 4096


class Variant(Struct, frozen=True, kw_only=True):
    """A model's table, and the fields of its jobs."""

    table: Mapping[str, Any] = MappingProxyType({})
    job: Mapping[str, Any] = MappingProxyType({})
    #: Where it differs on a CPU, so that it can be tried out there.
    on_cpu: Mapping[str, Any] | None = None


def _speed(**choices: Any) -> dict[str, Any]:
    return {"speed": choices}


VARIANTS: dict[str, Variant] = {
    "plain": Variant(),
    "attention": Variant(table=_speed(attention="_native_cudnn"), on_cpu=_speed(attention="_native_math")),
    "bf16-vae": Variant(table=_speed(vae_dtype="bfloat16")),
    "compile": Variant(table=_speed(compile=True), on_cpu=_speed(compile="eager")),
    "lossless": Variant(
        table=_speed(attention="_native_cudnn", compile=True, vae_dtype="bfloat16"),
        on_cpu=_speed(attention="_native_math", vae_dtype="bfloat16"),
    ),
    "cache-safe": Variant(job={"cache": "safe"}),
    "cache-fast": Variant(job={"cache": "fast"}),
    "compile-cache": Variant(
        table=_speed(compile=True, cache_kind="taylorseer"),
        job={"cache": "safe"},
        on_cpu=_speed(compile="eager", cache_kind="taylorseer"),
    ),
    "taylorseer-safe": Variant(table=_speed(cache_kind="taylorseer"), job={"cache": "safe"}),
    "taylorseer-fast": Variant(table=_speed(cache_kind="taylorseer"), job={"cache": "fast"}),
    "dbcache-fast": Variant(table=_speed(cache_kind="dbcache"), job={"cache": "fast"}),
    "fp8": Variant(table=_speed(quantize={"transformer": "fp8"})),
    "fp8-dynamic": Variant(table=_speed(quantize={"transformer": "fp8_dynamic"})),
    "int8": Variant(table=_speed(quantize={"transformer": "int8"})),
    "4-step": Variant(table={"presets": {"four": "wan-lightx2v-4step"}}, job={"preset": "four"}),
}


def measure(order: Order) -> list[Row]:
    """A row a variant; the plain one is always the first."""
    device = Device(order.device, "auto", order.threads)
    rows: list[Row] = []
    plain: npt.NDArray[np.uint8] | None = None
    for name in dict.fromkeys(("plain", *(order.variants or VARIANTS))):
        row, frames = _one(name, order, device)
        if frames is not None and plain is not None and frames.shape == plain.shape:
            apart = np.abs(frames.astype(np.int16) - plain)
            row.mean_pixel, row.worst_pixel = round(float(apart.mean()), 3), int(apart.max())
        plain = frames if plain is None else plain
        row.ratio = round(rows[0].whole_s / row.whole_s, 3) if rows and row.whole_s else 1.0
        rows.append(row)
        print(
            f"{row.variant}: {row.error or f'{row.step_s:.4f} s a step, decode {row.decode_s:.3f} s'}", file=sys.stderr
        )
    return rows


def _one(name: str, order: Order, device: Device) -> tuple[Row, npt.NDArray[np.uint8] | None]:
    if name not in VARIANTS:
        return Row(variant=name, error=f"not one of {', '.join(VARIANTS)}"), None
    variant = VARIANTS[name]
    table = variant.table if device.kind == "cuda" or variant.on_cpu is None else variant.on_cpu
    pipelines: Pipelines | None = None
    try:
        # Its own LoRAs are in no job here, and a compiled model would be refused with them.
        loras = dict.fromkeys(card_for(order.model).loras, "")
        model = model_for(order.model, "measured", {**table, "defaults": _defaults(order), "loras": loras})
        pipelines = Pipelines(device, {model.card.name: model.setup})
        engine = VideoEngine(pipelines)
        engine.load(model.card)
        first, _, _ = _draw(engine, model.card, variant, order, device)
        monitor, frames, spec = _draw(engine, model.card, variant, order, device)
    except (CatalogueError, EngineError, RuntimeError, ValueError, ImportError) as error:
        return Row(variant=name, error=" ".join(str(error).split())[:300]), None
    finally:
        if pipelines is not None:
            pipelines.keep_only("")
        gc.collect()
    took = monitor.times.durations()
    steps = spec.num_inference_steps
    return Row(
        variant=name,
        steps=steps,
        step_s=round(took.get("denoise", 0.0) / steps, 5),
        decode_s=round(took.get("decode", 0.0), 4),
        whole_s=round(sum(took.values()), 4),
        first_s=round(sum(first.times.durations().values()), 4),
        peak_mb=round(monitor.memory.peak_mb(), 1),
        used=monitor.used,
    ), frames


def _defaults(order: Order) -> dict[str, Any]:
    if order.size is None:
        return {}
    return dict(zip(("width", "height", "num_frames"), order.size, strict=True))


def _draw(
    engine: VideoEngine, card: ModelCard, variant: Variant, order: Order, device: Device
) -> tuple[Monitor, npt.NDArray[np.uint8], JobSpec]:
    usual, preset = card.defaults, variant.job.get("preset")
    if preset:
        usual = card.defaults_with(card.presets[preset])
    spec = JobSpec(
        model=card.name, output="video", prompt="a red circle moving right on a black background", width=usual.width,
        height=usual.height, num_frames=usual.num_frames, fps=usual.fps, seed=1, guidance_scale=usual.guidance_scale,
        num_inference_steps=usual.num_inference_steps if preset else order.steps,
        max_sequence_length=usual.max_sequence_length, **variant.job,
    )  # fmt: skip
    monitor = Monitor(Slot(memoryview(bytearray(_WORDS)).cast("Q"), 0), 1, 1, device.meter)
    with tempfile.TemporaryDirectory() as place, _written() as frames:
        complete(engine.generate(card, spec, Path(place), monitor, "normal"))
    return monitor, np.concatenate(frames), spec


@contextmanager
def _written() -> Iterator[list[npt.NDArray[np.uint8]]]:
    """Inside, the frames that go into a video are kept: what comes out of the lossy file is another thing."""
    kept: list[npt.NDArray[np.uint8]] = []
    write: Callable[..., None] = Mp4Writer.write

    def keep(self: Mp4Writer, frames: Any) -> None:
        kept.append(np.array(frames))
        write(self, frames)

    Mp4Writer.write = keep  # type: ignore[method-assign]
    try:
        yield kept
    finally:
        Mp4Writer.write = write  # type: ignore[method-assign]


def main() -> int:
    """Measure what the JSON on stdin describes."""
    logging.disable(logging.WARNING)
    rows = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    sys.stdout.buffer.write(msgspec.json.encode(rows) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
