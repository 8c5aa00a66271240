"""LoRAs of a model: `loras` and `lora_dir` in its table."""

from __future__ import annotations

from msgspec import Struct


class Lora(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One file of low-rank weights. In a table, a string stands for `{file = STRING}`."""

    file: str
    scale: float = 1.0
    #: Words that the prompt must have for it to act.
    trigger: str = ""
    #: Whether jobs that name no LoRA draw with it.
    preset: bool = False
