"""The media of a job as arguments of a pipeline's call: read from the files that the edge spooled, brought to the size that is drawn."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from broker.runtime.clips import BadClip, facts_of, frames_at
from broker.runtime.pictures import normalised
from broker.wire.jobspec import JobSpec, takes_whole_image
from workers.engine.errors import InvalidInput
from workers.models.inputs import CONDITIONS, LISTS, REFERENCES, enlarges, parameters, start_frames

#: Pipelines that take a clip as a batch of one.
_BATCH_OF_CLIPS = ("CogVideoXFunControl",)

#: Pipelines whose mask is one of every frame.
_MASK_OF_FRAMES = ("WanVACE",)

#: Names of the number of frames that one window of a clip shares with the one before, and of those that it has.
_SHARED, _WINDOW = "overlap_history", "base_num_frames"

#: Wan-Animate puts its character into a clip instead of animating the picture.
_INTO_CLIP = {"mode": "replace"}


def input_arguments(
    pipe: Any, takes: Mapping[str, Any], spec: JobSpec, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Build the call's arguments from the job's inputs. Calls `check` between frames. Raises `InvalidInput` naming the role."""
    name = type(pipe).__name__
    named = parameters(name, takes)
    found: dict[str, Any] = {}
    whole = takes_whole_image(name)
    times = enlarges(name)
    size = None if whole else (spec.width // times, spec.height // times)
    pictures: list[Image.Image] = []
    if spec.image and "image" in named:
        pictures.append(_image(takes, spec, size))
        found[named["image"]] = pictures if named["image"] in LISTS else pictures[0]
    if paths := spec.inputs.get("reference_images", ()):
        references = [read_image(Path(path), None, "reference_images") for path in paths]
        parameter = named["reference_images"]
        found[parameter] = [*pictures, *references] if parameter == named.get("image") else references
    for role in ("last_image", "control_image"):
        for path in spec.inputs.get(role, ()):
            found[named[role]] = read_image(Path(path), (spec.width, spec.height), role)
    start = [read_start(Path(path), spec, name, check) for path in spec.inputs.get("start_video", ())]
    if start and named["start_video"] != CONDITIONS:
        found[named["start_video"]] = start[0]
        if _SHARED in takes:
            found |= _window(takes, spec, len(start[0]))
    elif start or CONDITIONS in found:
        first, last = pictures[0] if pictures else None, found[CONDITIONS] if "last_image" in spec.inputs else None
        found = {key: value for key, value in found.items() if key != named["image"]}
        found[CONDITIONS] = _placed(pipe, start[0] if start else first, last, spec.num_frames)
    found |= _clips(pipe, named, spec, check)
    for path in spec.inputs.get("mask_image", ()):
        mask = _read_mask(Path(path), pictures[0].size if whole and pictures else (spec.width, spec.height))
        found[named["mask_image"]] = [mask] * spec.num_frames if name.startswith(_MASK_OF_FRAMES) else mask
    return found


def _clips(pipe: Any, named: Mapping[str, str], spec: JobSpec, check: Callable[[], None]) -> dict[str, Any]:
    """The clips that are as long as what is drawn."""
    name = type(pipe).__name__
    found: dict[str, Any] = {}
    for role in ("video", "control_video", "pose_video", "face_video", "mask_video", "background_video"):
        for path in spec.inputs.get(role, ()):
            side = pipe.transformer.config.motion_encoder_size if role == "face_video" else 0
            size = (side, side) if side else (spec.width, spec.height)
            frames = read_clip(Path(path), spec, role, check, size)
            if named[role] == REFERENCES:
                found[REFERENCES] = vars(sys.modules[type(pipe).__module__])["LTX2ReferenceCondition"](frames=frames)
            else:
                found[named[role]] = [frames] if name.startswith(_BATCH_OF_CLIPS) else frames
    return {**found, **_INTO_CLIP} if "background_video" in spec.inputs else found


def _window(takes: Mapping[str, Any], spec: JobSpec, shared: int) -> dict[str, int]:
    """The windows in which a clip is drawn: all of the clip's start is in the first, and none is longer than the clip."""
    longest = spec.extra.get(_WINDOW, takes[_WINDOW].default)
    return {_SHARED: shared, _WINDOW: min(int(longest), spec.num_frames)}


def _placed(
    pipe: Any, first: Image.Image | list[Image.Image] | None, last: Image.Image | None, frames: int
) -> list[Any]:
    """The pictures, or a clip for the first, with their places, in the form that the pipeline's own module has for it."""
    own = vars(sys.modules[type(pipe).__module__])
    placed: list[Any] = []
    for picture, at_end in ((first, False), (last, True)):
        if picture is None:
            continue
        if "LTX2VideoCondition" in own:
            placed.append(own["LTX2VideoCondition"](frames=picture, index=-1 if at_end else 0))
        else:
            kind = "video" if isinstance(picture, list) else "image"
            placed.append(own["LTXVideoCondition"](**{kind: picture}, frame_index=frames - 1 if at_end else 0))
    return placed


def read_image(path: Path, size: tuple[int, int] | None, role: str = "image") -> Image.Image:
    """The picture in `path`, upright, RGB, in sRGB; scaled and cropped around its centre to `size` (width, height) when one is given."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that is suspiciously large; its pixels would fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                upright, _ = normalised(opened)
    except FileNotFoundError:
        raise InvalidInput(f"{role}: {path.name!r} does not exist") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"{role}: {path.name!r} cannot be read: {error}") from error
    return upright if size is None else fitted(upright, size)


def read_clip(
    path: Path, spec: JobSpec, role: str, check: Callable[[], None], size: tuple[int, int]
) -> Sequence[Image.Image]:
    """Read as many frames of the clip as the job draws, at its rate, each scaled and cropped around its centre to `size`."""
    frames: list[Image.Image] = []
    with _reading(path, role) as file:
        for picture in frames_at(file, spec.fps, spec.num_frames):
            check()
            frames.append(_fitted_mask(picture, size) if role == "mask_video" else fitted(picture, size))
    if len(frames) < spec.num_frames:
        raise InvalidInput(
            f"{role}: {path.name!r} has {len(frames)} frames at {spec.fps:g} frames per second, and the job draws {spec.num_frames}"
        )
    return frames


def read_start(path: Path, spec: JobSpec, pipeline: str, check: Callable[[], None]) -> list[Image.Image]:
    """As many of the clip's last frames as the class takes, at the job's rate, scaled and cropped to the size that is drawn."""
    role, seen = "start_video", start_frames(pipeline)
    assert seen is not None  # its parameter was found by that
    frames: list[Image.Image] = []
    with _reading(path, role) as file:
        there = facts_of(file).frames_at(spec.fps)
        count = seen.of(there, spec.num_frames)
        file.seek(0)
        for picture in frames_at(file, spec.fps, count, skip=there - count):
            check()
            frames.append(fitted(picture, (spec.width, spec.height)))
    if not count or len(frames) < count:
        rate = f"at {spec.fps:g} frames per second"
        raise InvalidInput(f"{role}: {path.name!r} has {there} frames {rate}, and {max(count, seen.least)} are needed")
    return frames


@contextmanager
def _reading(path: Path, role: str) -> Iterator[BinaryIO]:
    """The open file of a clip. Inside, what cannot be read becomes `InvalidInput`."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise InvalidInput(f"{role}: {path.name!r} does not exist") from None
    except (BadClip, OSError, ValueError) as error:
        raise InvalidInput(f"{role}: {path.name!r} {error}") from error


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled and cropped around its centre."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def _fitted_mask(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The same without shades: white where it is to be drawn anew, black elsewhere. Codecs of clips blur both."""
    grey = ImageOps.fit(picture.convert("L"), size, Image.Resampling.NEAREST)
    return grey.point(lambda value: 255 if value >= 128 else 0)


def _image(takes: Mapping[str, Any], spec: JobSpec, size: tuple[int, int] | None) -> Image.Image:
    if size is not None:
        return read_image(Path(spec.image), size)
    image = read_image(Path(spec.image), None)
    if "_auto_resize" in takes and image.width * image.height > spec.width * spec.height:
        # The pipeline would read it in full, at the cost of a picture of that size.
        scale = math.sqrt(spec.width * spec.height / (image.width * image.height))
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    return image


def _read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """White where it is to be drawn anew; cut as the image beside it is, without shades at its edges."""
    mask = read_image(path, None, "mask_image").convert("L")
    return ImageOps.fit(mask, size, Image.Resampling.NEAREST)
