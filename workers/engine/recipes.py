"""Recipe of a job, as its files have it."""

from __future__ import annotations

from msgspec import Struct

from broker.runtime.content_credentials import DRAWN, DRAWN_INTO, Signer
from broker.wire.jobspec import JobSpec, ModelCard
from broker.wire.recipe import as_text, encode_recipe, recipe_of
from workers.engine.progress import Monitor
from workers.models.versions import installed

#: What is drawn anew of a picture or clip that was there before.
_MASKS = frozenset(["mask_image", "mask_video"])


class FileRecipe(Struct, frozen=True):
    """A recipe as it is written into a file, as JSON and as text, "" where the job has none; and what signs the file, as what."""

    text: str = ""
    parameters: str = ""
    signer: Signer | None = None
    source_type: str = DRAWN


def file_recipe(card: ModelCard, spec: JobSpec, index: int, monitor: Monitor) -> FileRecipe | None:
    """Recipe in the file of output `index`; None where it has none."""
    source_type = DRAWN if _MASKS.isdisjoint(spec.inputs) else DRAWN_INTO
    if not spec.recipe:
        return FileRecipe(signer=monitor.signer, source_type=source_type) if monitor.signer else None
    recipe = recipe_of(spec, card, index, used=monitor.used, versions=installed())
    return FileRecipe(encode_recipe(recipe), as_text(recipe), monitor.signer, source_type)
