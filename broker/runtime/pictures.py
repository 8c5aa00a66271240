"""Decoded pictures of any kind, converted for models: RGB of eight bits, upright, in sRGB. Needs Pillow; imports no torch."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

#: EXIF's orientation.
_ORIENTATION = 0x0112

#: Its values -> how to stand the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Modes of more than eight bits a sample; `ValueError` for those without a known range.
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_DEEPEST = 65535

#: Modes of one colour sample, with and without opacity.
_GREY = ("1", "L", "LA", "La")

ON_WHITE = "what is transparent was laid on white"
FIRST_FRAME = "of several frames, the first was used"
CLEAR_IS_MASKED = "what is transparent is drawn anew"
BROKEN_PROFILE = "its colour profile cannot be used, sRGB was assumed"


def is_plain(opened: Image.Image) -> bool:
    """Whether this decoded file is already what `normalised` would give."""
    return (
        opened.mode == "RGB"
        and "transparency" not in opened.info
        and not opened.info.get("icc_profile")
        and _orientation(opened) not in _TURNS
        and getattr(opened, "n_frames", 1) == 1
    )


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, what is transparent laid on white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    whole = picture.convert("RGBA")
    return Image.composite(whole.convert("RGB"), Image.new("RGB", whole.size, "white"), whole.getchannel("A"))


def normalised(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture, decoded, and the changes that a client may not expect. Raises Pillow's errors, `ValueError`."""
    # First, as reading EXIF data also decodes, and there errors are passed over.
    opened.load()
    notes: list[str] = []
    if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
        notes.append(FIRST_FRAME)
    orientation = _orientation(opened)
    profile = opened.info.get("icc_profile")
    picture, alpha = _split(opened)
    if profile:
        try:
            picture = _to_srgb(picture, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append(BROKEN_PROFILE)
    picture = picture.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
        notes.append(ON_WHITE)
    # By hand: Pillow's own function writes the EXIF data anew, and fails on tags that it reads but cannot write.
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    # A copy without `info`: no profile and no EXIF data is written with it again.
    picture.info = {}
    return picture, notes


def mask_of(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture as a mask of one channel, white where it is to be drawn anew, and how that was found out. Raises as `normalised` does.

    In a picture with transparency that is where it is transparent, as OpenAI's API has it; else where it is white.
    """
    upright, _ = normalised(opened)
    _, alpha = _split(opened)
    if alpha is None or alpha.getextrema() == (255, 255):
        return upright.convert("L"), []
    orientation = _orientation(opened)
    masked = alpha.point(lambda value: 255 - value)
    return masked.transpose(_TURNS[orientation]) if orientation in _TURNS else masked, [CLEAR_IS_MASKED]


def _orientation(opened: Image.Image) -> int:
    """EXIF's orientation; 1, upright, where the data cannot be read."""
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    except Exception:
        return 1


def _split(opened: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours in eight bits (L, RGB or CMYK), and the opacity if there is one."""
    mode = opened.mode
    if mode in _DEEP:
        return _eight_bits(opened)
    if mode == "F":
        raise ValueError("its samples are floating point, of no known range")
    if opened.has_transparency_data:
        whole = opened.convert("RGBA")
        # Grey stays grey: its profile, if there is one, is of grey.
        return whole.convert("L" if mode in _GREY else "RGB"), whole.getchannel("A")
    if mode in ("L", "RGB", "CMYK"):
        return opened.copy(), None
    return opened.convert("L" if mode in _GREY else "RGB"), None


def _eight_bits(opened: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    whole = opened.convert("I")
    low, high = whole.getextrema()
    if not isinstance(low, int) or not isinstance(high, int) or low < 0 or high > _DEEPEST:
        raise ValueError(f"its samples lie between {low} and {high}; 0 to {_DEEPEST} is expected")
    grey = whole.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    clear = opened.info.get("transparency")
    if not isinstance(clear, int):
        return grey, None
    # Samples equal to the key are transparent: each difference of one becomes a whole step of eight bits.
    apart = whole.point(lambda value: value * 255 + -clear * 255)
    below = whole.point(lambda value: value * -255 + clear * 255)
    return grey, Image.composite(apart.convert("L"), below.convert("L"), _positive(apart))


def _positive(picture: Image.Image) -> Image.Image:
    return picture.convert("L").point(lambda value: 255 if value else 0)


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """The picture's colours in sRGB. Raises `PyCMSError` where the profile is broken or of other channels."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space == "RGB" and picture.mode == "L":
        picture = picture.convert("RGB")
    converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return picture if converted is None else converted
