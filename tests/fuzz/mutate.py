"""Damage to inputs: bytes flipped, cut, repeated and grafted, and values of msgpack replaced by others that are legal and odd."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from tests.fuzz.targets import Frames

#: Bytes at which msgpack changes its mind, and values at which types do.
_BYTES = (
    0x00,
    0x7F,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xBF,
    0xC0,
    0xC1,
    0xC4,
    0xC6,
    0xCA,
    0xCB,
    0xCF,
    0xD3,
    0xD9,
    0xDB,
    0xDD,
    0xDF,
    0xFF,
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    -0.0,
    "",
    "a" * 300,
    "../x",
    "job\n",
    "\u2028\ud7ff",
    b"\xff",
    [],
    [[[]]],
    {},
    {"model": 1},
)


def mutated(frames: Frames, other: Frames, random: Random) -> Frames:
    """Frames near `frames`, with parts of `other` perhaps."""
    result = list(frames)
    for _ in range(random.choice((1, 1, 2, 4))):
        choice = random.random()
        if choice < 0.05:
            result = _reframed(result, other, random)
        elif result:
            index = random.randrange(len(result))
            graft = random.choice(other) if other else b""
            result[index] = _structured(result[index], random) if choice < 0.5 else _raw(result[index], graft, random)
    return result


def _reframed(frames: Frames, other: Frames, random: Random) -> Frames:
    """Another number of frames."""
    if frames and random.random() < 0.4:
        return frames[:-1]
    return [*frames, random.choice(other) if other else b""][:10]


def _structured(frame: bytes, random: Random) -> bytes:
    """One value replaced, dropped or repeated, if this is msgpack at all."""
    try:
        value = msgspec.msgpack.decode(frame)
        return msgspec.msgpack.encode(_changed(value, random))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError, TypeError):
        return _raw(frame, b"", random)


def _changed(value: Any, random: Random) -> Any:
    if isinstance(value, list) and value and random.random() < 0.9:
        index = random.randrange(len(value))
        match random.randrange(8):
            case 0:
                return value[:index]
            case 1:
                return [*value, random.choice(_VALUES)]
            case 2:
                return [*value[: index + 1], *value[index:]]
            case _:
                return [*value[:index], _changed(value[index], random), *value[index + 1 :]]
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice([*value])
        if random.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _changed(value[key], random)}
    return random.choice(_VALUES)


def _raw(frame: bytes, graft: bytes, random: Random) -> bytes:
    data = bytearray(frame or b"\x00")
    at, to = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
    match random.randrange(7):
        case 0:
            del data[at:to]
        case 1:
            data[at:at] = data[at:to] * random.choice((1, 1, 3, 200))
        case 2:
            data[at:to] = graft[: random.randrange(len(graft) + 1)]
        case 3:
            data[at:at] = bytes((random.choice(_BYTES),)) * random.choice((1, 1, 4, 2000))
        case 4 if at < len(data):
            data[at] = random.choice(_BYTES)
        case 5 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case _:
            data[at:at] = random.randbytes(random.choice((1, 2, 8)))
    return bytes(data[:20_000])
