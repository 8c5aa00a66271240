"""Encoding of a model's clips: `video_file` in its table, checked without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from workers.models.sources import CatalogueError


class VideoFile(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The encoding of an MP4. Empty: H.264 without visible loss, which everything plays."""

    codec: Literal["h264", "hevc", "av1"] = "h264"
    #: Constant rate factor: the lower the better and the larger. None: the one without visible loss.
    crf: int | None = None
    pixel_format: Literal["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"] = "yuv420p"


class Codec(Struct, frozen=True):
    """An encoder of FFmpeg, and how it is run."""

    encoder: str
    #: The highest rate factor, and the one without visible loss.
    worst: int
    usual: int
    formats: tuple[str, ...]
    options: Mapping[str, str]


_EVERY = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")

#: The same frames must give the same bytes on any machine, so the number of threads is fixed in each: `options` or `Mp4Writer`. libx264's
#: macroblock tree reads memory that it has not written (docs/video-files.md has the measurements), so it is off; without it a picture of
#: the same quality takes a scale factor that is higher by three. Its preset: 81 frames of 832x480 take 0.8 s on two cores, at "medium"
#: three times as long.
CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "h264": Codec("libx264", 51, 21, _EVERY, {"preset": "veryfast", "x264-params": "mbtree=0"}),
        # With its usual coding units of 64, and in ten bits with those of 32, libx265 takes some decisions by memory that it has not
        # written: the same frames gave another file each time (docs/video-files.md).
        "hevc": Codec(
            "libx265",
            51,
            20,
            ("yuv420p", "yuv422p", "yuv444p"),
            {"preset": "fast", "x265-params": "pools=4:frame-threads=1:ctu=32:log-level=error"},
        ),
        "av1": Codec("libsvtav1", 63, 25, ("yuv420p", "yuv420p10le"), {"preset": "8", "svtav1-params": "lp=4"}),
    }
)


#: libx265 writes beyond its memory where a frame is narrower than that: at 48 pixels it ended the process.
NARROWEST_HEVC = 64


def check_video_file(where: str, file: VideoFile, makes: str, encoders: Collection[str] | None = None) -> VideoFile:
    """The encoding itself. Raises `CatalogueError` for one that cannot be had; `encoders`: those there are, by default PyAV's."""
    if file == VideoFile():
        return file
    codec = CODECS[file.codec]
    if makes != "video":
        raise CatalogueError(where, "video_file", "is for clips, and the model makes images; leave the table out")
    if file.crf is not None and not 0 <= file.crf <= codec.worst:
        raise CatalogueError(
            where, "video_file.crf", f"{file.crf} is not from 0 to {codec.worst}, as {file.codec} has it"
        )
    if file.pixel_format not in codec.formats:
        has = ", ".join(codec.formats)
        text = f"{file.pixel_format!r} is not to be had with {file.codec} here, which has {has}"
        raise CatalogueError(where, "video_file.pixel_format", text)
    if codec.encoder not in (import_module("av").codecs_available if encoders is None else encoders):
        cure = "pip install --force-reinstall av brings a build that has it, or choose another codec"
        text = f"{file.codec!r} needs {codec.encoder}, which the installed av lacks: {cure}"
        raise CatalogueError(where, "video_file.codec", text)
    return file


def summary(file: VideoFile) -> str:
    """Description in a result's record."""
    crf = CODECS[file.codec].usual if file.crf is None else file.crf
    return f"{file.codec} crf {crf} {file.pixel_format}"
