"""One tiny pipeline as a worker serves it: saved, read into a card, loaded by that card's engine, its jobs run by a `Runner`."""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import Struct
from PIL import Image

from broker.wire.inputs import ROLES
from broker.wire.jobspec import JobSpec, ModelCard, encode_spec
from tests.engine import lora_files
from tests.engine.conftest import spec_for
from tests.engine.families import parts
from tests.engine.families.cases import Case
from tests.engine.raw_frames import tapped
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.artefacts import Mp4Writer
from workers.engine.checkpoints import Checkpoints
from workers.engine.registry import Registry
from workers.engine.runner import Runner
from workers.ipc.messages import JobCancelled, JobEnding, JobFailed, JobFinished, PostprocessBegun, RunJob, Setup
from workers.ipc.shared import Slot
from workers.models.catalogue import model_for

#: Name of its LoRA.
LORA = "tiny"

_PATIENCE_S = 60.0


class Drawn(Struct, frozen=True):
    """What came of a job."""

    spec: JobSpec
    ending: JobFinished | JobFailed | JobCancelled
    #: The raw frames of each output, as they went into its file: number x height x width x 3.
    frames: tuple[Any, ...]
    #: (phase, step, total) in the order shown.
    seen: tuple[tuple[str, int, int], ...]
    #: Whether its tail was handed over, to run beside the next job.
    handed_over: bool
    #: Where its files are.
    place: Path

    def finished(self) -> JobFinished:
        """Its end, which must be a good one."""
        assert isinstance(self.ending, JobFinished), getattr(self.ending, "message", self.ending)
        return self.ending


class Answers:
    """What a runner sends, from whichever thread."""

    def __init__(self) -> None:
        self._said: list[Any] = []
        self._more = threading.Condition()

    def take(self, message: Struct) -> None:
        with self._more:
            self._said.append(message)
            self._more.notify_all()

    def after(self, endings: int) -> list[Any]:
        """All that was sent, once so many jobs have ended."""
        with self._more:
            came = self._more.wait_for(
                lambda: sum(isinstance(message, JobEnding) for message in self._said) >= endings, _PATIENCE_S
            )
            assert came, self._said
            return list(self._said)


class Served:
    """A class's pipeline, loaded."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self._directory = directory
        self._numbers = itertools.count()
        model, self.lora = directory / "model", directory / "lora.safetensors"
        self.takes_loras = _save(case, model, self.lora)
        served = model_for(str(model), case.name, {"loras": {LORA: str(self.lora)}} if case.lora else {})
        self.card: ModelCard = served.card
        self._setups = {case.name: served.setup}
        self._registry = self._load()
        self.picture, self.other_picture = directory / "picture.png", directory / "other.png"
        for path in (self.picture, self.other_picture):
            _paint(path, mirrored=path == self.other_picture)
        self._media = {
            "picture": (self.picture, self.other_picture),
            "mask": tuple(_mask(directory, left) for left in (True, False)),
            "clip": tuple(_clip(directory, mirrored) for mirrored in (False, True)) if case.uses("clip") else (),
        }

    def _load(self, dtype: str = "auto") -> Registry:
        return Registry(
            Setup(
                models=(self.card,), preload=self.card.name, device="cpu", threads=1, setups=self._setups, dtype=dtype
            )
        )

    @contextmanager
    def reloaded(self, dtype: str) -> Iterator[None]:
        """Inside, jobs are drawn with the model as it is loaded in another dtype."""
        own, self._registry = self._registry, self._load(dtype)
        try:
            yield
        finally:
            self._registry = own

    def media(self, role: str, which: int = 0) -> tuple[str, ...]:
        """One of the two files for this role."""
        return (str(self._media[ROLES[role].kind][which]),)

    @property
    def _kept(self) -> Path:
        return self._directory / "checkpoints"

    @property
    def pipe(self) -> Any:
        """The pipeline in memory."""
        engine: Any = self._registry.engine(self.card)
        return engine.pipelines.get(self.card)

    def spec(self, **changes: object) -> JobSpec:
        """A small job that the card's limits allow: a landscape, few frames."""
        limits, image = self.card.limits, self.card.output == "image"
        side = limits.min_side
        return spec_for(
            self.card,
            **{
                "prompt": "a red circle",
                "width": side + limits.side_multiple,
                "height": side,
                "num_frames": 1 if image else limits.nearest_frames(5)[-1],
                "fps": 8.0,
                # Long enough that a step can follow a step, and be cancelled.
                "num_inference_steps": self.case.steps,
                "image": str(self.picture) if self.card.needs_image else "",
                "inputs": {role: self.media(role) for role in self.card.needs_inputs},
                "extra": {**self.case.extra, **({"strength": 0.5} if self.case.strength else {})},
                **({"num_inference_steps": 2 * self.case.steps} if self.case.strength else {}),
                **changes,
            },
        )

    def draw(self, **changes: object) -> Drawn:
        """One job, with nothing beside it."""
        return self.run((self.spec(**changes),), overlap=False)[0]

    def cancel(self, phase: str, step: int, hits: int) -> tuple[Drawn, CancelAt]:
        """A job with a prompt of its own (what was encoded before is not encoded again) that is told to stop at a point."""
        slot = CancelAt.at(phase, step, hits)
        return self.run((self.spec(prompt=f"a blue square {phase}"),), overlap=False, slots=(slot,))[0], slot

    def run(
        self,
        specs: tuple[JobSpec, ...],
        *,
        overlap: bool,
        slots: tuple[Slot, ...] = (),
        checkpoints: Path | None = None,
    ) -> list[Drawn]:
        """Run jobs through one runner, one after another or each beside the tail of the one before."""
        slots = slots or tuple(Recorder.recording() for _ in specs)
        answers = Answers()
        runner = Runner(
            self._registry,
            {self.card.name: self.card},
            SimpleNamespace(slots=slots),
            answers.take,
            lambda: None,
            checkpoint_s=0.0,
        )
        places = [self._directory / f"job-{next(self._numbers)}" for _ in specs]
        with tapped() as frames:
            for number, (spec, place) in enumerate(zip(specs, places, strict=True)):
                place.mkdir()
                runner.run(
                    RunJob(
                        job_id=place.name, fence=number + 1, body=encode_spec(spec), out_dir=str(place), slot=number,
                        alone=not overlap, checkpoints=str(checkpoints or ""),
                    )
                )  # fmt: skip
            said = answers.after(len(specs))
        return [
            _drawn(spec, fence, said, slot, place, frames)
            for fence, (spec, slot, place) in enumerate(zip(specs, slots, places, strict=True), start=1)
        ]

    @cached_property
    def base(self) -> Drawn:
        """The job that others are compared with."""
        return self.draw()

    @cached_property
    def shaped(self) -> Drawn:
        """A job of another shape: a portrait, another number of frames, a step more. It leaves checkpoints."""
        spec = self.base.spec
        frames = 1 if self.card.output == "image" else self.card.limits.nearest_frames(spec.num_frames + 1)[-1]
        other = self.spec(
            width=spec.height,
            height=spec.width,
            num_frames=frames,
            num_inference_steps=spec.num_inference_steps + 1,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "keep", _keep_at_once)
            return self.run((other,), overlap=False, checkpoints=self._kept)[0]

    def resumed(self, back: int) -> Drawn:
        """The job of `shaped`, from the last checkpoint that it left, or so many before it, as far as there are any."""
        kept = sorted(self._kept.glob("0-*"), key=lambda path: int(path.stem.partition("-")[2]))
        for path in kept[max(1, len(kept) - back) :]:
            path.unlink()
        return self.run((self.shaped.spec,), overlap=False, checkpoints=self._kept)[0]

    @cached_property
    def guided(self) -> Drawn:
        """A job with guidance, which has effect where it is off by default, too."""
        scale = None if "guidance_scale" in self.case.without else 2.0
        return self.draw(guidance_scale=scale, negative_prompt="")

    @cached_property
    def other_seed(self) -> Drawn:
        """The same with the next seed."""
        return self.draw(seed=self.base.spec.seed + 1)


_keep = Checkpoints.keep


def _keep_at_once(checkpoints: Checkpoints, *state: Any) -> None:
    """A checkpoint is on disk before the next step, as with steps of a real length."""
    _keep(checkpoints, *state)
    checkpoints.settle()


def _drawn(spec: JobSpec, fence: int, said: list[Any], slot: Slot, place: Path, frames: dict[Path, list[Any]]) -> Drawn:
    own = [message for message in said if message.fence == fence]
    endings = [message for message in own if isinstance(message, JobEnding)]
    assert len(endings) == 1, endings
    made = endings[0].result.artefacts if isinstance(endings[0], JobFinished) else ()
    return Drawn(
        spec,
        endings[0],
        tuple(_raw(place / artefact.name, frames) for artefact in made),
        tuple(getattr(slot, "seen", ())),
        any(isinstance(message, PostprocessBegun) for message in own),
        place,
    )


def _raw(path: Path, frames: dict[Path, list[Any]]) -> Any:
    if path.suffix == ".png":
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))[np.newaxis]
    return np.concatenate(frames[path])


def state(pipe: Any) -> dict[str, Any]:
    """All that a job could leave changed: weights and buffers by name, configs of schedulers and models, hooks."""
    found: dict[str, Any] = {}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            for key, value in itertools.chain(part.named_parameters(), part.named_buffers()):
                found[f"{name}.{key}"] = value.detach().clone()
            found[f"{name} hooks"] = sum(len(module._forward_pre_hooks) for module in part.modules())
        if hasattr(part, "config"):
            found[f"{name} config"] = str(part.config)
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return sorted(
        name
        for name in one.keys() | other.keys()
        if not (
            torch.equal(one[name], other[name])
            if isinstance(one.get(name), torch.Tensor) and isinstance(other.get(name), torch.Tensor)
            else one.get(name) == other.get(name)
        )
    )


def _save(case: Case, model: Path, lora: Path) -> bool:
    """Write the pipeline, and a LoRA of what denoises; returns whether diffusers loads LoRAs into such a pipeline."""
    builders = importlib.import_module(f"tests.engine.families.build_{case.build}").BUILDERS
    torch.manual_seed(0)
    pipe = builders[case.label]()
    parts.wake(pipe)
    pipe.save_pretrained(model)
    name = "transformer" if getattr(pipe, "transformer", None) is not None else "unet"
    denoiser = getattr(pipe, name, None)
    if denoiser is None or not (layers := lora_files.attention(denoiser)):
        return False
    lora_files.save(lora, lora_files.diffusers(lora_files.pairs(denoiser, layers), name))
    loads = hasattr(pipe, "load_lora_weights") and hasattr(denoiser, "delete_adapters")
    # The loader asks for the component, and fails where the class has none.
    return loads and ("text_encoder_2" not in pipe._lora_loadable_modules or hasattr(pipe, "text_encoder_2"))


def _mask(directory: Path, left: bool) -> Path:
    """White in one half: 96 x 80."""
    path = directory / f"mask-{left}.png"
    pixels = np.zeros((80, 96), np.uint8)
    pixels[:, :48] = 255
    Image.fromarray(pixels if left else pixels[:, ::-1]).save(path)
    return path


def _clip(directory: Path, mirrored: bool) -> Path:
    """Pictures that move, for long enough: 96 x 80."""
    name = f"clip-{mirrored}.mp4"
    down, across = np.mgrid[0:80, 0:96]
    with Mp4Writer(directory, name, 16.0) as writer:
        for number in range(72):
            frame = np.stack([across * 2, down * 3, (across + 4 * number) % 256], axis=-1).astype(np.uint8)
            writer.write((frame[::-1, ::-1] if mirrored else frame)[np.newaxis])
        writer.finish()
    return directory / name


def _paint(path: Path, mirrored: bool) -> None:
    """A picture in which every place looks different: 96 x 80."""
    down, across = np.mgrid[0:80, 0:96]
    pixels = np.stack([across * 2, down * 3, (across * down) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels[::-1, ::-1] if mirrored else pixels).save(path)
