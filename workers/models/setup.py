"""From a model's table to what its engine makes it ready by; each feature's rule is its own module's."""

from __future__ import annotations

from workers.models.model import ModelSetup
from workers.models.placement import AUTO
from workers.models.table import ModelTable


def setup_for(settings: ModelTable) -> ModelSetup:
    """What the engine is told of a model. Raises `CatalogueError` for what it could not carry out."""
    return ModelSetup(
        parts=settings.parts,
        variant=settings.variant,
        speed=settings.speed,
        placement=settings.placement or AUTO,
    )
