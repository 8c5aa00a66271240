"""Headers of files of weights: names, types and shapes of tensors. The weights are not read.

safetensors and GGUF are the formats that hold numbers alone; every other one may hold code, and is not opened.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO, Literal

from msgspec import Struct

#: Longest header of a safetensors file that is read, and most entries of a GGUF file.
MAX_HEADER = 100 * 2**20
_MAX_ENTRIES = 1_000_000

_GGUF_MAGIC = b"GGUF"
#: GGUF's scalar types by their number -> bytes; 8 is a string, 9 an array.
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9

#: First bytes of files that are read by executing their content: zip archives of torch, pickles.
_CODE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Tensor(Struct, frozen=True):
    """Tensor in a file: its type as the format names it, and its shape as torch has it."""

    dtype: str
    shape: tuple[int, ...]


#: How tensors of text encoders are called there.
_LLAMA_CPP = ("enc.blk.", "token_embd.")


class WeightFile(Struct, frozen=True):
    """A file's format and tensors by name."""

    kind: Literal["safetensors", "gguf"]
    tensors: dict[str, Tensor]

    @property
    def of_llama_cpp(self) -> bool:
        """Whether it is a GGUF file under llama.cpp's names, as those of text encoders are."""
        return self.kind == "gguf" and any(name.startswith(_LLAMA_CPP) for name in self.tensors)


class NoWeights(Exception):
    """Half a sentence on what a file is instead: "is cut short: 10 of 20 bytes"."""


def read_weights(file: Path) -> WeightFile:
    """The header of a safetensors or GGUF file. Raises `NoWeights`."""
    try:
        with file.open("rb") as stream:
            lead = stream.read(8)
            if lead[:4] == _GGUF_MAGIC:
                return WeightFile("gguf", _gguf(stream))
            return WeightFile("safetensors", _safetensors(stream, lead, file.stat().st_size))
    except FileNotFoundError:
        raise NoWeights("is not there") from None
    except IsADirectoryError:
        raise NoWeights("is a directory, and a file is needed") from None
    except OSError as error:
        raise NoWeights(f"cannot be read: {error.strerror}") from None


def _safetensors(stream: BinaryIO, lead: bytes, size: int) -> dict[str, Tensor]:
    length = int.from_bytes(lead, "little")
    text = stream.read(min(length, MAX_HEADER))
    # A header may be as long as by a pickle's first bytes, and begins as one of JSON.
    if lead.startswith(_CODE) and not text.startswith(b"{"):
        raise NoWeights("is a pickle, which can run code when it is read, and is not opened; get it as safetensors")
    if len(lead) < 8 or length > MAX_HEADER:
        raise NoWeights("is neither safetensors nor GGUF")
    if len(text) < length:
        raise NoWeights(f"is cut short: {size} of at least {8 + length} bytes")
    try:
        entries: dict[str, Any] = json.loads(text)
        tensors = {
            name: Tensor(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        }
        end = max(
            (int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"), default=0
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NoWeights("is neither safetensors nor GGUF") from None
    if 8 + length + end > size:
        raise NoWeights(f"is cut short: {size} of {8 + length + end} bytes")
    return tensors


def _gguf(stream: BinaryIO) -> dict[str, Tensor]:
    try:
        stream.seek(4)
        (version,) = struct.unpack("<I", stream.read(4))
        if version not in (2, 3):
            raise NoWeights(f"is GGUF version {version}; versions 2 and 3 are read")
        count, keys = struct.unpack("<QQ", stream.read(16))
        if max(count, keys) > _MAX_ENTRIES:
            raise NoWeights("is a damaged GGUF file")
        for _ in range(keys):
            _gguf_string(stream)
            _skip(stream, _number(stream, "<I"))
        return dict(_gguf_tensor(stream) for _ in range(count))
    except (struct.error, KeyError, UnicodeDecodeError, RecursionError):
        raise NoWeights("is a damaged GGUF file") from None


def _gguf_tensor(stream: BinaryIO) -> tuple[str, Tensor]:
    name = _gguf_string(stream)
    sides = [_number(stream, "<Q") for _ in range(min(_number(stream, "<I"), 8))]
    kind = _number(stream, "<I")
    stream.seek(8, 1)
    # The fastest side comes first there.
    return name, Tensor(f"gguf:{kind}", tuple(reversed(sides)))


def _skip(stream: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _gguf_string(stream)
    elif kind == _ARRAY:
        inner, count = _number(stream, "<I"), _number(stream, "<Q")
        if inner in _GGUF_SIZES:
            stream.seek(_GGUF_SIZES[inner] * count, 1)
            return
        if count > _MAX_ENTRIES:
            raise KeyError(kind)
        for _ in range(count):
            _skip(stream, inner)
    else:
        stream.seek(_GGUF_SIZES[kind], 1)


def _gguf_string(stream: BinaryIO) -> str:
    length = _number(stream, "<Q")
    if length > MAX_HEADER:
        raise KeyError(length)
    return stream.read(length).decode()


def _number(stream: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, stream.read(struct.calcsize(form)))[0])
