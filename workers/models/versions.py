"""Versions of this service and of the libraries whose code has a part in what is drawn."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from functools import cache
from types import MappingProxyType

_NAMES = ("zoetrope", "torch", "diffusers", "transformers", "peft", "numpy")


@cache
def installed() -> MappingProxyType[str, str]:
    """Name -> version, of those that are installed."""
    found = {}
    for name in _NAMES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return MappingProxyType(found)
