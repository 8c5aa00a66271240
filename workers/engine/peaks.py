"""Peak memory of jobs on top of the weights, by shape, kept over restarts in one small file of the home.

What was learned is true of one model as it was made ready, in one placement, on one kind of device: under any other it is learned anew. The
file holds JSON; a damaged one, or one of another version, is begun afresh. Several engines of a machine write it: each reads what the
others wrote before, and replaces the file as a whole. Numbers are in MB.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field, structs

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.models.model import ModelSetup
from workers.models.placement import Need
from workers.models.sources import find

logger = logging.getLogger(__name__)

_VERSION = 1
_MB = 2**20

#: Models, and shapes of one, that are kept; those that were learned longest ago go first.
_MAX_MODELS, _MAX_SHAPES = 64, 256


class Shape(Struct, frozen=True):
    """Jobs of equal shape take equal memory. `key` is the shape as text, `volume` the pixels of all frames."""

    model: str
    key: str
    volume: int


def shape(model: str, width: int, height: int, frames: int, more: str = "") -> Shape:
    """The shape of jobs of this size; `more`: what else they depend on, as "+image"."""
    return Shape(model, f"{width}x{height}x{frames}{more}", width * height * frames)


class Peak(Struct):
    """Peak of one shape in one placement; 0: not measured. `volume`: the shape's, by which others are estimated."""

    volume: int = 0
    #: The names in the file are those of before.
    denoise: float = field(default=0.0, name="front")
    postprocess: float = field(default=0.0, name="tail")

    def merge(self, other: Peak) -> None:
        """Both are true: the higher numbers are."""
        self.volume = max(self.volume, other.volume)
        self.denoise = max(self.denoise, other.denoise)
        self.postprocess = max(self.postprocess, other.postprocess)


_Book = dict[str, dict[str, Peak]]


class _File(Struct):
    version: int
    models: _Book


class Peaks:
    """The peaks of this machine's models. Both threads of an engine use it. `file` None: nothing is kept."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        #: Revision -> "placement shape" -> peak.
        self._book: _Book = self._read()
        #: Model -> its revision and placement now.
        self._placed: dict[str, tuple[str, str]] = {}
        #: (revision, shape) -> room that was not enough. Not kept: another program may have been to blame.
        self._not_enough: dict[tuple[str, str], float] = {}

    def placed(self, model: str, revision: str, placement: str) -> None:
        """Note the placement of the model's weights, which later measurements belong to."""
        with self._lock:
            self._placed[model] = (revision, placement)

    def denoise(self, shape: Shape) -> float:
        """Return the peak of such a job's denoising in the present placement, MB; 0: not measured."""
        return self._now(shape).denoise

    def postprocess(self, shape: Shape) -> float:
        """The same of its postprocess stages."""
        return self._now(shape).postprocess

    def denoise_took(self, shape: Shape, mb: float) -> None:
        """A denoise stage of this shape took this much, with nothing beside it."""
        self._learn(shape, Peak(denoise=mb))

    def postprocess_took(self, shape: Shape, mb: float) -> None:
        """A postprocess stage of this shape took this much, with nothing beside it."""
        self._learn(shape, Peak(postprocess=mb))

    def ran_out(self, revision: str, shape: Shape, room_mb: float) -> None:
        """A job of this shape ran out of memory when it had this much on top of the weights, and nothing was beside it."""
        with self._lock:
            known = self._not_enough.get((revision, shape.key), 0.0)
            self._not_enough[revision, shape.key] = max(known, room_mb)

    def need(self, revision: str, shape: Shape, *, certain: bool = False) -> Need:
        """Return the memory that a job of this shape needs on top of the weights, in any placement.

        Of a shape that was not drawn yet it is an estimate, in proportion to the next in size; nothing where only the `certain` counts.
        """
        with self._lock:
            seen = [*self._book.get(revision, {}).items()]
            less = self._not_enough.get((revision, shape.key), 0.0)
        own = [peak for name, peak in seen if name.partition(" ")[2] == shape.key]
        others = [] if certain else [peak for _, peak in seen]
        denoise = _least([peak.denoise for peak in own]) or _in_proportion(
            shape, [(one.volume, one.denoise) for one in others]
        )
        postprocess = _least([peak.postprocess for peak in own]) or _in_proportion(
            shape, [(one.volume, one.postprocess) for one in others]
        )
        return Need(int(max(denoise, less) * _MB), int(max(postprocess, less) * _MB))

    def _now(self, shape: Shape) -> Peak:
        with self._lock:
            revision, placement = self._placed.get(shape.model, ("", ""))
            return self._book.get(revision, {}).get(_entry(placement, shape, revision), Peak())

    def _learn(self, shape: Shape, seen: Peak) -> None:
        with self._lock:
            revision, placement = self._placed.get(shape.model, ("", ""))
            known = self._book.setdefault(revision, {}).setdefault(_entry(placement, shape, revision), Peak())
            before = msgspec.structs.replace(known)
            known.merge(seen)
            known.volume = shape.volume
            # What is hardly news is not worth a write.
            if revision and (known.denoise > 1.02 * before.denoise or known.postprocess > 1.02 * before.postprocess):
                self._write()

    # ------------------------------------------------------------ the file

    def _read(self) -> _Book:
        if self._file is None:
            return {}
        try:
            read = msgspec.json.decode(self._file.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        return read.models if read.version == _VERSION else {}

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            with self._file.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for revision, shapes in self._read().items():
                    ours = self._book.setdefault(revision, {})
                    for entry, peak in shapes.items():
                        ours.setdefault(entry, Peak()).merge(peak)
                kept = {name: shapes for name, shapes in self._book.items() if name}
                kept = {name: dict([*shapes.items()][-_MAX_SHAPES:]) for name, shapes in [*kept.items()][-_MAX_MODELS:]}
                fresh = self._file.with_suffix(f".{os.getpid()}.new")
                fresh.write_bytes(msgspec.json.encode(_File(_VERSION, kept)))
                fresh.replace(self._file)
        except OSError as error:
            logger.warning("what was learned cannot be kept", extra={"action": Action.PEAKS, "detail": str(error)})


def _entry(placement: str, shape: Shape, revision: str) -> str:
    # Without a revision its model is unknown.
    return f"{placement} {shape.key}" if revision else f"{shape.model} {shape.key}"


def _least(took: list[float]) -> float:
    """By the placement that shows it best: others count weights that come and go with the job."""
    return min((mb for mb in took if mb), default=0.0)


def _in_proportion(shape: Shape, took: list[tuple[int, float]]) -> float:
    """By the measured shape, (volume, MB), that is next in size."""
    measured = [(abs(shape.volume - volume), mb / volume) for volume, mb in took if volume and mb]
    return min(measured, default=(0, 0.0))[1] * shape.volume


def revision_of(card: ModelCard, setup: ModelSetup, device: str, dtype: str) -> str:
    """Names a model as it is made ready here: another file, another setting or another kind of device gives another name."""
    directory = find(card.source)
    files = sorted(directory.rglob("*")) if directory is not None else []
    identity: list[Any] = [
        card.name,
        card.pipeline,
        device,
        dtype,
        msgspec.json.encode(structs.replace(setup, where="")).decode(),
    ]
    for file in (*files, *(Path(part) for part in setup.parts.values())):
        with suppress(OSError):
            if file.is_file():
                identity.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return f"{card.name} {hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
