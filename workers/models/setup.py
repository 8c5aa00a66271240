"""From a model's table to what its engine makes it ready by; each feature's rule is its own module's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.models.model import ModelSetup
from workers.models.parts import check_parts
from workers.models.placement import AUTO
from workers.models.table import ModelTable


def setup_for(where: str, settings: ModelTable, index: Mapping[str, Any], directory: Path | None) -> ModelSetup:
    """What the engine is told of a model with this index in this directory. Raises `CatalogueError` for what it could not carry out."""
    return ModelSetup(
        parts=check_parts(where, settings.parts, index, directory),
        variant=settings.variant,
        speed=settings.speed,
        placement=settings.placement or AUTO,
    )
