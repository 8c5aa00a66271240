"""Checks of a request's media: against the model, against one another, and how they are cut. Touches no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from broker.wire.inputs import ROLES, SHAPING
from broker.wire.jobspec import MediaKind, ModelCard
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.jobs.generation import Generation
from http_edge.media.input_store import MAX_IMAGE_PIXELS, Picture

#: Inputs by role.
Media = Mapping[str, tuple[Picture, ...]]

#: How far the shapes of a picture and of what is drawn from it may differ before what is cut off is worth a warning.
_ROUNDING = math.log(1.02)

#: Inputs that are not brought to the size that is drawn.
_OWN_SHAPE = ("reference_images", "face_video")

#: Clips that are not seen from their beginning and as long as what is drawn.
_OWN_LENGTH = ("start_video",)

#: An input -> those of which it needs one beside it.
_BESIDE = {
    "mask_image": ("image", "video"),
    "mask_video": ("video", "background_video"),
    "background_video": ("mask_video",),
}

#: Inputs for one and the same end.
_EITHER = (("start_video", "image"), ("mask_video", "mask_image"))

#: Pixels of all pictures together: an engine has them in memory at once.
_MOST_PIXELS = 2 * MAX_IMAGE_PIXELS


def check_roles(generation: Generation, card: ModelCard, output: MediaKind) -> None:
    """Refuse inputs that the model does not take, and a request without one that it needs."""
    roles = generation.roles()
    for role in roles:
        label, value = generation.label(role), getattr(generation, role)
        if not card.takes(role, output):
            raise invalid(label, value if isinstance(value, str) else value[0], _refusal(role, card))
        if role in ROLES and len(value) > ROLES[role].most:
            raise invalid(label, value, f"is too many: {len(value)} came, at most {ROLES[role].most} can be used")
    for role in card.needs:
        if role not in roles:
            raise _missing(generation, role, f"model {shown(card.name)} needs {_noun(role)}")
    for role in roles:
        able = [beside for beside in _BESIDE.get(role, ()) if card.takes(beside, output)] or _BESIDE.get(role, ())
        if able and not set(able) & set(roles):
            raise _missing(generation, able[0], f"{generation.label(role)} needs {_noun(able[0])} beside it")
    for one, other in _EITHER:
        if one in roles and other in roles:
            text = f"{generation.label(other)}: {generation.label(one)} is there already, and stands for the same; leave one out"
            raise EdgeError("invalid_value", text, param=generation.label(other))


def _refusal(role: str, card: ModelCard) -> str:
    rule = f"is refused: model {shown(card.name)} takes no {_noun(role).removeprefix('an ').removeprefix('a ')}"
    if role == "image":
        if card.takes_image:
            return f"{rule} for an image"
        others = [ROLES[other].noun for other in ("reference_images", "control_image") if other in card.takes_inputs]
        return f"{rule}; it takes {' and '.join(others)}" if others else rule
    if role == "video" and "start_video" in card.takes_inputs:
        return f"{rule}; it takes {_noun('start_video')}, start_video"
    return f"{rule} for an image" if role in card.takes_inputs else rule


def _missing(generation: Generation, role: str, rule: str) -> EdgeError:
    label = generation.label(role)
    return EdgeError("missing_field", f"{label}: {rule}", param=label)


def _noun(role: str) -> str:
    return ROLES[role].noun if role in ROLES else "an image"


def shaping(media: Media) -> Picture | None:
    """The input whose shape is drawn where the request names none."""
    return next((media[role][0] for role in SHAPING if media.get(role)), None)


def is_cut_little(picture: Picture, size: tuple[int, int]) -> bool:
    """Whether the picture has about this shape: what is cut to fit is no more than rounding."""
    return abs(math.log(picture.width / picture.height * size[1] / size[0])) <= _ROUNDING


def check_media(generation: Generation, media: Media) -> None:
    """Refuse inputs that do not go together, once they are kept."""
    pictures = [one for kept in media.values() for one in kept if one.clip is None]
    pixels = sum(one.width * one.height for one in pictures)
    if len(pictures) > 1 and pixels > _MOST_PIXELS:
        label = generation.label(next(iter(media)))
        raise EdgeError(
            "invalid_value", f"{label}: the images have {pixels} pixels; at most {_MOST_PIXELS}", param=label
        )
    for name in ("mask_image", "mask_video"):
        for mask in media.get(name, ()):
            _check_mask(generation, name, mask, media)


def _check_mask(generation: Generation, name: str, mask: Picture, media: Media) -> None:
    """Refuse a mask of another shape than what it is of."""
    role = next(role for role in _BESIDE[name] if role in media)
    beside = media[role][0]
    if is_cut_little(beside, (mask.width, mask.height)):
        return
    label = generation.label(name)
    shapes = f"{mask.width}x{mask.height} and {generation.label(role)} {beside.width}x{beside.height}"
    raise EdgeError("invalid_value", f"{label}: it is {shapes}; they must be of one shape", param=label)


def check_start(generation: Generation, card: ModelCard, media: Media, frames: int, fps: float) -> Iterator[str]:
    """Describe the part of a clip that is gone on from, in a sentence. Raises `EdgeError` for one that is too short."""
    seen = card.start_frames
    for one in media.get("start_video", ()):
        if seen is None or one.clip is None:
            continue
        label, there = generation.label("start_video"), one.clip.frames_at(fps)
        count = seen.of(there, frames)
        has = f"it has {there} frames at {fps:g} frames per second"
        if not count:
            raise EdgeError("invalid_value", f"{label}: {has}; {seen.least} are needed", param=label)
        if count < there:
            yield f"{label}: {has}, and the last {count} were used"


def media_warnings(generation: Generation, card: ModelCard, media: Media, size: tuple[int, int]) -> Iterator[str]:
    """Return warnings about changed inputs and parts that are cut off to draw this size, a sentence each."""
    for role, kept in media.items():
        label = generation.label(role)
        for one in kept:
            yield from (f"{label}: {note}" for note in one.notes)
            cut = card.cuts_image if role in ("image", "mask_image") else role not in _OWN_SHAPE
            if card.takes_size and cut and not is_cut_little(one, size):
                yield f"{label}: cut from {one.width}x{one.height} to the shape of {size[0]}x{size[1]}"


def frames_there(media: Media, fps: float) -> tuple[str, int] | None:
    """(role, frames) of the shortest clip seen at `fps`; None without one."""
    found = [
        (kept[0].clip.frames_at(fps), role)
        for role, kept in media.items()
        if kept[0].clip is not None and role not in _OWN_LENGTH
    ]
    return min(found)[::-1] if found else None
