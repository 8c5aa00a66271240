"""The installed diffusers' source, found without importing the library."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def library_places() -> list[Path]:
    """Directories of the library's package; none where it is not installed."""
    spec = importlib.util.find_spec("diffusers")
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []
