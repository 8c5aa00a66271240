"""Weights in eight or four bits: `speed.quantize` of a model's table, as `{ transformer = "fp8", text_encoder = "int8" }`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from workers.models.parts import Parts, with_weights
from workers.models.sources import CatalogueError, config, dotted, shown
from workers.models.weight_files import read_weights

QuantizeMethod = Literal["fp8", "fp8_dynamic", "int8", "nf4", "layerwise_fp8"]

#: The package that a method needs, also the name of its module.
PACKAGES: Mapping[QuantizeMethod, str] = {
    "fp8": "torchao",
    "fp8_dynamic": "torchao",
    "int8": "torchao",
    "nf4": "bitsandbytes",
}

#: Methods that compute in fewer bits, too -> the least compute capability of a GPU that does.
_COMPUTES: Mapping[QuantizeMethod, tuple[int, int]] = {"fp8_dynamic": (8, 9)}

#: What has linear layers in repeated blocks.
COMPONENTS = re.compile(r"(transformer|unet|text_encoder|image_encoder)(_\d+)?")


def check_quantize(
    where: str,
    wanted: Mapping[str, QuantizeMethod],
    index: Mapping[str, Any],
    directory: Path | None,
    parts: Parts,
) -> None:
    """Raise `CatalogueError` for a component that cannot be quantised so, or a package that is not there."""
    for name, method in wanted.items():
        if directory is not None and name not in (there := with_weights(index, directory)):
            known = ", ".join(sorted(filter(COMPONENTS.fullmatch, there)))
            why = f"is for a component that the model has not; those that can be quantised are {known or 'none'}"
        elif not COMPONENTS.fullmatch(name):
            why = "is for transformers, UNets and encoders of text and images alone; leave the key out"
        elif "quantization_config" in config(directory, name):
            why = f"comes too late: the {name} in {directory} is quantised as it is stored, and stays so; leave the key out"
        elif name in parts and _stays_as_stored(Path(parts[name])):
            why = f"comes too late: {parts[name]} is quantised as it is stored, and stays so; leave the key out"
        elif (package := PACKAGES.get(method, "")) and importlib.util.find_spec(package) is None:
            why = f"needs the package {package}, which is not installed: pip install {package}"
        else:
            continue
        raise CatalogueError(where, dotted("speed", "quantize", name), f"{shown(method)} {why}")


def _stays_as_stored(file: Path) -> bool:
    """Whether weights keep the few bits they have in the file: a GGUF file's, but for text encoders."""
    read = read_weights(file)
    return read.kind == "gguf" and not read.of_llama_cpp


def unfit_device(method: QuantizeMethod, device: str, capability: tuple[int, int]) -> str:
    """Reason why this device does not compute with weights that are kept so; "" when it does. `capability` is (0, 0) for a CPU."""
    least = _COMPUTES.get(method, (0, 0))
    if capability >= least:
        return ""
    own = f"has {'.'.join(map(str, capability))}" if device == "cuda" else "is none"
    return (
        f'"{method}" computes in float8, for which it needs a GPU of compute capability {".".join(map(str, least))} or later, '
        f'and this {own}; "fp8" keeps the weights so and computes in the engine\'s dtype'
    )
