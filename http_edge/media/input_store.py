"""Inputs of jobs: pictures, masks and clips, checked and spooled to `<home>/uploads/<sha256>.<ext>`, where engines read them.

Bytes are content-addressed, so the same picture sent twice is kept once, and what the engine reads cannot change under a queued job. A
path is one way for bytes to come; `input_sources` has the others. Everything here blocks: callers are worker threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import math
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from broker.runtime.clips import BadClip, ClipFacts, suffix_of
from broker.runtime.pictures import is_plain, mask_of, normalised
from broker.wire.inputs import INPUT_FILE, InputKind
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.paths import OutsideRoot, is_within, named_roots, open_parent, resolve
from http_edge.body.spool import disk_error
from http_edge.media.clip_probe import probe

MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_CLIP_BYTES = 64 * 1024 * 1024

#: Checked before decoding: 40 MP of RGB are 120 MB of memory.
MAX_IMAGE_PIXELS = 40_000_000

#: Readers of the formats that are taken: Pillow registers each when its module is imported, and no others are loaded.
_READERS = [
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
]

#: Formats read, with the suffix they are kept under; MPO is a JPEG with more pictures behind it, as some cameras write.
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "BMP": ".bmp"}
_FORMATS = "PNG, JPEG, WebP or BMP"

#: Exceptions of Pillow's decoders for bytes that only begin like an image.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


_ALLOWED = "the directories that clients may read from"

#: A path that was checked holds no link. Opening a FIFO to read would wait for its writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

#: Media types of uploads that are sent back, by format.
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "BMP": "image/bmp"}


#: Media types of clips, by the suffix under which they are kept.
_CLIP_TYPES = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}


def max_bytes(kind: InputKind) -> int:
    """Return the size limit of a file of this kind, bytes."""
    return MAX_CLIP_BYTES if kind == "clip" else MAX_IMAGE_BYTES


def media_type_of(path: Path) -> str:
    """The type of a file by how its bytes begin; whether it is a whole image or clip is found when it is used as one. Blocks."""
    with open(path, "rb") as file:
        suffix = suffix_of(file.read(16))
    if suffix:
        return _CLIP_TYPES[suffix]
    try:
        with Image.open(path, formats=_READERS) as image:
            return _MEDIA_TYPES[image.format or ""]
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, *_DAMAGE):
        return "application/octet-stream"


class Picture(Struct, frozen=True):
    """A kept input: an image, upright RGB in sRGB, whatever it came as; a mask of one channel; a clip."""

    path: str
    width: int
    height: int
    #: Changes of it that its client may not expect.
    notes: tuple[str, ...] = ()
    #: Of a clip that was looked into.
    clip: ClipFacts | None = None


class InputStore:
    """Store of inputs, and the sources that they may come from.

    With tenants, files of other tenants cannot be read: everything below `closed`, the home, where uploads and artefacts lie under no
    tenant's name; and results that were saved elsewhere, by their tenant (`owner_of` a resolved path, None: no one's).
    """

    def __init__(
        self,
        uploads: Path,
        start: Path,
        roots: Sequence[Path],
        *,
        closed: Sequence[Path] = (),
        owner_of: Callable[[Path], str | None] = lambda path: None,
    ) -> None:
        self._uploads = uploads
        self._start = start
        self._roots = tuple(roots)
        self._closed = tuple(closed)
        self._owner_of = owner_of

    def from_path(self, field: str, text: str, tenant: str = "default", kind: InputKind = "picture") -> Picture:
        """The spooled copy of a file on this machine. Raises `EdgeError` naming field, value and rule."""
        path = resolve(text, self._start)
        if not is_within(path, self._roots):
            rule = f"leads out of {_ALLOWED}, which are {named_roots(self._roots)} (setting input_roots)"
            raise invalid(field, text, rule)
        if is_within(path, self._closed):
            raise invalid(field, text, f"leads out of {_ALLOWED}: with API keys, the service's own are not among them")
        return self._copied(field, text, lambda: self._open(path, tenant), kind)

    def from_upload(self, field: str, name: str, path: Path, kind: InputKind = "picture") -> Picture:
        """The spooled copy of a file that the client may use; it calls it `name`. Raises `EdgeError`."""
        return self._copied(field, name, lambda: os.open(path, _READ), kind)

    def _open(self, path: Path, tenant: str) -> int:
        if self._owner_of(path) not in (None, tenant):
            raise FileNotFoundError
        with open_parent(path, self._roots) as directory:
            return os.open(path.name, _READ, dir_fd=directory)

    def _copied(self, field: str, name: str, opened: Callable[[], int], kind: InputKind) -> Picture:
        try:
            data = _read(opened(), max_bytes(kind))
        except FileNotFoundError:
            raise invalid(field, name, "does not exist") from None
        except OutsideRoot:
            raise invalid(field, name, f"leads out of {_ALLOWED}") from None
        except OSError as error:
            raise invalid(field, name, f"cannot be read: {error.strerror or error}") from None
        return self.spool(field, name, data, kind)

    def spool(self, field: str, name: str, data: bytes, kind: InputKind = "picture") -> Picture:
        """Check that these bytes are of this kind and within its caps, and keep them. Raises `EdgeError`."""
        ready = _ready_clip(field, name, data) if kind == "clip" else _ready(field, name, data, kind)
        try:
            path = self._keep(ready.data, ready.suffix)
            return Picture(path, *ready.size, ready.notes, ready.clip)
        except OSError as error:
            raise disk_error(error) from None

    def _keep(self, data: bytes, suffix: str) -> str:
        target = self._uploads / f"{hashlib.sha256(data).hexdigest()}{suffix}"
        if self._touch(target):
            return str(target)
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return str(target)

    def touch(self, field: str, path: str) -> None:
        """Note that a kept image is used once more. Raises `EdgeError` when it is kept no longer."""
        if not self._touch(Path(path)):
            raise EdgeError("gone", f"{field}: the file is no longer kept", param=field)

    def _touch(self, target: Path) -> bool:
        """Note the time of last use, by which old images are removed; False when this one was."""
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(target)
            except FileNotFoundError:
                return False
        return True

    # ------------------------------------------------------------ removal

    def unused_since(self, cutoff: float) -> list[str]:
        """Names of the images that no job took since."""
        try:
            entries = list(os.scandir(self._uploads))
        except FileNotFoundError:
            return []
        return [entry.name for entry in entries if INPUT_FILE.fullmatch(entry.name) and _used_at(entry.path) <= cutoff]

    def remove_unused(self, names: Sequence[str], cutoff: float) -> None:
        """Remove these images, but those that were taken since. Raises `OSError`."""
        for name in names:
            with self._lock(fcntl.LOCK_EX):
                if _used_at(self._uploads / name) <= cutoff:
                    (self._uploads / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Lock against removal while an input's use is noted."""
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._uploads / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, kind)
            yield
        finally:
            os.close(lock)


def _used_at(path: str | Path) -> float:
    """Unix time of last use; the end of time when the file is not there."""
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return math.inf


def _read(descriptor: int, most: int) -> bytes:
    """The bytes of an open file, which is closed. Raises `OSError`."""
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        if status.st_size > most:
            raise OSError(f"it has {status.st_size} bytes, at most {most}")
        return file.read(most)


class _Ready(Struct, frozen=True):
    """The bytes to keep of an input."""

    data: bytes
    suffix: str
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    clip: ClipFacts | None = None


def _ready_clip(field: str, name: str, data: bytes) -> _Ready:
    """The bytes to keep of a clip: its index is read and its first frame decoded. What is cut short has fewer frames than its index."""
    try:
        facts = probe(data)
    except BadClip as error:
        raise invalid(field, name, str(error)) from None
    return _Ready(data, suffix_of(data), facts.shape, clip=facts)


def _ready(field: str, name: str, data: bytes, kind: InputKind) -> _Ready:
    """The bytes to keep. Decodes the image whole: a file cut short must fail here, not on a GPU."""
    try:
        with Image.open(io.BytesIO(data), formats=_READERS) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise _too_many(field, name, f"{width}x{height} pixels")
            image.load()
            if kind == "picture" and is_plain(image):
                return _Ready(data, _SUFFIXES[image.format or "PNG"], image.size)
            picture, notes = mask_of(image) if kind == "mask" else normalised(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many(field, name, "too many pixels") from None
    except UnidentifiedImageError:
        raise invalid(field, name, f"is not an image: {_FORMATS} is expected") from None
    except _DAMAGE as error:
        raise invalid(field, name, f"is a damaged image: {error}") from None
    if kind == "mask" and picture.getextrema() == (0, 0):
        raise invalid(field, name, "marks nothing: what is white is drawn anew, or what is transparent")
    kept = io.BytesIO()
    picture.save(kept, "PNG", compress_level=1)
    return _Ready(kept.getvalue(), ".png", picture.size, tuple(notes))


def _too_many(field: str, name: str, what: str) -> EdgeError:
    return invalid(field, name, f"has {what}; at most {MAX_IMAGE_PIXELS} pixels")
