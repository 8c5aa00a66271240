"""Pictures made from results on request: thumbnails, contact sheets, images in other formats.

They lie beside the artefact that they were made from, as `derived-…`, so that they go when it goes, and are made once: a later request
finds the file. Two edges that make the same file at once put the same bytes there. Reading and drawing happens in worker threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args

import anyio
import anyio.to_thread
import av
import av.error
from msgspec import Struct
from PIL import Image

from broker.runtime.pictures import on_white
from broker.runtime.recipe_file import EXIF_BLOCK, EXIF_PARAMETERS, EXIF_RECIPE, KEY, MAX_EXIF_BYTES, PNG_PARAMETERS
from broker.wire.jobspec import Artefact
from broker.wire.messages import JobView
from http_edge.base.errors import EdgeError, from_disk
from http_edge.http.file_response import Download
from http_edge.media.artefacts import file_name
from http_edge.media.credentials import EdgeCredentials
from http_edge.media.result_files import ResultFiles

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[str, ...] = get_args(Format)

#: Longest side of a thumbnail, and of one picture on a sheet: pixels.
_THUMBNAIL_SIDE = 640
_SHEET_SIDE = 320

#: Pictures on a sheet, at most: a square of them.
_SHEET_COLUMNS = 4

#: Quality of JPEG and WebP, where the client names none.
_QUALITY = 95

#: Threads: decoding a clip keeps a core busy.
_THREADS = 2


class Variant(Struct, frozen=True, kw_only=True):
    """Variant of an artefact to make."""

    kind: Literal["thumbnail", "spritesheet", "image"]
    format: Format
    quality: int | None = None

    def name(self, index: int) -> str:
        """The file's name beside the artefact `index`."""
        quality = "" if self.quality is None else f"-q{self.quality}"
        return f"derived-{index}-{self.kind}{quality}.{self.format}"


def as_format(name: str) -> Format | None:
    """The format of this name; None when it is not supported."""
    name = {"jpg": "jpeg"}.get(name.lower(), name.lower())
    return cast(Format, name) if name in FORMATS else None


class Thumbnails:
    """The derived pictures of one edge's artefacts."""

    def __init__(self, results: ResultFiles, credentials: EdgeCredentials) -> None:
        self._results = results
        self._credentials = credentials
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def file(self, view: JobView, index: int, artefact: Artefact, variant: Variant) -> Download:
        """The file of this variant, made if it is not there yet. Raises `EdgeError`."""
        source = await self._results.fetched(view, artefact)
        path = source.with_name(variant.name(index))
        size, digest = await anyio.to_thread.run_sync(self._made, source, path, variant, limiter=self._threads)
        return Download(
            root=self._results.root_of(path),
            path=path,
            size=size,
            sha256=digest,
            media_type=f"image/{variant.format}",
            name=str(Path(file_name(view, index, artefact)).with_suffix(f".{variant.format}")),
        )

    async def image_bytes(self, view: JobView, artefact: Artefact, to: Format, quality: int | None) -> bytes:
        """An image artefact's file in this format. Raises `EdgeError`."""
        source = await self._results.fetched(view, artefact)
        return await anyio.to_thread.run_sync(self._converted, source, to, quality, limiter=self._threads)

    async def last_frame(self, view: JobView, artefact: Artefact) -> bytes:
        """The last picture of a clip, as PNG. Raises `EdgeError`."""
        source = await self._results.fetched(view, artefact)
        return await anyio.to_thread.run_sync(_last_frame, source, limiter=self._threads)

    def _made(self, source: Path, path: Path, variant: Variant) -> tuple[int, str]:
        """(size, sha256) of the file. Blocks."""
        with _errors_named(source, variant.kind):
            if not path.exists():
                picture = _draw(source, variant)
                # A result in another format is a result; thumbnails and sheets are views of one, and no files to pass on.
                write = self._result if variant.kind == "image" else encoded
                _write(path, write(picture, variant.format, variant.quality))
            data = path.read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()

    def _converted(self, source: Path, to: Format, quality: int | None) -> bytes:
        with _errors_named(source, f"{to} version"):
            if to == "png" and source.suffix == ".png":
                return source.read_bytes()
            with Image.open(source) as image:
                return self._result(image, to, quality)

    def _result(self, image: Image.Image, to: Format, quality: int | None) -> bytes:
        recipe = image.info.get(KEY)
        data = encoded(image, to, quality)
        return self._credentials.signed(data, f"image/{to}", recipe if isinstance(recipe, str) else "")


@contextlib.contextmanager
def _errors_named(source: Path, what: str) -> Iterator[None]:
    """Turn errors of files and decoders into the edge's."""
    try:
        yield
    except FileNotFoundError:
        raise EdgeError("gone", f"the file {source.name} of this job is no longer kept") from None
    except (OSError, av.error.FFmpegError, ValueError) as error:
        refused = from_disk(error) if isinstance(error, OSError) else None
        raise refused or EdgeError("internal", f"no {what} of {source.name} could be made: {error}") from error


def _last_frame(source: Path) -> bytes:
    with _errors_named(source, "last frame"):
        last = None
        for last in _frames(source):  # noqa: B007 the frame after the loop is the last one
            continue
        if last is None:
            raise ValueError("it has no frames")
        return encoded(last, "png", None)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw(source: Path, variant: Variant) -> Image.Image:
    if source.suffix != ".mp4":
        with Image.open(source) as image:
            image.load()
            return _shrunk(image.copy(), _THUMBNAIL_SIDE) if variant.kind == "thumbnail" else image.copy()
    if variant.kind == "spritesheet":
        return _sheet(source)
    return _shrunk(next(_frames(source)), _THUMBNAIL_SIDE)


def encoded(image: Image.Image, to: Format, quality: int | None) -> bytes:
    """The image's file in this format, with the recipe of the PNG that it was read from. `quality` is 0 to 100."""
    out, exif = io.BytesIO(), _exif(image)
    if to == "png":
        image.save(out, "PNG")
    elif to == "jpeg":
        # Pillow's scale for JPEG begins at 1, and full colour is worth its bytes only at high quality.
        quality_used = max(1, _QUALITY if quality is None else quality)
        # A segment has no room for the longest prompts; of the two forms the recipe itself is what matters.
        forms = (exif, _exif(image, with_parameters=False))
        exif = next((form for form in forms if len(form) <= MAX_EXIF_BYTES), b"")
        on_white(image).save(out, "JPEG", quality=quality_used, subsampling=0 if quality_used >= 90 else 2, exif=exif)
    else:
        image.save(out, "WEBP", quality=_QUALITY if quality is None else quality, exif=exif)
    return out.getvalue()


def _exif(image: Image.Image, *, with_parameters: bool = True) -> bytes:
    """Recipe of a PNG as Exif; b"" where it has none."""
    embedded, parameters = (image.info.get(name) for name in (KEY, PNG_PARAMETERS))
    if not isinstance(embedded, str):
        return b""
    exif = Image.Exif()
    # UTF-8, where the standard has ASCII: what every reader makes of it.
    exif[EXIF_RECIPE] = embedded.encode()
    if with_parameters and isinstance(parameters, str):
        exif.get_ifd(EXIF_BLOCK)[EXIF_PARAMETERS] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return exif.tobytes()


def _frames(source: Path) -> Iterator[Image.Image]:
    with av.open(str(source)) as container:
        for frame in container.decode(video=0):
            image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
            yield image


def _sheet(source: Path) -> Image.Image:
    """A square of pictures evenly spaced over the clip, row by row; as many as there are, if they are few."""
    with av.open(str(source)) as container:
        total = container.streams.video[0].frames
    columns = min(_SHEET_COLUMNS, max(1, math.ceil(math.sqrt(total or 1))))
    count = min(total or 1, columns * columns)
    chosen = {round(number * (total - 1) / max(1, count - 1)) for number in range(count)}
    pictures = [_shrunk(picture, _SHEET_SIDE) for number, picture in enumerate(_frames(source)) if number in chosen]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image itself, made smaller. It is another picture than its recipe draws."""
    image.info.clear()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
