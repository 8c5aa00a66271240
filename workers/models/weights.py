"""The weights in a model's directory, by their names and headers: nothing here reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.models.weight_files import MAX_HEADER, NoWeights, read_weights

#: name, variant, shard: `model.fp16-00001-of-00002.safetensors`, or with the variant after the shard.
WEIGHT_FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<late>\w+))?\.(?P<kind>safetensors|bin)"
)

#: Of the variants that a model may be stored in, the one taken first.
_PREFERRED = ("bf16", "fp16")

#: safetensors' other types -> bytes.
_INTEGER_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}


def variant_of(directory: Path) -> str | None:
    """The variant (as "fp16") in which those parts are stored that have no other weights; None when all have."""
    lacking = [set(files) for files in _parts(directory).values() if None not in files]
    shared = set.intersection(*lacking) if lacking else set()
    variants = {variant for variant in shared if variant is not None}
    return next((variant for variant in _PREFERRED if variant in variants), min(variants, default=None))


def variants(directory: Path) -> set[str]:
    """The variants that any part has weights of."""
    return {name for files in _parts(directory).values() for name in files if name is not None}


def pickled(directory: Path, replaced: Container[str] = ()) -> str:
    """The first file of a part whose weights are pickles alone, as "unet/diffusion_pytorch_model.bin"; "" when there is none."""
    for part, by_variant in _parts(directory).items():
        files = [file for some in by_variant.values() for file in some]
        if part not in replaced and not any(file.suffix == ".safetensors" for file in files):
            return f"{part}/{files[0].name}"
    return ""


def damage(directory: Path, replaced: Container[str] = ()) -> str:
    """Return a sentence on the part of a model that is missing or not whole; "" when nothing is seen by names, sizes and headers.

    Weights of components that are `replaced` do not count.
    """
    for part, value in _index(directory).items():
        named = isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
        if named and not (directory / part).is_dir():
            return f"its {part}, which model_index.json names, is not in the directory"
    for file in sorted(directory.glob("*/*")):
        if file.is_symlink() and not file.exists() and file.parent.name not in replaced:
            return f"{file.parent.name}/{file.name} is a link to {file.readlink()}, which is not there"
    for file, _ in _weight_files(directory):
        if file.parent.name in replaced:
            continue
        if file.suffix == ".safetensors" and file.is_file() and (wanted := _whole_size(file)) > file.stat().st_size:
            return f"{file.parent.name}/{file.name} is cut short: {file.stat().st_size} of {wanted} bytes"
    return ""


def loaded_bytes(directory: Path, float_size: int, parts: Mapping[str, str], variant: str = "") -> int:
    """Return the bytes of the weights in memory, by the files' headers, when numbers of any floating type become `float_size` bytes each.

    Of each part one variant counts, and one kind of file; `parts` are taken from their own files. GGUF stays as packed as it is. One
    without such a header counts as large as it is.
    """
    wanted = variant or variant_of(directory)
    files = [Path(file) for file in parts.values()]
    for part, by_variant in _parts(directory).items():
        chosen = by_variant.get(wanted) or by_variant.get(None) or []
        if part not in parts:
            files += [file for file in chosen if file.suffix == ".safetensors"] or chosen
    return sum(_loaded_bytes(file, float_size) for file in files)


def _loaded_bytes(file: Path, float_size: int) -> int:
    try:
        weights = read_weights(file)
    except NoWeights:
        return file.stat().st_size if file.is_file() else 0
    if weights.of_llama_cpp:
        return sum(float_size * math.prod(tensor.shape) for tensor in weights.tensors.values())
    if weights.kind == "gguf":
        return file.stat().st_size
    total = 0
    for tensor in weights.tensors.values():
        size = float_size if tensor.dtype.startswith(("F", "BF")) else _INTEGER_SIZES.get(tensor.dtype, 8)
        total += size * math.prod(tensor.shape)
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
    return ((file, match) for file in sorted(directory.glob("*/*")) if (match := WEIGHT_FILE.fullmatch(file.name)))


def _index(directory: Path) -> dict[str, Any]:
    try:
        value = json.loads((directory / "model_index.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole_size(file: Path) -> int:
    """Bytes that a safetensors file has by its header; 0 when it has none of that kind (as a pointer to a file in Git LFS)."""
    with file.open("rb") as stream:
        lead = stream.read(8)
        size = int.from_bytes(lead, "little")
        if len(lead) < 8:
            return 8
        if size > MAX_HEADER:
            return 0
        header = stream.read(size)
    if len(header) < size:
        return 8 + size
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + size + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0


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
            return size <= MAX_HEADER and b'"F8_E' in stream.read(size)
    except OSError:
        return False
