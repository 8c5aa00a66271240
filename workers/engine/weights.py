"""The weights in a model's directory, by their names and headers: nothing here reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

#: name, variant, shard: `model.fp16-00001-of-00002.safetensors`, or with the variant after the shard.
_FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<late>\w+))?\.(?P<kind>safetensors|bin)"
)

#: Of the variants that a model may be stored in, the one taken first.
_PREFERRED = ("bf16", "fp16")

#: Longest header of a safetensors file that is looked at.
_MAX_HEADER = 100 * 2**20


def variant_of(directory: Path) -> str | None:
    """The variant (as "fp16") in which those parts are stored that have no other weights; None when all have."""
    lacking = [set(files) for files in _parts(directory).values() if None not in files]
    shared = set.intersection(*lacking) if lacking else set()
    variants = {variant for variant in shared if variant is not None}
    return next((variant for variant in _PREFERRED if variant in variants), min(variants, default=None))


def weights_bytes(directory: Path) -> int:
    """Size of the weights that are loaded: of each part one variant, and one kind of file."""
    wanted = variant_of(directory)
    total = 0
    for files in _parts(directory).values():
        chosen = files.get(wanted) or files.get(None) or []
        safe = [file for file in chosen if file.suffix == ".safetensors"]
        total += sum(file.stat().st_size for file in safe or chosen)
    return total


def float8_parts(directory: Path) -> list[str]:
    """Parts with weights in float8 that no quantiser reads: they are brought to the dtype of the others."""
    return [
        part
        for part, files in _parts(directory).items()
        if not _is_quantised(directory / part) and any(_has_float8(file) for some in files.values() for file in some)
    ]


def loose_loras(directory: Path) -> list[str]:
    """Files beside the parts that change a model and are none of its parts."""
    return sorted(file.name for file in directory.glob("*.safetensors") if "lora" in file.name.lower())


def _parts(directory: Path) -> dict[str, dict[str | None, list[Path]]]:
    """Part -> variant (None: no variant) -> files."""
    found: dict[str, dict[str | None, list[Path]]] = {}
    for file, match in _weight_files(directory):
        variant = match["variant"] or match["late"]
        found.setdefault(file.parent.name, {}).setdefault(variant, []).append(file)
    return found


def _weight_files(directory: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    return ((file, match) for file in sorted(directory.glob("*/*")) if (match := _FILE.fullmatch(file.name)))


def _is_quantised(part: Path) -> bool:
    try:
        return "quantization_config" in json.loads((part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _has_float8(file: Path) -> bool:
    if file.suffix != ".safetensors":
        return False
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return size <= _MAX_HEADER and b'"F8_E' in stream.read(size)
    except OSError:
        return False
