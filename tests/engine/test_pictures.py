"""Pictures of any kind become upright sRGB of eight bits, and their owner learns what that changed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageCms

from broker.runtime.pictures import BROKEN_PROFILE, FIRST_FRAME, ON_WHITE, normalised


def seen(picture: Image.Image, kind: str = "PNG", **options: Any) -> tuple[list[Any], list[str]]:
    """The first row of the picture as it is read from a file, and the notes."""
    data = io.BytesIO()
    picture.save(data, kind, **options)
    with Image.open(data) as opened:
        result, notes = normalised(opened)
    assert result.mode == "RGB"
    return [result.getpixel((x, 0)) for x in range(result.width)], notes


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = Image.new("I;16", (4, 1))
    for x, value in enumerate((0, 256, 32768, 65535)):
        deep.putpixel((x, 0), value)
    assert seen(deep) == ([(grey,) * 3 for grey in (0, 1, 128, 255)], [])
    assert seen(deep, transparency=256) == ([(grey,) * 3 for grey in (0, 255, 128, 255)], [ON_WHITE])


@pytest.mark.parametrize(
    ("picture", "kind", "options"),
    [
        (Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "PNG", {}),
        (Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "WEBP", {"lossless": True}),
        (Image.new("LA", (1, 1), (9, 0)), "PNG", {}),
        (Image.new("L", (1, 1), 9), "PNG", {"transparency": 9}),
        (Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}),
        (Image.new("RGB", (1, 1), (9, 8, 7)).quantize(2), "PNG", {"transparency": 0}),
    ],
)
def test_what_is_transparent_is_white(picture: Image.Image, kind: str, options: dict[str, Any]) -> None:
    assert seen(picture, kind, **options) == ([(255, 255, 255)], [ON_WHITE])


def test_profiles_are_used_and_broken_ones_told_of() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colour = Image.new("RGB", (1, 1), (200, 100, 50))
    assert seen(colour, icc_profile=srgb) == ([(200, 100, 50)], [])
    assert seen(colour, icc_profile=b"none") == ([(200, 100, 50)], [BROKEN_PROFILE])


def test_of_an_animation_the_first_frame_is_used() -> None:
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("red", "blue")]
    assert seen(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True) == (
        [(255, 0, 0)],
        [FIRST_FRAME],
    )


def test_floating_point_samples_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="floating point"):
        seen(Image.new("F", (1, 1), 0.5), "TIFF")
