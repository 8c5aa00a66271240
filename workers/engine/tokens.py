"""Prompts that are longer than what the text encoders read: the rest has no effect, which the client is warned of."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any

from broker.runtime.log_actions import Action
from broker.wire.jobspec import JobSpec, ModelCard

logger = logging.getLogger(__name__)

#: Lengths that pipelines have in their code, by the start of their names; where there are two encoders, that of the longer.
_FIXED = {"Latte": 120, "Kandinsky3": 128, "HunyuanDiT": 256, "IF": 77}

#: Tokenizers without a length of their own have a number as large as this, or larger.
_NO_LENGTH = 1 << 20

#: Tokens, at most, that tokenizers put before and after a text.
_MARKS = 8

_PART = re.compile(r"(.*_)?tokenizer(_\d)?")


def cut_prompts(pipe: Any, card: ModelCard, spec: JobSpec, arguments: dict[str, Any]) -> tuple[str, ...]:
    """A sentence for each prompt among the call's arguments that no text encoder of the pipeline reads to its end. Raises nothing."""
    try:
        return tuple(_cut(pipe, card, spec, arguments))
    except Exception:  # counting is a service to the client, and whatever a tokenizer raises no reason to fail a job
        logger.warning("a prompt's tokens were not counted", exc_info=True, extra={"action": Action.TOKENS_NOT_COUNTED})
        return ()


def _cut(pipe: Any, card: ModelCard, spec: JobSpec, arguments: dict[str, Any]) -> Iterator[str]:
    readings: dict[str, list[tuple[int, int | None]]] = {}
    for name, suffix, tokenizer, encoder in _readers(pipe):
        limit = _limit(pipe, name, tokenizer, encoder, arguments)
        for field in ("prompt", "negative_prompt"):
            # What has no prompt of its own reads the first.
            field = next((key for key in (field + suffix, field) if arguments.get(key)), "")
            text = arguments.get(field)
            if isinstance(text, str) and not (field == "negative_prompt" and _is_usual(card, spec, text)):
                # The device waits for the next job meanwhile: what cannot be too long is not counted.
                count = 0 if _is_short(text, limit) else _count(tokenizer, text)
                readings.setdefault(field, []).append((count, limit))
    for field, counts in readings.items():
        limits = [limit for _, limit in counts if limit is not None]
        if len(limits) == len(counts) and all(limit is not None and count > limit for count, limit in counts):
            limit = max(limits)
            count = next(count for count, of in counts if of == limit)
            yield f"{field}: of its {count} tokens this model reads {limit}; the rest was not used"


def _is_usual(card: ModelCard, spec: JobSpec, text: str) -> bool:
    """Whether a negative prompt is not the client's."""
    return text != spec.negative_prompt or text == card.defaults.negative_prompt


def _readers(pipe: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(name, its number as "_2", the tokenizer, its text encoder) of all that read a prompt, which an encoder that is None does not."""
    parts = pipe.components
    for name, part in parts.items():
        match = _PART.fullmatch(name)
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if match and part is not None and encoder is not None:
            # A processor of text and pictures has its tokenizer within.
            yield name, match[2] or "", getattr(part, "tokenizer", part), encoder


def _limit(pipe: Any, name: str, tokenizer: Any, encoder: Any, arguments: dict[str, Any]) -> int | None:
    """Tokens that are read; None when that is not known."""
    own = _length(getattr(tokenizer, "model_max_length", None))
    if type(encoder).__name__.startswith("CLIP"):
        positions = _length(getattr(encoder.config, "max_position_embeddings", None))
        return min((length for length in (own, positions) if length), default=None)
    key = "max_sequence_length"
    defaults = (
        inspect.signature(getattr(type(pipe), method)).parameters.get(key)
        for method in ("__call__", "encode_prompt")
        if hasattr(type(pipe), method)
    )
    candidates = (
        arguments.get(key),
        *(parameter.default for parameter in defaults if parameter is not None),
        getattr(pipe, f"{name}_max_length", None),
        next((length for start, length in _FIXED.items() if type(pipe).__name__.startswith(start)), None),
        own,
    )
    return next((length for value in candidates if (length := _length(value))), None)


def _is_short(text: str, limit: int | None) -> bool:
    """Whether a text cannot have more tokens than that: none is of less than a letter, and other letters may be taken apart."""
    return limit is not None and text.isascii() and len(text) + _MARKS <= limit


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value < _NO_LENGTH else None


def _count(tokenizer: Any, text: str) -> int:
    """Tokens of a text, with those that mark its ends; `verbose`: the library would log that there are many."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
