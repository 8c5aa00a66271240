"""Fitting a request of the OpenAI family to a model here: which model, which size, how many frames. Nothing here draws or waits.

OpenAI's SDKs name models that no self-hosted service has, and a handful of sizes and lengths. Their users must get a picture or a video:

- A model name that is none here is served by the only model that can make what is requested (setting `unknown_model`), with a warning.
- A `size` that the model cannot draw becomes one of that shape near the model's usual number of pixels, at which it draws best, with a
  warning. Explicit `width` and `height` are errors.
- `seconds` beyond what the model can make becomes the longest clip it can, with a warning. An explicit `num_frames` is an error.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from broker.wire.jobspec import MediaKind, ModelCard
from http_edge.api.openai.fields import GenerationRequest
from http_edge.base.errors import invalid, shown
from http_edge.body.aspect import is_allowed, nearest_size
from http_edge.jobs.generation import Generation
from http_edge.jobs.models import suited, unknown_model
from http_edge.jobs.service import JobService


async def choose_card(
    calls: JobService, name: str, output: MediaKind, *, inputs: Collection[str]
) -> tuple[ModelCard, list[str]]:
    """The model to draw with, from inputs of these roles, and warnings for the client about it. Raises `EdgeError`."""
    catalogue, settings = calls.catalogue, calls.settings
    if name and name not in catalogue.aliases:
        cards = await catalogue.cards()
        if not any(card.name == name for card in cards):
            cards = await catalogue.cards(max_age_s=0.0)
        if cards and not any(card.name == name for card in cards):
            only = _only(cards, output, inputs) if settings.unknown_model == "serve" else None
            if only is None:
                raise unknown_model("model", name, cards)
            return only, [f"model: {shown(name)} is not a model of this service; {shown(only.name)} was used"]
    card = await catalogue.choose(name or None, default=settings.default_model, output=output, inputs=inputs)
    if not card.makes(output):
        raise invalid("model", name or card.name, f"makes {card.output}s, not {output}s")
    return card, []


def _only(cards: list[ModelCard], output: MediaKind, inputs: Collection[str]) -> ModelCard | None:
    """The model that alone can make this: of those made for it, else of those that also can."""
    able = suited(cards, output, inputs) or [card for card in cards if card.makes(output)]
    able = [card for card in able if card.output == output] or able
    return able[0] if len(able) == 1 else None


def fit(parsed: GenerationRequest, card: ModelCard, output: MediaKind) -> tuple[Generation, list[str]]:
    """Fit a request to the model's card; return it with the warnings for its client."""
    generation, warnings = parsed.generation, []
    if generation.size is not None:
        size = generation.size if is_allowed(*generation.size, card.limits) else nearest_size(generation.size, card)
        if size != generation.size:
            requested = "{}x{}".format(*generation.size)
            warnings.append(
                f"{generation.label('size')}: model {shown(card.name)} cannot draw {requested}; {size[0]}x{size[1]} was used"
            )
        generation = msgspec.structs.replace(generation, size=size)
    if generation.seconds is not None and generation.num_frames is None and output == "video":
        fps = generation.fps or card.defaults.fps
        frames, longest = card.limits.closest_frames(generation.seconds * fps)
        if longest:
            most = f"at most {frames} frames, {frames / fps:.4g} s at {fps:g} frames a second"
            warnings.append(f"{generation.label('seconds')}: model {shown(card.name)} makes {most}")
        generation = msgspec.structs.replace(generation, num_frames=frames)
        generation = msgspec.structs.replace(generation, seconds=None)
    return msgspec.structs.replace(generation, model=card.name), warnings
