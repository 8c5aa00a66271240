"""Place of a recipe in a file, and reading its text there: PNG, JPEG, WebP and MP4, without a decoder and without trust in the file.

| file | place |
|---|---|
| PNG | text chunk `zoetrope` (tEXt or iTXt) |
| JPEG, WebP | Exif, ImageDescription (tag 0x010E) |
| MP4 | metadata `zoetrope` (moov/udta/meta, by key) |

Beside it stands the same in words: PNG `parameters`, Exif UserComment, MP4 `comment`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

#: Name of the recipe in a file.
KEY = "zoetrope"
#: The same in words: of PNG as galleries of generated pictures read it, and of MP4 as players show it.
PNG_PARAMETERS, MP4_PARAMETERS = "parameters", "comment"

#: Exif tags: ImageDescription, which has the recipe; of the pointer to the Exif block; and UserComment in it.
EXIF_RECIPE, EXIF_BLOCK, EXIF_PARAMETERS = 0x010E, 0x8769, 0x9286
#: An Exif text begins so where it is a recipe, and not another program's description of a picture.
_BEGINS = b'{"zoetrope":'

#: A JPEG segment, its head included.
MAX_EXIF_BYTES = 65_533

_PNG, _JPEG, _RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF"
_EXIF = b"Exif\0\0"

#: Chunks, segments, boxes of one file that are looked at.
_MAX_PARTS = 100_000


class NoRecipe(ValueError):
    """There is no recipe in the file. One clause, after the name of the file."""


def media_type_of(head: bytes) -> str | None:
    """The media type of a file that begins so, 12 bytes at least; None when it is no PNG, JPEG, WebP or MP4."""
    if head.startswith(_PNG):
        return "image/png"
    if head.startswith(_JPEG):
        return "image/jpeg"
    if head.startswith(_RIFF) and head[8:12] == b"WEBP":
        return "image/webp"
    return "video/mp4" if head[4:8] == b"ftyp" else None


def recipe_text(file: BinaryIO, max_bytes: int) -> str:
    """The text of the recipe in a file, which can be sought. Raises `NoRecipe` for none, one above `max_bytes`, or no file of ours."""
    read = _READERS.get(media_type_of(file.read(16)) or "")
    if read is None:
        raise NoRecipe("is no PNG, JPEG, WebP or MP4")
    try:
        found = read(file, max_bytes)
        if found is None:
            raise NoRecipe(
                "holds no recipe: it was drawn without one, drawn elsewhere, or saved anew by a program that leaves it out"
            )
        return found.decode("utf-8")
    except (struct.error, zlib.error, UnicodeDecodeError, EOFError):
        raise NoRecipe("is damaged where its recipe should stand") from None


def _read(file: BinaryIO, size: int, most: int) -> bytes:
    """That many bytes. Raises `NoRecipe`, `EOFError`."""
    if size > most:
        raise NoRecipe(f"holds a recipe of {size} bytes, at most {most} are read")
    # Of a part whose size is given as less than its own head; a file would be read to its end.
    if size < 0:
        raise EOFError
    data = file.read(size)
    if len(data) != size:
        raise EOFError
    return data


# ---------------------------------------------------------------- PNG


def _in_png(file: BinaryIO, max_bytes: int) -> bytes | None:
    file.seek(len(_PNG))
    for _ in range(_MAX_PARTS):
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return None
        here = file.tell()
        if kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(len(KEY) + 1) == KEY.encode() + b"\0":
            return _png_text(kind, _read(file, size - len(KEY) - 1, max_bytes), max_bytes)
        file.seek(here + size + 4)
    return None


def _png_text(kind: bytes, data: bytes, max_bytes: int) -> bytes:
    """The text of a chunk, its name taken off, as UTF-8."""
    if kind == b"tEXt":
        return data.decode("latin-1").encode()
    packed = True
    if kind == b"iTXt":
        packed, data = data[:1] == b"\1", data[1:]
    data = data[1:]
    if kind == b"iTXt":
        # Language, and the name in that language.
        data = data.split(b"\0", 2)[2] if data.count(b"\0") >= 2 else b""
    if packed:
        data = zlib.decompressobj().decompress(data, max_bytes)
    return data if kind == b"iTXt" else data.decode("latin-1").encode()


# ---------------------------------------------------------------- Exif


def _in_jpeg(file: BinaryIO, max_bytes: int) -> bytes | None:
    file.seek(2)
    for _ in range(_MAX_PARTS):
        mark, kind, size = struct.unpack(">BBH", file.read(4))
        # From the scan on there is no more metadata.
        if mark != 0xFF or kind in (0xDA, 0xD9):
            return None
        here = file.tell()
        if kind == 0xE1 and file.read(len(_EXIF)) == _EXIF:
            return _in_exif(_read(file, size - 2 - len(_EXIF), max_bytes))
        file.seek(here + size - 2)
    return None


def _in_webp(file: BinaryIO, max_bytes: int) -> bytes | None:
    file.seek(12)
    for _ in range(_MAX_PARTS):
        head = file.read(8)
        if not head:
            return None
        kind, size = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return _in_exif(_read(file, size, max_bytes).removeprefix(_EXIF))
        file.seek(size + size % 2, 1)
    return None


def _in_exif(data: bytes) -> bytes | None:
    """ImageDescription of the first directory, where it is a recipe."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    for number in range(count):
        tag, kind, size, offset = struct.unpack_from(order + "HHII", data, at + 2 + 12 * number)
        if tag == EXIF_RECIPE and kind == 2:
            text = data[offset : offset + size].rstrip(b"\0")
            return text if text.startswith(_BEGINS) else None
    return None


# ---------------------------------------------------------------- MP4


def _in_mp4(file: BinaryIO, max_bytes: int) -> bytes | None:
    file.seek(0, 2)
    end, start = file.tell(), 0
    for name in (b"moov", b"udta", b"meta"):
        box = next((box for box in _boxes(file, start, end) if box[0] == name), None)
        if box is None:
            return None
        _, start, end = box
    # A full box: version and flags come first.
    parts = {name: (first, last) for name, first, last in _boxes(file, start + 4, end)}
    if b"keys" not in parts or b"ilst" not in parts:
        return None
    number = _number_of_key(file, *parts[b"keys"])
    for name, first, last in _boxes(file, *parts[b"ilst"]):
        if name == number:
            file.seek(first)
            size, kind = struct.unpack(">I4s8x", file.read(16))
            return _read(file, size - 16, max_bytes) if kind == b"data" and first + size <= last else None
    return None


def _number_of_key(file: BinaryIO, start: int, end: int) -> bytes:
    """Name of the value's box: the place of our key in the list, from 1; b"" when it is not there."""
    file.seek(start)
    (count,) = struct.unpack(">4xI", file.read(8))
    for number in range(1, min(count, _MAX_PARTS) + 1):
        size, space = struct.unpack(">I4s", file.read(8))
        if not 8 <= size <= end - start:
            return b""
        if size - 8 == len(KEY) and space == b"mdta":
            if file.read(len(KEY)) == KEY.encode():
                return struct.pack(">I", number)
        else:
            file.seek(size - 8, 1)
    return b""


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, where it ends) of each box between two places. Raises `struct.error`."""
    for _ in range(_MAX_PARTS):
        if start >= end:
            return
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        elif size == 0:
            size = end - start
        if size < head or start + size > end:
            raise struct.error
        yield name, start + head, start + size
        start += size


#: Media type -> what finds the recipe in such a file.
_READERS: dict[str, Callable[[BinaryIO, int], bytes | None]] = {
    "image/png": _in_png,
    "image/jpeg": _in_jpeg,
    "image/webp": _in_webp,
    "video/mp4": _in_mp4,
}
