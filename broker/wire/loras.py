"""LoRAs: low-rank weights beside a model's own, which a job requests by name. Files and their places are the worker's alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

#: LoRAs of one job, and of one model.
MAX_LORAS = 8
MAX_KNOWN = 256
MAX_NAME_CHARS = 128
MAX_TRIGGER_CHARS = 500
#: Of a scale, either side of 0.
MAX_SCALE = 10.0

#: Bytes of names in a message's head, which has room for little beside its other fields.
MAX_NAMES_BYTES = 512

LoraName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Scale = Annotated[float, Meta(ge=-MAX_SCALE, le=MAX_SCALE)]
Component = Annotated[str, Meta(min_length=1, max_length=64)]


class LoraUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One LoRA of a job."""

    name: LoraName
    scale: Scale = 1.0
    #: Component of the pipeline (as "transformer_2") -> its scale in place of `scale`.
    components: Annotated[dict[Component, Scale], Meta(max_length=MAX_LORAS)] = msgspec.field(default_factory=dict)

    def scale_of(self, component: str) -> float:
        """Factor of the weights of a component."""
        return self.components.get(component, self.scale)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {scale:g}" for name, scale in self.components.items())
        return f"{self.name} {self.scale:g}" + (f" ({parts})" if parts else "")


class LoraCard(Struct, frozen=True, kw_only=True):
    """Description of a LoRA for clients."""

    #: Scale of a job that gives none.
    scale: Scale = 1.0
    #: Words that the prompt must have for it to act; "" when none are known.
    trigger: Annotated[str, Meta(max_length=MAX_TRIGGER_CHARS)] = ""
    #: Components of the pipeline that it changes.
    components: tuple[Component, ...] = ()
    #: The preset that a job with it gets, where it names none.
    preset: Annotated[str, Meta(max_length=256)] = ""


class LoraMemory(Struct, frozen=True, kw_only=True):
    """Memory in which a worker keeps LoRAs that no job of the moment uses, MB."""

    #: Files as they were read, in the engine's host memory.
    host_mb: int = 4096
    #: Beside the weights of each model in memory.
    device_mb: int = 2048


#: Names of LoRAs in a message's head: a preference in the choice of a worker, so it may lack some.
LoraNames = Annotated[tuple[LoraName, ...], Meta(max_length=MAX_KNOWN)]


def short_list(names: Iterable[str]) -> tuple[str, ...]:
    """The first of these names, up to `MAX_NAMES_BYTES`."""
    names = tuple(names)
    sizes = accumulate(len(name.encode()) for name in names)
    return tuple(name for name, size in zip(names, sizes, strict=True) if size <= MAX_NAMES_BYTES)
