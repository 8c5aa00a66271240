"""Recipe of an uploaded result: the request that draws it again, and the reasons why that would draw another picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from broker.runtime.recipe_file import NoRecipe, recipe_text
from broker.wire.inputs import ROLES
from broker.wire.jobspec import ModelCard
from broker.wire.messages import WorkerView
from broker.wire.recipe import MAX_RECIPE_BYTES, BadRecipe, Recipe, decode_recipe, sampler_in
from http_edge.base.errors import EdgeError, shown
from http_edge.jobs.generation import Generation
from http_edge.jobs.generation_reader import Policy, read_generation
from http_edge.jobs.models import unknown_model
from http_edge.jobs.specs import build_spec

#: Versions that two services may differ in and still draw the same.
_NO_MATTER = frozenset(["zoetrope"])

#: Stands for a picture or clip that the client is yet to add.
_TO_COME = "to come"


def read_recipe(label: str, path: Path) -> Recipe:
    """The recipe in a file, which stays as it is. Blocks. Raises `EdgeError`."""
    try:
        with open(path, "rb") as file:
            return decode_recipe(recipe_text(file, MAX_RECIPE_BYTES))
    except (NoRecipe, BadRecipe) as error:
        raise EdgeError("invalid_value", f"{label}: the file {error}", param=label, code="no_recipe") from None


def obstacles(recipe: Recipe, workers: Sequence[WorkerView], policy: Policy) -> Iterator[str]:
    """Reasons why the request of a recipe is refused here, or draws another picture; a sentence each. None: the same pixels come again.

    `policy` is that of the API that the request is for.
    """
    try:
        reading = read_generation(recipe.request, policy, place="recipe")
    except EdgeError as error:
        yield error.message
        return
    yield from reading.warnings
    generation = reading.generation
    serving = [(worker, card) for worker in workers for card in worker.models if card.name == generation.model]
    for role, files in recipe.inputs.items():
        count = "a file" if len(files) == 1 else f"{len(files)} files"
        yield f"{role}: it was drawn from {count}, which a result does not hold; add {role} to the request"
    if not serving:
        cards = {card.name: card for worker in workers for card in worker.models}
        yield unknown_model("model", generation.model or "", list(cards.values())).message
        return
    for _, card in serving[:1]:
        yield from _of_model(recipe, generation, card)
    yield from _of_versions(recipe.versions, [worker for worker, _ in serving])


def _of_model(recipe: Recipe, generation: Generation, card: ModelCard) -> Iterator[str]:
    lacking = [wish.name for wish in generation.loras if wish.name not in card.loras]
    for name in lacking:
        yield f"loras: {shown(name)} is not a LoRA of model {shown(card.name)}"
    if lacking:
        return
    held = {role: _TO_COME if role == "image" else (_TO_COME,) * len(files) for role, files in recipe.inputs.items()}
    known = {role: held[role] for role in held if role == "image" or role in ROLES}
    try:
        spec = build_spec(msgspec.structs.replace(generation, **known), card)
    except EdgeError as error:
        yield error.message
        return
    yield from spec.warnings
    if recipe.pipeline != card.pipeline:
        yield f"model: {shown(card.name)} was a {recipe.pipeline}, and is a {card.pipeline} here"
    if sampler_in(card, spec.preset) != recipe.sampler:
        yield f"model: {shown(card.name)} takes its steps in another way now (its sampler or preset has changed)"


def _of_versions(then: Mapping[str, str], workers: Sequence[WorkerView]) -> Iterator[str]:
    for name, version in then.items():
        now = sorted({worker.versions[name] for worker in workers if name in worker.versions})
        if name not in _NO_MATTER and now and now != [version]:
            yield f"versions: it was drawn with {name} {version}, and would be with {' or '.join(now)}"
