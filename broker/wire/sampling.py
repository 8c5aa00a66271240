"""Sampling of a model: solver, noise levels, number of steps and guidance that belong together."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

#: Longest explicit schedule. A distilled model takes 1 to 16 steps.
MAX_SCHEDULE = 200
#: Presets of a model, and the longest name of one.
MAX_PRESETS = 256
MAX_PRESET_CHARS = 256

Spacing = Literal["", "leading", "linspace", "trailing"]


class Sampler(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sampler; as a *preset* it is chosen by name. What is absent stays as the model and the request have it."""

    #: Name of a solver, as `workers.models.samplers.KINDS` lists them; "" is the model's own.
    kind: Annotated[str, Meta(max_length=64)] = ""
    #: Shift of the noise levels of a flow-matching model: s -> shift s / (1 + (shift - 1) s).
    shift: Annotated[float, Meta(gt=0, le=100)] | None = None
    #: Noise levels of the steps from 1 down, before the shift; the last step ends at 0, which is not listed.
    sigmas: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(max_length=MAX_SCHEDULE)] = ()
    #: The timesteps themselves, falling; nothing shifts them.
    timesteps: Annotated[tuple[Annotated[float, Meta(ge=0, le=1000)], ...], Meta(max_length=MAX_SCHEDULE)] = ()
    #: How a scheduler of a noise-predicting model picks its timesteps; few-step models need "trailing".
    spacing: Spacing = ""
    steps: Annotated[int, Meta(ge=1, le=MAX_SCHEDULE)] | None = None
    guidance: Annotated[float, Meta(ge=0, le=100)] | None = None
    #: Of the second expert, in models of two; absent, it is `guidance`.
    guidance_2: Annotated[float, Meta(ge=0, le=100)] | None = None
    #: Share of the timesteps from which on the first of two experts works; the second takes what is below.
    boundary: Annotated[float, Meta(gt=0, le=1)] | None = None
    #: Whether a request may give no other steps, guidance or shift; a preset's default. An explicit schedule fixes steps and shift anyway.
    fixed: bool | None = None

    @property
    def own_steps(self) -> int | None:
        """The number of steps it takes unless a request has its own; None leaves the model's."""
        return len(self.sigmas) or len(self.timesteps) or self.steps

    @property
    def fixes_steps(self) -> bool:
        """Whether it can be run with that number of steps only."""
        return bool(self.sigmas or self.timesteps or (self.fixed and self.steps is not None))

    @property
    def fixes_shift(self) -> bool:
        """Whether another shift would be another sampler."""
        return bool(self.sigmas or self.timesteps or self.fixed)

    def decides(self) -> dict[str, tuple[float, bool]]:
        """Field of a request -> its value, and whether a request may have no other; what it leaves open is not in it."""
        found: dict[str, tuple[float, bool]] = {}
        if self.own_steps is not None:
            found["num_inference_steps"] = (self.own_steps, self.fixes_steps)
        if self.guidance is not None:
            found["guidance_scale"] = (self.guidance, bool(self.fixed))
        if (second := self.guidance if self.guidance_2 is None else self.guidance_2) is not None:
            found["guidance_scale_2"] = (second, bool(self.fixed))
        return found

    @property
    def changes_scheduler(self) -> bool:
        """Whether the model's own scheduler does not do."""
        explicit = self.sigmas or self.timesteps or self.spacing
        return bool(self.kind or explicit or self.shift is not None or self.boundary is not None)
