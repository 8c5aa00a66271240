"""Names of a request's field beside its own, and how its value is read."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Kind = Literal["text", "choice", "flag", "integer", "number", "size", "aspect", "arguments", "media", "loras"]


class Names(Struct, frozen=True):
    """Further names of a field, and how it is read."""

    aliases: tuple[str, ...]
    kind: Kind


def read_as(kind: Kind, *aliases: str) -> dict[str, Any]:
    """Build `Meta.extra` of a field of this kind and these further names."""
    return {"names": Names(aliases, kind)}
