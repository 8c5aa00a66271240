"""What each family of diffusers pipelines draws best, by the name of its class: sizes, steps and scales that its authors use.

The first row whose pattern matches the beginning of the class name counts, so special cases stand before general ones. Sources: the
defaults in the pipelines of diffusers 0.42 and the examples in their documentation. A `guidance_scale` of None leaves the
pipeline's own. Spatial and temporal compression are read from the model's configs; the numbers here stand in where those are silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import Defaults, MediaKind

#: Pipelines that cannot be run with what a job carries, and what they would need.
_UNFIT = (
    (r".*Inpaint|.*Fill|RePaint|PaintByExample", "a mask"),
    (r".*Control|.*Adapter|.*GLIGEN|.*VisualCloze|.*Redux", "a control image"),
    (r".*VideoToVideo|.*Video2Video|.*VideoTransfer|.*V2V|LucyEdit|WanAnimate|Cosmos2_5_Transfer|LTX2?InContext|.*Kandinsky6SR", "a video"),
    (r".*Upscale|.*Upsample|.*SuperResolution|.*Refiner|.*TemporalRefine|.*DiffusionDecode|Marigold|.*Depth2Img", "something to refine"),
    (r".*Prior|.*Decoder|LTXI2VLong|SanaWM|LTX2HDR|LTX2DFR", "another pipeline around it"),
    (r".*Audio|.*Music|AceStep|Spectrogram|ShapE|RFD4|LLaDA|DiffusionGemma", "an output that is neither video nor image"),
)  # fmt: skip

_NEEDS_IMAGE = (
    r".*(ImageToVideo|Image2Video|I2V|Img2Img|I2I|ImageVariation|InstructPix2Pix|Framepack)"
    r"|StableVideoDiffusion|ConsisID|PIA|ChronoEdit|JoyImageEdit|QwenImageEdit|QwenImageLayered|LongCatImageEdit|BriaFiboEdit"
)
_TAKES_IMAGE = (
    r"FluxKontext|Flux2|QwenImage21|GlmImage|DreamLite|Helios|Cosmos.*(World|Predict|Omni)|Kandinsky6TI2VA|LTXCondition"
    r"|ZImageOmni|BriaFibo2"
)


class Family(Struct, frozen=True, kw_only=True):
    """Pipelines whose class names begin alike."""

    pattern: str
    output: MediaKind
    defaults: Defaults
    #: Compression of the VAE, where its config does not say.
    spatial: int = 8
    temporal: int = 4
    #: Latent pixels a token side, where the transformer's config says 1 and the pipeline packs by itself.
    pack: int = 1
    #: What the pipeline demands of sides, whatever the VAE.
    side_multiple: int = 8
    #: Whether frame counts must be temporal x k + 1.
    whole_latents: bool = True
    #: Whether a clip of one frame is a picture worth having: such models were trained on images beside videos.
    also_image: bool = False


def _video(pattern: str, size: str, fps: float, steps: int, guidance: float | None, **more: object) -> Family:
    """`size` is width x height x frames."""
    width, height, frames = (int(part) for part in size.split("x"))
    tokens = more.pop("tokens", None)
    values = {
        "pattern": pattern,
        "output": "video",
        "defaults": Defaults(
            width=width,
            height=height,
            num_frames=frames,
            fps=fps,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=tokens if isinstance(tokens, int) else None,
        ),
        **more,
    }
    return msgspec.convert(values, Family)


def _image(pattern: str, side: int, steps: int, guidance: float | None, **more: object) -> Family:
    """A square of `side`."""
    family = _video(pattern, f"{side}x{side}x1", 1, steps, guidance, **more)
    return msgspec.structs.replace(family, output="image", temporal=1)


#: `tokens` is `max_sequence_length`.
FAMILIES = (
    _video("WanImageToVideo", "832x480x81", 16, 40, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("WanPipeline", "832x480x81", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16, also_image=True),
    _video("Wan", "832x480x81", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("SkyReelsV2.*ImageToVideo", "960x544x97", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("SkyReelsV2", "960x544x97", 24, 50, 6.0, tokens=512, pack=2, side_multiple=16),
    _video("AnyFlow", "832x480x81", 16, 50, 1.0, tokens=512, pack=2, side_multiple=16),
    _video("ChronoEdit", "832x480x81", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("SanaVideo|SanaImageToVideo", "832x480x81", 16, 50, 6.0, tokens=300, side_multiple=32),
    _video("LTX2", "768x512x121", 24, 30, 3.0, tokens=1024, spatial=32, temporal=8, side_multiple=32),
    _video("LTX", "704x512x161", 25, 50, 3.0, tokens=128, spatial=32, temporal=8, side_multiple=32),
    _video("CogVideoX", "720x480x49", 8, 50, 6.0, tokens=226, pack=2, side_multiple=16),
    _video("ConsisID", "720x480x49", 8, 50, 6.0, tokens=226, pack=2, side_multiple=16),
    _video("HunyuanVideo15", "832x480x121", 24, 50, None, spatial=16, side_multiple=16),
    _video(
        "HunyuanVideoImageToVideo|HunyuanSkyreels", "1280x720x129", 24, 50, None, tokens=256, pack=2, side_multiple=16
    ),
    _video("HunyuanVideo", "1280x720x129", 24, 50, 6.0, tokens=256, pack=2, side_multiple=16),
    _video("Kandinsky5(T2V|I2V)|Kandinsky6TI2VA", "768x512x121", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("Mochi", "848x480x85", 30, 64, 4.5, tokens=256, temporal=6, pack=2, side_multiple=16),
    _video("MotifVideo", "1280x736x121", 24, 50, None, tokens=512, pack=2, side_multiple=16),
    _video("EasyAnimate", "512x512x49", 8, 50, 5.0, pack=2, side_multiple=16),
    _image("Cosmos2TextToImage", 1024, 35, 7.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos2", "1280x704x93", 16, 35, 7.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos", "1280x704x121", 30, 36, 7.0, tokens=512, temporal=8, pack=2, side_multiple=16),
    _video("Helios", "640x384x132", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16, whole_latents=False),
    _video("Allegro", "1280x720x88", 15, 100, 7.5, tokens=512, pack=2, whole_latents=False),
    _video("StableVideoDiffusion", "1024x576x25", 7, 25, None, temporal=1, side_multiple=64, whole_latents=False),
    _video("AnimateDiffSDXL", "1024x1024x16", 8, 50, 5.0, temporal=1, whole_latents=False),
    _video("AnimateDiff|PIA|Latte", "512x512x16", 8, 50, 7.5, temporal=1, whole_latents=False),
    _image("FluxKontext", 1024, 28, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("Flux2", 1024, 50, 4.0, tokens=512, pack=2, side_multiple=16),
    _image("Flux", 1024, 28, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("StableDiffusion3", 1024, 28, 7.0, tokens=256, pack=2, side_multiple=16),
    _image("StableDiffusionXL", 1024, 50, 5.0),
    _image("StableDiffusion", 512, 50, 7.5),
    _image("LatentConsistencyModel", 768, 4, 8.5),
    _image("SanaSprint", 1024, 2, 4.5, tokens=300, spatial=32, side_multiple=32),
    _image("Sana", 1024, 20, 4.5, tokens=300, spatial=32, side_multiple=32),
    _image("PixArtAlpha", 1024, 20, 4.5, tokens=120, pack=2, side_multiple=16),
    _image("PixArtSigma", 1024, 20, 4.5, tokens=300, pack=2, side_multiple=16),
    _image("QwenImage", 1328, 50, 4.0, tokens=512, pack=2, side_multiple=16),
    _image("Chroma", 1024, 35, 5.0, tokens=512, pack=2, side_multiple=16),
    _image("ZImage", 1024, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _image("HiDreamImage", 1024, 50, 5.0, tokens=128, pack=2, side_multiple=16),
    _image("HunyuanImage", 2048, 50, None, spatial=32, side_multiple=32),
    _image("HunyuanDiT", 1024, 50, 5.0, pack=2, side_multiple=16),
    _image("CogView4", 1024, 50, 5.0, tokens=1024, pack=2, side_multiple=32),
    _image("CogView3", 1024, 50, 5.0, tokens=224, pack=2, side_multiple=16),
    _image("Lumina2", 1024, 30, 4.0, tokens=256, pack=2, side_multiple=16),
    _image("AuraFlow", 1024, 50, 3.5, tokens=256, pack=2, side_multiple=16),
    _image("Kolors", 1024, 50, 5.0, tokens=256),
    _image("Kandinsky5T2I|Kandinsky5I2I", 1024, 50, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("Kandinsky3", 1024, 25, 3.0),
    # What is not known above: the pipeline's own scale, a size that most can draw.
    _video(".*(Video|T2V|I2V)", "512x512x17", 8, 50, None, side_multiple=16),
    _image("", 1024, 50, None, side_multiple=16),
)


def family_of(pipeline: str) -> Family:
    """The family of this class name; unknown names get a general one."""
    return next(family for family in FAMILIES if re.match(family.pattern, pipeline))


def what_is_missing(pipeline: str) -> str:
    """What this pipeline would need that a job does not carry; "" when it can be run."""
    return next((needs for pattern, needs in _UNFIT if re.match(pattern, pipeline)), "")


def image_use(pipeline: str, index: Mapping[str, Any]) -> tuple[bool, bool]:
    """(whether the pipeline of this class and `model_index.json` takes an image, whether it must have one)."""
    needs = re.match(_NEEDS_IMAGE, pipeline) is not None
    both = pipeline == "WanPipeline" and index.get("expand_timesteps") is True  # see `engine.siblings`
    return needs or both or re.match(_TAKES_IMAGE, pipeline) is not None, needs
