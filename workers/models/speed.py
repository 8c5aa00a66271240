"""What makes a model quicker or smaller: `speed` in its table."""

from __future__ import annotations

from msgspec import Struct, field


class Speed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Choices that may change pixels a little. Empty: as the model is."""

    #: Attention backend of diffusers.
    attention: str = ""
    #: Whether the repeated blocks are compiled.
    compile: bool = False
    #: Step cache.
    cache: str = ""
    #: torch dtype of the VAE.
    vae_dtype: str = ""
    #: Component -> how its weights are kept, as "fp8".
    quantize: dict[str, str] = field(default_factory=dict)
