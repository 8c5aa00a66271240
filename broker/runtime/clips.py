"""A clip of a client, read within limits: what it is, and its frames at another rate. Needs PyAV; imports no torch.

As a program it describes the clip on stdin (`http_edge.media.clip_probe`).

Only two demuxers and a few decoders are used, whatever a file's header claims: some of FFmpeg's formats are texts that name other files.
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.error
import msgspec
from av.video.reformatter import Colorspace
from msgspec import Struct
from PIL import Image

#: Exit status of the program for a clip that is not read; stdout has the reason.
REFUSED = 3

#: Of one frame, as stored.
MAX_FRAME_PIXELS = 4096 * 2304
MAX_FRAMES = 10_000

FORMATS = "MP4, QuickTime, WebM or Matroska"
_CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mjpeg", "prores")

_EBML = b"\x1aE\xdf\xa3"
_FTYP = slice(4, 8)

#: Containers round the times of frames, some to whole milliseconds.
_ROUNDING_S = 1.5e-3

#: What is not tagged is BT.709 from this height on, and BT.601 below, as players have it.
_HD_LINES = 720
_UNTAGGED = 2


class BadClip(ValueError):
    """A clip that is not read; the text is the reason, a sentence without its subject."""


class ClipFacts(Struct, frozen=True):
    """Facts of a file's only video stream; sides are those that are seen."""

    #: (width, height)
    shape: tuple[int, int]
    frames: int
    #: Frames a second, the mean over their times.
    rate: float

    def frames_at(self, fps: float) -> int:
        """Number of pictures that `frames_at` gives of it."""
        return int(((self.frames - 1) / self.rate + _ROUNDING_S) * fps) + 1


def suffix_of(head: bytes) -> str:
    """Suffix to keep a file with that begins so; "" for one that is no clip."""
    if head[_FTYP] == b"ftyp":
        return ".mp4"
    return ".mkv" if head.startswith(_EBML) else ""


def facts_of(file: BinaryIO) -> ClipFacts:
    """Facts of this clip; its frames are counted, and the first is decoded. Raises `BadClip`."""
    try:
        with _opened(file) as container:
            stream = _stream(container)
            width, height = stream.codec_context.width, stream.codec_context.height
            if not 0 < width * height <= MAX_FRAME_PIXELS:
                raise BadClip(f"has frames of {width}x{height} pixels; at most {MAX_FRAME_PIXELS} pixels")
            first = next(container.decode(stream), None)
            if first is None:
                raise BadClip("holds no frame")
            container.seek(0)
            packets = list(_times(container, stream))
            if stream.frames > len(packets):
                raise BadClip(f"is cut short: it has {len(packets)} of its {stream.frames} frames")
            times = sorted(time for time in packets if time is not None)
            if not times:
                raise BadClip("holds no frame")
            turned = first.rotation % 180 != 0
    except (av.error.FFmpegError, ValueError, LookupError, ArithmeticError) as error:
        raise error if isinstance(error, BadClip) else BadClip(f"is a damaged video: {_reason(error)}") from None
    span = times[-1] - times[0]
    rate = (len(times) - 1) / span if span > 0 else float(stream.average_rate or 1)
    return ClipFacts((height, width) if turned else (width, height), len(times), rate)


def frames_at(file: BinaryIO, fps: float, count: int, skip: int = 0) -> Iterator[Image.Image]:
    """`count` pictures seen at `fps` after the first `skip`, upright RGB: at 0, 1/fps, 2/fps …, each the last that has begun by then.

    Fewer when the clip ends before. Raises `BadClip` for what cannot be decoded.
    """
    #: Of those passed over and given.
    given = 0
    count += skip
    shown: Any = None
    start = 0.0
    try:
        with _opened(file) as container:
            for frame in container.decode(_stream(container)):
                if frame.time is None:
                    raise BadClip("has frames without a time")
                start = start if shown is not None else frame.time
                while given < count and shown is not None and given / fps < frame.time - start - _ROUNDING_S:
                    if given >= skip:
                        yield _picture(shown)
                    given += 1
                if given == count:
                    return
                shown = frame
            if shown is not None and given < count and given / fps <= shown.time - start + _ROUNDING_S:
                yield _picture(shown)
    except av.error.FFmpegError as error:
        raise BadClip(f"is a damaged video: {_reason(error)}") from None


def _opened(file: BinaryIO) -> Any:
    suffix = suffix_of(file.read(16))
    file.seek(0)
    if not suffix:
        raise BadClip(f"is not a video: {FORMATS} is expected")
    return av.open(file, format="mov" if suffix == ".mp4" else "matroska")


def _stream(container: Any) -> Any:
    streams = container.streams.video
    if not streams:
        raise BadClip("holds no video")
    codec = streams[0].codec_context.name
    if codec.removeprefix("lib").split("-")[0] not in (*_CODECS, "dav1d", "vpx"):
        raise BadClip(f"is encoded as {codec}; {', '.join(_CODECS)} are read")
    streams[0].thread_count = 1
    return streams[0]


def _times(container: Any, stream: Any) -> Iterator[float | None]:
    """Presentation time of each frame, seconds, in the order stored; None for one that is not shown."""
    for number, packet in enumerate(container.demux(stream)):
        if number > MAX_FRAMES:
            raise BadClip(f"has more than {MAX_FRAMES} frames")
        if packet.is_corrupt:
            raise BadClip(f"is cut short at its frame {number + 1}")
        if packet.size:
            if packet.pts is None:
                raise BadClip("has frames without a time")
            yield None if packet.is_discard else float(packet.pts * packet.time_base)


def _picture(frame: Any) -> Image.Image:
    space = frame.colorspace
    if int(space) == _UNTAGGED:
        space = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    pixels = frame.to_ndarray(format="rgb24", src_colorspace=space)
    picture = Image.fromarray(pixels)
    turn = frame.rotation % 360
    return picture.rotate(turn, expand=True) if turn else picture


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", "") or str(error) or type(error).__name__)[:120]


def main() -> int:
    """Write what the clip on stdin is to stdout, as JSON, within so many bytes of memory and seconds of processor time."""
    memory, seconds = (int(text) for text in sys.argv[1:3])
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))
    try:
        facts = facts_of(io.BytesIO(sys.stdin.buffer.read()))
    except BadClip as error:
        sys.stdout.write(str(error))
        return REFUSED
    sys.stdout.write(msgspec.json.encode(facts).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
