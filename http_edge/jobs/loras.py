"""The LoRAs of a request: how they are written, and which of a model's they are.

Written as a list of `{"name", "scale"}`, one such object, a name alone, or the JSON text of any of these, as other servers' clients send
them. A path is refused: a client chooses among the names that the operator gave.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from typing import Any

from msgspec import Struct

from broker.wire.jobspec import ModelCard
from broker.wire.loras import MAX_LORAS, MAX_NAME_CHARS, MAX_SCALE, LoraUse
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.base.json_text import BadJson, decode_json
from http_edge.body.fields import parsed_number

#: Names listed when an unknown one is refused.
_NAMED = 20

_NAMES, _SCALES = ("name", "lora_name"), ("scale", "lora_scale", "strength", "weight")
_PATHS = ("path", "lora_path", "local_path", "url")
#: Numbers by which vLLM's clients distinguish their adapters.
_IDLE = ("int_id", "lora_int_id")


class LoraWish(Struct, frozen=True, kw_only=True):
    """LoRA as a request names it."""

    name: str
    #: None: as in the model's table. By component, in place of it, where there is a dict.
    scale: float | None = None
    components: dict[str, float] = {}


def read_loras(label: str, value: Any, place: str) -> tuple[LoraWish, ...] | None:
    """The LoRAs in a field; None where it names none. Raises `EdgeError`."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("{", "[")):
            try:
                value = decode_json(text)
            except BadJson as error:
                raise invalid(label, value, f"cannot be read: {error}", place=place) from None
        else:
            value = text
    entries = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if len(entries) > MAX_LORAS:
        raise invalid(label, len(entries), f"are too many LoRAs, at most {MAX_LORAS}", place=place)
    wishes = tuple(_wish(label, entry, place) for entry in entries)
    twice = [name for name, count in Counter(wish.name for wish in wishes).items() if count > 1]
    if twice:
        raise invalid(label, twice[0], "is named twice; give it one scale", place=place)
    return wishes or None


def _wish(label: str, entry: Any, place: str) -> LoraWish:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict):
        raise invalid(label, entry, 'is neither a LoRA\'s name nor {"name": …, "scale": …}', place=place)
    own = next((entry[key] for key in _NAMES if entry.get(key) is not None), None)
    for key in _PATHS:  # clients of vLLM-Omni must send one
        if entry.get(key) not in (None, "", own):
            rule = "is a path; a LoRA is chosen by a name that the model lists (GET /v1/models)"
            raise invalid(f"{label}.{key}", entry[key], rule, place=place)
    known = (*_NAMES, *_SCALES, *_PATHS, *_IDLE)
    for key in entry:
        if key not in known:
            raise invalid(
                f"{label}.{str(key)[:64]}", entry[key], "is not known; a LoRA has name and scale", place=place
            )
    if not isinstance(own, str) or not 1 <= len(own) <= MAX_NAME_CHARS or "\0" in own:
        raise invalid(f"{label}.name", own, f"must be a text of 1 to {MAX_NAME_CHARS} characters", place=place)
    key, scale = next(((key, entry[key]) for key in _SCALES if entry.get(key) is not None), ("scale", None))
    if isinstance(scale, dict):
        if not 1 <= len(scale) <= MAX_LORAS or any(len(component) > 64 or not component for component in scale):
            raise invalid(f"{label}.{key}", scale, f"must have 1 to {MAX_LORAS} components", place=place)
        parts = {part: _number(f"{label}.{key}.{part}", one, place) for part, one in scale.items()}
        return LoraWish(name=own, components=parts)
    return LoraWish(name=own, scale=None if scale in (None, "") else _number(f"{label}.{key}", scale, place))


def _number(label: str, value: Any, place: str) -> float:
    number = value
    if isinstance(value, str):
        number = parsed_number(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise invalid(label, value, "is not a number", place=place)
    if not -MAX_SCALE <= number <= MAX_SCALE:
        raise invalid(label, value, f"must be {-MAX_SCALE:g} to {MAX_SCALE:g}", place=place)
    return float(number)


def chosen_loras(
    label: str, wishes: tuple[LoraWish, ...], strength: float | None, card: ModelCard
) -> tuple[LoraUse, ...]:
    """The LoRAs that a job is drawn with, with all scales; `strength` is that of those without one. Raises `EdgeError`."""
    uses = []
    for wish in wishes:
        if not card.loras:
            raise invalid(label, wish.name, f"is not supported: model {shown(card.name)} has no LoRAs")
        if wish.name not in card.loras:
            raise _unknown(label, wish.name, card)
        own = card.loras[wish.name]
        for part in wish.components:
            if part not in own.components:
                rule = f"is no component that LoRA {shown(wish.name)} changes; those are {', '.join(own.components)}"
                raise invalid(f"{label}.scale", part, rule)
        scale = wish.scale if wish.scale is not None else strength if strength is not None else own.scale
        use = LoraUse(name=wish.name, scale=scale, components=wish.components)
        if any(use.scale_of(part) for part in own.components or ("",)):  # a scale of 0 leaves it out, with its preset
            uses.append(use)
    return tuple(uses)


def preset_of_loras(label: str, uses: tuple[LoraUse, ...], card: ModelCard) -> str:
    """The preset that the LoRAs of a job bring; "" for none. Raises `EdgeError` for two."""
    presets = {card.loras[use.name].preset: use.name for use in uses if card.loras[use.name].preset}
    if len(presets) > 1:
        (one, first), (other, second) = list(presets.items())[:2]
        text = f"{label}: {shown(first)} is drawn with preset {shown(one)}, and {shown(second)} with {shown(other)}; name one in preset"
        raise EdgeError("invalid_value", text, param=label, value=second)
    return next(iter(presets), "")


def _unknown(label: str, name: str, card: ModelCard) -> EdgeError:
    close = difflib.get_close_matches(name, card.loras, 1)
    hint = f"did you mean {shown(close[0])}? " if close else ""
    more = ", …" if len(card.loras) > _NAMED else ""
    known = ", ".join([*card.loras][:_NAMED]) + more
    return invalid(label, name, f"is not a LoRA of model {shown(card.name)}; {hint}known: {known}")
