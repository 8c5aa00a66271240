"""The fields of a generation request as a table, read from their declaration in `generation`; and names that are none of theirs."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct

from http_edge.jobs.field_names import Kind, Names
from http_edge.jobs.generation import Generation


class Field(Struct, frozen=True, kw_only=True):
    """Field, from its declaration."""

    name: str
    kind: Kind
    #: The declared type with its bounds, for schemas.
    type: Any
    low: float
    high: float
    max_chars: int
    aliases: tuple[str, ...]
    about: str
    examples: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, its own first."""
        return (self.name, *self.aliases)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a field of kind "choice" takes."""
        return get_args(get_args(self.type)[0])


def _declared(name: str, hint: Any) -> Field | None:
    for kind in (hint, *get_args(hint)):
        meta = next((one for one in get_args(kind)[1:] if isinstance(one, Meta)), None)
        if get_origin(kind) is Annotated and meta is not None and meta.extra:
            names: Names = meta.extra["names"]
            return Field(
                name=name,
                kind=names.kind,
                type=kind,
                low=meta.ge if meta.ge is not None else 0,
                high=meta.le if meta.le is not None else 0,
                max_chars=meta.max_length or 0,
                aliases=names.aliases,
                about=meta.description or "",
                examples=tuple(meta.examples or ()),
            )
    return None


#: Name -> field, in the order of their declaration.
FIELDS: dict[str, Field] = {
    name: field
    for name, hint in get_type_hints(Generation, include_extras=True).items()
    if (field := _declared(name, hint)) is not None
}

#: Every name of a field -> the field's own.
NAMES: dict[str, str] = {name: field.name for field in FIELDS.values() for name in field.names}

#: Numbers that only some pipelines take: arguments of the call, as those of `extra` are.
ARGUMENTS = ("true_cfg_scale", "flow_shift", "strength")

#: Inputs and settings of other services that change what is drawn, and that no model here takes.
UNSUPPORTED = frozenset(
    (
        # Frames between the first and the last.
        "keyframes",
        # Marks, and masks and control of other kinds.
        "video_noise_mask", "markup", "controlnet", "pose", "pose_image", "depth_image", "ip_adapter_image", "talk_objects",
        # Sound.
        "audio", "audio_path", "audio_file", "audio_url", "audio_reference", "source_audio", "input_audio", "generate_sound",
        "generate_audio",
        # Adapters.
        "lora_weights", "lora_id", "lora_configs",
        "embeddings", "textual_inversion",
        # How the steps are taken.
        "scheduler", "scheduler_name", "sampler", "sampler_name", "sampling_method", "sample_solver", "sigmas", "timesteps",
    )
)  # fmt: skip
