"""What a file of a job tells of how it was drawn."""

from __future__ import annotations

from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.recipe import encode_recipe, in_words, recipe_of
from workers.engine.progress import Monitor
from workers.models.versions import installed


class Told(Struct, frozen=True):
    """A recipe as it is written into a file: as JSON, and in words."""

    text: str
    words: str


def told(card: ModelCard, spec: JobSpec, index: int, monitor: Monitor) -> Told | None:
    """What the file of output `index` tells; None where the job wants it to tell nothing."""
    if not spec.recipe:
        return None
    recipe = recipe_of(spec, card, index, used=monitor.used, versions=installed())
    return Told(encode_recipe(recipe), in_words(recipe))
