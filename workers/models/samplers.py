"""How a model's steps are laid: `sampler` in its table."""

from __future__ import annotations

from msgspec import Struct


class Sampler(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The scheduler that takes the place of the model's own, and what it is called with. Empty: the model's own."""

    #: Name of the scheduler, as "euler".
    kind: str = ""
    shift: float | None = None
    #: Noise levels of the steps, falling from 1.
    sigmas: tuple[float, ...] = ()
    steps: int | None = None
    guidance: float | None = None
