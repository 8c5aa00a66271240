"""Content of a model's files: what two machines whose paths and times differ have in common.

Weights of tens of gigabytes are not read whole: a file counts by its size, its beginning and a sample of each 8 MiB, which is less than a
layer's. Another training of the same layers differs in every one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from broker.wire.jobspec import ModelCard
from workers.models.model import ModelSetup
from workers.models.sources import find

#: Files up to this size are read whole, and so much of the beginning of larger ones: the header of weights, as a rule.
_WHOLE_BYTES = 1 << 20
_EVERY_BYTES = 8 << 20
_SAMPLE_BYTES = 4096


def content_of(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 of what is looked at in these files, by their names, hex. Raises `OSError`."""
    digest = hashlib.sha256()
    for name, path in files:
        with open(path, "rb") as file:
            size = path.stat().st_size
            digest.update(json.dumps([name, size]).encode() + file.read(_WHOLE_BYTES))
            for at in range(_WHOLE_BYTES, size, _EVERY_BYTES):
                file.seek(min(at, size - _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def model_content(card: ModelCard, setup: ModelSetup, device: str, dtype: str) -> str:
    """Names a model as it is made ready, by its files' content, on whichever machine. Raises `OSError`."""
    text = msgspec.json.encode([card.pipeline, device, dtype, setup.without_files()]).decode()
    source = find(card.source)
    places = [source or Path(card.source), *([Path(setup.config)] if setup.config else [])]
    files = [
        (f"{number}/{path.relative_to(place)}", path) for number, place in enumerate(places) for path in _below(place)
    ]
    parts = [(f"part {name}", Path(path)) for name, path in sorted(setup.parts.items())]
    return hashlib.sha256(f"{text} {content_of([*files, *parts])}".encode()).hexdigest()[:16]


def _below(place: Path) -> list[Path]:
    """The files of a directory, without hidden ones: notes of the client that fetched it, such as the time."""
    if place.is_file():
        return [place]
    shown = (path for path in place.rglob("*") if not any(part[0] == "." for part in path.relative_to(place).parts))
    return sorted(path for path in shown if path.is_file())
