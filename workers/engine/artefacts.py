"""Files of a job: MP4 (PyAV) and PNG (Pillow), whole or not there at all.

Every file is written under a temporary name, closed, signed where results are, fsynced, hashed and renamed; then its directory is
fsynced. A name that exists is a file that is complete, signed and on disk.

Colour: frames come as full-range sRGB; players of HD video assume BT.709 at limited range. Tagging without converting shifts
colours by up to 32/255, so frames are converted with the BT.709 matrix and the stream is tagged to match.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.container
import av.error
import msgspec
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from broker.runtime.content_credentials import Signer, SigningError
from broker.runtime.recipe_file import KEY, MP4_PARAMETERS, PNG_PARAMETERS
from broker.wire.jobspec import Artefact
from workers.engine.errors import InvalidInput, WriteError
from workers.engine.priority import leave_real_time
from workers.engine.recipes import FileRecipe
from workers.engine.soundtrack import Sound, Soundtrack
from workers.models.video_file import CODECS, VideoFile

#: Frames or an image: height x width x 3 (RGB), or 4 (RGBA) of an image, uint8.
Pixels = npt.NDArray[np.uint8]

#: What is encoded depends on the number of threads, which therefore does not depend on the machine.
_ENCODER_THREADS = 4

_USUAL = VideoFile()

#: SVT-AV1 writes its settings to stderr with every clip, unless it is set to write errors alone.
os.environ.setdefault("SVT_LOG", "1")

#: Stands in a record until the file is closed and `publish` has read it.
_NO_HASH = "0" * 64

#: Rates of broadcast video that are written in decimals but mean n * 1000/1001.
_NTSC_BASES = (24, 30, 48, 60, 120)


def exact_fps(fps: float) -> Fraction:
    """The rate that `fps` stands for: 16.0 -> 16, 23.976 -> 24000/1001, 12.5 -> 25/2. Raises `InvalidInput` for one below 1/1000."""
    for base in _NTSC_BASES:
        if abs(fps - base * 1000 / 1001) < 0.005:
            return Fraction(base * 1000, 1001)
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise InvalidInput(f"fps: {fps} is too low; a video has at least one frame in 1000 seconds")
    return rate


def artefact_name(stem: str, suffix: str, index: int) -> str:
    """video.mp4, then video-2.mp4 for the second output (`index` 1)."""
    return f"{stem}.{suffix}" if index == 0 else f"{stem}-{index + 1}.{suffix}"


class Mp4Writer:
    """A video in an MP4 file, written frame by frame; the first frame sets the size. Sound beside it is as long as the frames.

    Use as a context manager and call `finish` at the end: leaving without it removes what was written. Odd sizes, which not
    every pixel format can hold, gain a row or column at the edge. `embedded`: the recipe in the file, and what signs it.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        fps: float,
        sound: Sound | None = None,
        file: VideoFile = _USUAL,
        embedded: FileRecipe | None = None,
    ) -> None:
        self._file = file
        self._embedded = embedded
        self._rate = exact_fps(fps)
        self._sound = sound
        self._soundtrack: Soundtrack | None = None
        self._path = directory / name
        self._temporary = directory / f".{name}.part"
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        self._size = (0, 0, 3)
        self._frames = 0

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is not None:
            # Closing writes an index for what is there; a full disk may refuse it, and it does not matter any more.
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                self._container.close()
            self._container = None
        self._temporary.unlink(missing_ok=True)

    def write(self, frames: Pixels) -> None:
        """Append frames: number x height x width x 3. Raises `WriteError`."""
        with _write_errors(self._path.name):
            for frame in frames:
                if self._container is None:
                    self._open(frame.shape[0], frame.shape[1])
                if frame.shape != self._size or frame.dtype != np.uint8:
                    raise WriteError(
                        f"frame {self._frames} is {frame.dtype} {frame.shape}, expected uint8 {self._size}"
                    )
                self._encode(frame)

    def finish(self) -> Artefact:
        """Close the file, put it on disk and give its record. Raises `WriteError`."""
        if self._container is None:
            raise WriteError(f"{self._path.name} has no frames")
        with _write_errors(self._path.name):
            self._mux(self._stream.encode(None))
            if self._soundtrack is not None:
                self._mux(self._soundtrack.rest())
            container, self._container = self._container, None
            container.close()
            record = _header(self._temporary, self._path.name)
        return publish(self._temporary, self._path, record, self._embedded)

    def _open(self, height: int, width: int) -> None:
        self._size = (height, width, 3)
        # faststart puts the index in front, so that a browser can play before it has the whole file. Names of metadata of one's own
        # need the other flag.
        embedded = self._embedded if self._embedded is not None and self._embedded.text else None
        flags = "+faststart" if embedded is None else "+faststart+use_metadata_tags"
        self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": flags})
        if embedded is not None:
            self._container.metadata.update({KEY: embedded.text, MP4_PARAMETERS: embedded.parameters})
        codec, crf = CODECS[self._file.codec], self._file.crf
        options = {**codec.options, "crf": str(codec.usual if crf is None else crf)}
        self._stream = self._container.add_stream(codec.encoder, rate=self._rate, options=options)
        self._stream.width = width + width % 2
        self._stream.height = height + height % 2
        self._stream.pix_fmt = self._file.pixel_format
        context = self._stream.codec_context
        if self._file.codec == "hevc":
            context.codec_tag = "hvc1"  # Apple's players play no other
        context.thread_count = _ENCODER_THREADS
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        if self._sound is not None:
            self._soundtrack = Soundtrack(self._container, self._sound)

    def _encode(self, pixels: Pixels) -> None:
        height, width, _ = self._size
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = rgb.reformat(
            format=self._file.pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = self._frames
        frame.time_base = 1 / self._rate
        self._frames += 1
        packets = self._stream.encode(frame)
        if self._file.codec == "av1":
            leave_real_time()
        self._mux(packets)
        if self._soundtrack is not None:
            self._mux(self._soundtrack.until(self._frames / self._rate))

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        for packet in packets:
            assert self._container is not None
            self._container.mux(packet)


def _header(file: Path, name: str) -> Artefact:
    """The record of a closed MP4, as its own header has it."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        return Artefact(
            name=name,
            media_type="video/mp4",
            size=0,
            sha256=_NO_HASH,
            width=stream.width,
            height=stream.height,
            num_frames=stream.frames,
            fps=float(stream.average_rate or 0),
            sound_s=max((_seconds(sound) for sound in container.streams.audio), default=0.0),
        )


def _seconds(stream: Any) -> float:
    return float((stream.duration or 0) * stream.time_base)


def save_png(directory: Path, name: str, pixels: Pixels, embedded: FileRecipe | None = None) -> Artefact:
    """Write an image: height x width x 3 or 4, with its recipe. Raises `WriteError`."""
    temporary = directory / f".{name}.part"
    try:
        with _write_errors(name):
            Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=_chunks(embedded))
        height, width = pixels.shape[:2]
        return publish(
            temporary,
            directory / name,
            Artefact(
                name=name, media_type="image/png", size=0, sha256=_NO_HASH, width=width, height=height, num_frames=1
            ),
            embedded,
        )
    finally:
        temporary.unlink(missing_ok=True)


def _chunks(embedded: FileRecipe | None) -> PngInfo | None:
    if embedded is None or not embedded.text:
        return None
    chunks = PngInfo()
    for name, text in ((KEY, embedded.text), (PNG_PARAMETERS, embedded.parameters), ("Software", "Zoetrope")):
        chunks.add_text(name, text)
    return chunks


def publish(temporary: Path, path: Path, record: Artefact, embedded: FileRecipe | None = None) -> Artefact:
    """Sign where `embedded` has a signer, fsync and hash a closed file, give it its name, fsync the name. Raises `WriteError`.

    Returns `record` with true size and hash, those of the signed file.
    """
    with _write_errors(path.name):
        if embedded is not None and embedded.signer is not None:
            _sign(temporary, path.name, record.media_type, embedded, embedded.signer)
        digest = hashlib.sha256()
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            size = file.tell()
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return msgspec.structs.replace(record, size=size, sha256=digest.hexdigest())


def _sign(file: Path, name: str, media_type: str, embedded: FileRecipe, signer: Signer) -> None:
    """Put the signed version in a closed file's place. Raises `SigningError`, `OSError`."""
    signed = file.with_name(f"{file.name}.signed")
    try:
        with open(file, "rb") as source, open(signed, "w+b") as out:
            signer.sign(
                source, out, media_type, recipe_json=embedded.text, source_type=embedded.source_type, title=name
            )
        signed.replace(file)
    finally:
        signed.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_errors(name: str) -> Iterator[None]:
    """The reader of a job's error needs the file's name and the system's words, not an encoder's traceback."""
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError, SigningError) as error:
        raise WriteError(f"{name} could not be written: {error}") from error
