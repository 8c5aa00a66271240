"""Packages that libraries import wherever they are installed, and that few models need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from broker.wire.jobspec import ModelCard
from workers.models.model import ModelSetup
from workers.models.quantise import PACKAGES
from workers.models.sources import CatalogueError, config, find

#: A second of an engine's start and some 100 MB of it.
_QUANTISERS = ("bitsandbytes", "torchao")


def left_out(models: Iterable[ModelCard], setups: Mapping[str, ModelSetup]) -> tuple[str, ...]:
    """Return the packages that none of these models is quantised or stored with: their engine need not import them."""
    needed = {PACKAGES.get(method, "") for setup in setups.values() for method in setup.speed.quantize.values()}
    for card in models:
        configs = setups[card.name].config if card.name in setups else ""
        directory = Path(configs) if configs else find(card.source)
        for part in directory.iterdir() if directory is not None else ():
            stored = None
            with suppress(CatalogueError):  # a damaged config is reported when the model is loaded
                stored = config(directory, part.name).get("quantization_config")
            method = str(stored.get("quant_method", "")) if isinstance(stored, dict) else ""
            needed.update(package for package in _QUANTISERS if method.startswith(package))
    return tuple(package for package in _QUANTISERS if package not in needed)
