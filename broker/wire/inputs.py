"""The media that a job may carry beside its image, by role: what each is, and how many of it there may be.

A role's name is a request's field, a key of `JobSpec.inputs`, and an entry in a model's card if its pipeline takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

#: Name of an input's file, the SHA-256 of its bytes in front.
INPUT_FILE = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{3,4}")

#: A picture in colour; a mask, white where it is to be drawn anew; a clip of frames.
InputKind = Literal["picture", "mask", "clip"]


class Role(Struct, frozen=True):
    """Role of an input: what it is for."""

    kind: InputKind
    #: In words, for errors and documents.
    noun: str
    #: At most so many.
    most: int = 1


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "last_image": Role("picture", "a last frame"),
        "reference_images": Role("picture", "further images", most=15),
        "mask_image": Role("mask", "a mask"),
        "control_image": Role("picture", "a control image"),
        "video": Role("clip", "a video"),
        "control_video": Role("clip", "a control video"),
        "pose_video": Role("clip", "a pose video"),
        "face_video": Role("clip", "a face video"),
        "mask_video": Role("clip", "a mask of every frame"),
        "background_video": Role("clip", "a background video"),
        "start_video": Role("clip", "a video to go on from"),
    }
)


class StartFrames(Struct, frozen=True):
    """Number of last frames of a `start_video` that a pipeline takes: `least`, or by so many `step`s more, up to `most`."""

    least: int
    step: int
    most: int
    #: Whether they are the first frames of what is drawn, too; else that begins after them.
    drawn: bool = True

    def of(self, there: int, frames: int) -> int:
        """So many of a clip of `there` frames, for one of `frames`, half of which are new at least; 0 where there are too few."""
        most = min(there, self.most, max(self.least, frames // 2) if self.drawn else self.most)
        return (most - self.least) // self.step * self.step + self.least if most >= self.least else 0


#: Inputs whose shape is drawn where a request names no size, the first that is there counting.
SHAPING = ("image", "start_video", "video", "control_video", "pose_video", "control_image")
