"""ICC profiles written by hand (version 2): of matrix and curve for RGB, of a curve for grey, of a table for CMYK."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence

D50 = (0.9642, 1.0, 0.8249)

#: The corners of a CMYK table: L*, a*, b* of inks that are off (0) or full (1).
Corner = Callable[[int, int, int, int], tuple[float, float, float]]


def rgb(columns: Sequence[Sequence[float]], curve: Callable[[float], float]) -> bytes:
    """A display's profile: `columns` are XYZ of red, green and blue, adapted to D50; `curve` makes light of a sample, 0 to 1."""
    tags = {b"rXYZ": _xyz(columns[0]), b"gXYZ": _xyz(columns[1]), b"bXYZ": _xyz(columns[2])}
    return profile(b"mntr", b"RGB ", b"XYZ ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))})


def grey(curve: Callable[[float], float]) -> bytes:
    """A grey display's profile."""
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(curve)})


def cmyk(corner: Corner) -> bytes:
    """A printer's profile: a table of two points an ink."""
    table = b"".join(_lab8(corner(*inks)) for inks in itertools.product((0, 1), repeat=4))
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + straight * 4 + table + straight * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of these tags, and those that every profile has."""
    text = b"test\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + text, b"wtpt": _xyz(D50), **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _fixed(values: Sequence[float]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(curve: Callable[[float], float]) -> bytes:
    points = [round(65535 * curve(step / 1023)) for step in range(1024)]
    return b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *points)


def _lab8(lab: tuple[float, float, float]) -> bytes:
    return bytes((round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)))
