"""Pictures with colour profiles reach the pipeline in sRGB, from the client's file to what the engine reads.

What is right is computed here from the definitions of the colour spaces (primaries, white, curves, L*a*b*), not by a colour engine.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.runtime.pictures import BROKEN_PROFILE, ON_WHITE
from http_edge.media.input_store import InputStore
from tests.support import icc
from workers.engine.inputs import read_image

Colour = tuple[int, ...]
Curve = Callable[[float], float]

_D65 = (0.3127, 0.3290)
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def srgb_light(sample: float) -> float:
    return sample / 12.92 if sample <= 0.04045 else ((sample + 0.055) / 1.055) ** 2.4


def adobe_light(sample: float) -> float:
    return float(sample ** (563 / 256))


#: Published columns, adapted to D50, as Apple's and Adobe's own profiles have them.
DISPLAY_P3 = icc.rgb(
    ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), srgb_light
)
ADOBE_RGB = icc.rgb(
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), adobe_light
)
GREY = icc.grey(lambda sample: sample**1.8)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> Any:
    """The matrix from light of these primaries to XYZ, with a white of D65."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T
    return columns * np.linalg.solve(columns, white(_D65))


def white(point: tuple[float, float]) -> Any:
    return np.array((point[0] / point[1], 1.0, (1 - point[0] - point[1]) / point[1]))


def in_srgb(xyz: Any) -> Colour:
    """XYZ under D65 as sRGB of eight bits; what it cannot show is cut off."""
    light = np.clip(np.linalg.solve(to_xyz(_SRGB), xyz), 0, 1)
    samples = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return tuple(round(sample * 255) for sample in samples)


def of_rgb(primaries: tuple[tuple[float, float], ...], curve: Curve, colour: Colour) -> Colour:
    return in_srgb(to_xyz(primaries) @ np.array([curve(sample / 255) for sample in colour]))


def of_lab(lab: tuple[float, float, float]) -> Colour:
    """L*a*b* under D50, adapted to D65 after Bradford."""
    middle = (lab[0] + 16) / 116
    scaled = [middle + lab[1] / 500, middle, middle - lab[2] / 200]
    xyz = np.array([value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29) for value in scaled])
    xyz *= np.array(icc.D50)
    gains = (_BRADFORD @ white(_D65)) / (_BRADFORD @ np.array(icc.D50))
    return in_srgb(np.linalg.solve(_BRADFORD, gains * (_BRADFORD @ xyz)))


def inks(cyan: int, magenta: int, yellow: int, black: int) -> tuple[float, float, float]:
    """Inks of a made-up press, duller than those that a converter without a profile takes for granted."""
    strength = 1 - black
    return (
        # Paper is white and ink can be black, as lightness is measured in profiles: no rendering intent moves these.
        100 * 0.62**cyan * 0.55**magenta * 0.93**yellow * strength,
        (-32 * cyan + 58 * magenta - 4 * yellow) * strength,
        (-36 * cyan - 4 * magenta + 60 * yellow) * strength,
    )


PRESS = icc.cmyk(inks)


@pytest.fixture
def reached(tmp_path: Path) -> Callable[..., tuple[Colour, tuple[str, ...]]]:
    """Gives the colour in the middle of what the engine reads of a picture that was sent, and what its owner is told."""

    def send(picture: Image.Image, kind: str = "PNG", **options: Any) -> tuple[Colour, tuple[str, ...]]:
        data = io.BytesIO()
        picture.save(data, kind, **options)
        (tmp_path / "sent").write_bytes(data.getvalue())
        kept = InputStore(tmp_path / "uploads", tmp_path, (tmp_path,)).from_path("image", "sent")
        image = read_image(Path(kept.path), None)
        assert image.mode == "RGB"
        found = image.getpixel((image.width // 2, image.height // 2))
        assert isinstance(found, tuple)
        return found, kept.notes

    return send


def near(found: Colour, right: Colour, within: int = 2) -> bool:
    return all(abs(one - other) <= within for one, other in zip(found, right, strict=True))


COLOURS = [(200, 100, 50), (30, 180, 90), (60, 80, 200), (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)]
FILES: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize("colour", COLOURS, ids=str)
@pytest.mark.parametrize(
    ("profile", "primaries", "curve"),
    [(DISPLAY_P3, _P3, srgb_light), (ADOBE_RGB, _ADOBE, adobe_light)],
    ids=["display-p3", "adobe-rgb"],
)
def test_wider_colours(reached: Any, profile: bytes, primaries: Any, curve: Curve, colour: Colour) -> None:
    right = of_rgb(primaries, curve, colour)
    for kind, options in FILES:
        found, notes = reached(Image.new("RGB", (8, 8), colour), kind, icc_profile=profile, **options)
        assert near(found, right), (kind, found, right)
        assert notes == ()


def test_a_palette_has_the_colours_of_its_profile(reached: Any) -> None:
    colour = (200, 100, 50)
    picture = Image.new("RGB", (8, 8), colour).quantize(4)
    found, notes = reached(picture, icc_profile=DISPLAY_P3)
    assert (near(found, of_rgb(_P3, srgb_light, colour)), notes) == (True, ())


def test_colours_are_converted_before_they_are_laid_on_white(reached: Any) -> None:
    colour, opacity = (60, 180, 90), 128
    found, notes = reached(Image.new("RGBA", (8, 8), (*colour, opacity)), icc_profile=DISPLAY_P3)
    converted = of_rgb(_P3, srgb_light, colour)
    right = tuple(round((sample * opacity + 255 * (255 - opacity)) / 255) for sample in converted)
    assert (near(found, right), notes) == (True, (ON_WHITE,))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (kind, value)
        for kind in ("L", "LA", "I;16", "1", "JPEG")
        for value in (0, 40, 128, 200, 255)
        if kind != "1" or value in (0, 255)
    ],
)
def test_grey_with_a_profile(reached: Any, kind: str, value: int) -> None:
    right = of_lab((116 * np.cbrt((value / 255) ** 1.8) - 16, 0, 0)) if value else (0, 0, 0)
    if kind == "I;16":
        picture = Image.new("I;16", (8, 8), value * 257)
    elif kind == "1":
        picture = Image.new("1", (8, 8), value)
    else:
        picture = Image.new("LA", (8, 8), (value, 255)) if kind == "LA" else Image.new("L", (8, 8), value)
    found, notes = reached(picture, "JPEG" if kind == "JPEG" else "PNG", icc_profile=GREY)
    assert near(found, right), (found, right)
    assert notes == ()


def test_grey_samples_with_a_profile_of_three_colours(reached: Any) -> None:
    found, notes = reached(Image.new("L", (8, 8), 90), icc_profile=ADOBE_RGB)
    assert (near(found, of_rgb(_ADOBE, adobe_light, (90, 90, 90))), notes) == (True, ())


CORNERS = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 1, 1, 0)]


@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_inks_with_a_profile(reached: Any, corner: tuple[int, int, int, int]) -> None:
    picture = Image.new("CMYK", (16, 16), tuple(255 * ink for ink in corner))
    found, notes = reached(picture, "JPEG", quality=100, subsampling=0, icc_profile=PRESS)
    assert near(found, of_lab(inks(*corner)), 4), (found, of_lab(inks(*corner)))
    assert notes == ()


def test_inks_without_a_profile_are_mixed_plainly(reached: Any) -> None:
    for amounts in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 128, 0, 0), (64, 32, 0, 100), (0, 0, 0, 255)):
        found, notes = reached(Image.new("CMYK", (16, 16), amounts), "JPEG", quality=100, subsampling=0)
        right = tuple(round((255 - ink) * (255 - amounts[3]) / 255) for ink in amounts[:3])
        assert (near(found, right, 3), notes) == (True, ()), (found, right)


#: What is no profile for the picture's samples.
BROKEN = {
    "empty of sense": b"none",
    "cut short": DISPLAY_P3[:200],
    "cut in its curves": DISPLAY_P3[:-1500],
    "without curves": icc.profile(b"mntr", b"RGB ", b"XYZ ", {}),
    "without a signature": DISPLAY_P3[:36] + b"none" + DISPLAY_P3[40:],
    "of more tags than bytes": DISPLAY_P3[:128] + b"\xff\xff\xff\xff" + DISPLAY_P3[132:],
    "of inks": PRESS,
    "of grey": GREY,
    "noise": bytes((number * 73 + 5) % 256 for number in range(4096)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_profile_that_cannot_be_used_is_told_of(reached: Any, how: str) -> None:
    colour = (200, 100, 50)
    assert reached(Image.new("RGB", (8, 8), colour), icc_profile=BROKEN[how]) == (colour, (BROKEN_PROFILE,))


def test_what_is_wrong_in_a_profile_and_changes_no_colour_is_passed_over(reached: Any) -> None:
    too_long = b"\xff\xff\xff\xff" + DISPLAY_P3[4:]
    colour = (200, 100, 50)
    for profile in (too_long, DISPLAY_P3 + bytes(99)):
        found, notes = reached(Image.new("RGB", (8, 8), colour), icc_profile=profile)
        assert (near(found, of_rgb(_P3, srgb_light, colour)), notes) == (True, ())


def test_inks_with_a_profile_of_three_colours_are_mixed_plainly(reached: Any) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found, notes = reached(picture, "JPEG", quality=100, subsampling=0, icc_profile=ADOBE_RGB)
    assert (near(found, (255, 0, 0), 3), notes) == (True, (BROKEN_PROFILE,))


def test_every_byte_of_a_profile_may_be_wrong(reached: Any) -> None:
    """No damage ends in anything but a picture: half the profile's bytes, one after the other, in their first 400."""
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    for place in range(0, 400, 2):
        damaged = bytearray(DISPLAY_P3)
        damaged[place] ^= 0xFF
        found, notes = reached(colour, icc_profile=bytes(damaged))
        assert notes in ((), (BROKEN_PROFILE,))
        assert len(found) == 3
