"""Defaults of each family of diffusers pipelines, by the name of its class: sizes, steps and scales that its authors use.

The first row whose pattern matches the beginning of the class name counts, so special cases stand before general ones. Sources: the
defaults in the pipelines of diffusers 0.42 and the examples in their documentation. A `guidance_scale` of None leaves the
pipeline's own. Spatial and temporal compression are read from the model's configs; the numbers here stand in where those are silent.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from broker.wire.jobspec import Defaults, MediaKind


class Family(Struct, frozen=True, kw_only=True):
    """Pipelines whose class names begin alike."""

    pattern: str
    output: MediaKind
    defaults: Defaults
    #: Compression of the VAE, where its config has none.
    spatial: int = 8
    temporal: int = 4
    #: Latent pixels a token side, where the transformer's config has 1 and the pipeline packs by itself.
    pack: int = 1
    #: What the pipeline demands of sides, whatever the VAE.
    side_multiple: int = 8
    #: Whether frame counts must be temporal x k + 1.
    whole_latents: bool = True
    #: Frames of the windows in which a clip is drawn, and of the shortest clip; 0 where it is drawn as one.
    window: int = 0
    shortest: int = 1
    #: Whether a clip is of whole windows, cut to temporal x k + 1 at its end.
    whole_windows: bool = False
    #: The only frame count there is; 0 where there are others.
    only: int = 0
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
    # Each segment begins with the last frame of the one before, also the first, so one frame leaves nothing to draw.
    _video("WanAnimate", "1280x720x77", 30, 20, 1.0, tokens=512, pack=2, side_multiple=16, shortest=5),
    _video("WanPipeline", "832x480x81", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16, also_image=True),
    _video("Wan", "832x480x81", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("LucyEdit", "832x480x81", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    # The picture is the first latent frame, and the steps are those of the others.
    _video(
        "SkyReelsV2DiffusionForcingImageToVideo",
        "960x544x97",
        24,
        50,
        5.0,
        tokens=512,
        pack=2,
        side_multiple=16,
        shortest=5,
    ),
    # Half of it, or less, is the end of the clip that it goes on from.
    _video(
        "SkyReelsV2DiffusionForcingVideoToVideo",
        "960x544x97",
        24,
        50,
        6.0,
        tokens=512,
        pack=2,
        side_multiple=16,
        shortest=5,
    ),
    _video("SkyReelsV2.*ImageToVideo", "960x544x97", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("SkyReelsV2", "960x544x97", 24, 50, 6.0, tokens=512, pack=2, side_multiple=16),
    _video("AnyFlow", "832x480x81", 16, 50, 1.0, tokens=512, pack=2, side_multiple=16),
    # Without its temporal reasoning this editor draws five frames, whatever is requested.
    _video("ChronoEdit", "832x480x5", 16, 50, 5.0, tokens=512, pack=2, side_multiple=16, only=5),
    _video("SanaVideo|SanaImageToVideo", "832x480x81", 16, 50, 6.0, tokens=300, side_multiple=32),
    _video("LTX2", "768x512x121", 24, 30, 3.0, tokens=1024, spatial=32, temporal=8, side_multiple=32),
    _video("LTX", "704x512x161", 25, 50, 3.0, tokens=128, spatial=32, temporal=8, side_multiple=32),
    _video("CogVideoX", "720x480x49", 8, 50, 6.0, tokens=226, pack=2, side_multiple=16),
    _video("ConsisID", "720x480x49", 8, 50, 6.0, tokens=226, pack=2, side_multiple=16),
    _video("HunyuanVideo15", "832x480x121", 24, 50, None, spatial=16, side_multiple=16),
    _video(
        "HunyuanVideoImageToVideo|HunyuanSkyreels", "1280x720x129", 24, 50, None, tokens=256, pack=2, side_multiple=16
    ),
    _video(
        "HunyuanVideoFramepack",
        "1280x720x145",
        24,
        50,
        6.0,
        tokens=256,
        pack=2,
        side_multiple=16,
        window=36,
        shortest=37,
    ),
    _video("HunyuanVideo", "1280x720x129", 24, 50, 6.0, tokens=256, pack=2, side_multiple=16),
    # It evens out the first four latent frames by those after them; without any, the clip is black.
    _video("Kandinsky5I2V", "768x512x121", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16, shortest=17),
    _video("Kandinsky5T2V|Kandinsky6TI2VA", "768x512x121", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _video("Mochi", "848x480x85", 30, 64, 4.5, tokens=256, temporal=6, pack=2, side_multiple=16),
    _video("MotifVideo", "1280x736x121", 24, 50, None, tokens=512, pack=2, side_multiple=16),
    _video("EasyAnimate", "512x512x49", 8, 50, 5.0, pack=2, side_multiple=16),
    _image("Cosmos2TextToImage", 1024, 35, 7.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos2_5", "1280x704x93", 16, 36, 7.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos2", "1280x704x93", 16, 35, 7.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos3Omni", "1280x704x121", 24, 35, 6.0, tokens=512, pack=2, side_multiple=16),
    _video("Cosmos", "1280x704x121", 30, 36, 7.0, tokens=512, temporal=8, pack=2, side_multiple=16),
    # Its smallest size is a quarter of what is requested.
    _video(
        "HeliosPyramid", "640x384x129", 24, 60, 5.0, tokens=512, pack=2, side_multiple=64, window=33, whole_windows=True
    ),
    _video("Helios", "640x384x129", 24, 50, 5.0, tokens=512, pack=2, side_multiple=16, window=33, whole_windows=True),
    _video("Allegro", "1280x720x88", 15, 100, 7.5, tokens=512, pack=2, whole_latents=False, shortest=2),
    # Its decoder takes two frames or more.
    _video(
        "StableVideoDiffusion",
        "1024x576x25",
        7,
        25,
        None,
        temporal=1,
        side_multiple=64,
        whole_latents=False,
        shortest=2,
    ),
    _video("I2VGenXL", "1280x704x16", 16, 50, 9.0, temporal=1, side_multiple=64, whole_latents=False),
    _video("VideoToVideoSD", "576x320x16", 8, 50, 15.0, temporal=1, whole_latents=False),
    _video("TextToVideoSD", "576x320x16", 8, 50, 9.0, temporal=1, whole_latents=False),
    _video("AnimateDiffSDXL", "1024x1024x16", 8, 50, 5.0, temporal=1, whole_latents=False),
    _video("AnimateDiff|PIA", "512x512x16", 8, 50, 7.5, temporal=1, whole_latents=False),
    _video("Latte", "512x512x16", 8, 50, 7.5, temporal=1, whole_latents=False, only=16),
    _image("FluxKontext", 1024, 28, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("Flux2KleinKV", 1024, 4, None, tokens=512, pack=2, side_multiple=16),
    _image("Flux2", 1024, 50, 4.0, tokens=512, pack=2, side_multiple=16),
    _image("FluxFill", 1024, 50, 30.0, tokens=512, pack=2, side_multiple=16),
    _image("FluxControl(Img2Img|Inpaint)Pipeline", 1024, 28, 7.0, tokens=512, pack=2, side_multiple=16),
    _image("Flux", 1024, 28, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("StableDiffusion3", 1024, 28, 7.0, tokens=256, pack=2, side_multiple=16),
    _image("StableDiffusionXL(PAG)?Inpaint", 1024, 50, 7.5),
    _image("StableDiffusionXLInstructPix2Pix", 1024, 100, 5.0),
    _image("StableDiffusionXL", 1024, 50, 5.0),
    _image("StableDiffusionInstructPix2Pix", 512, 100, 7.5),
    # Their UNets halve what is an eighth of the image three times, the latter's to no less than two pixels.
    _image("StableDiffusionUpscale", 2048, 75, 9.0, spatial=4, side_multiple=32),
    _image("StableDiffusionLatentUpscale", 1024, 20, 0.0, side_multiple=128),
    _image("StableDiffusion", 512, 50, 7.5),
    _image("StableUnCLIP", 1024, 20, 10.0, side_multiple=16),
    _image("LatentConsistencyModel", 768, 4, 8.5),
    _image("SanaSprint", 1024, 2, 4.5, tokens=300, spatial=32, side_multiple=32),
    _image("Sana", 1024, 20, 4.5, tokens=300, spatial=32, side_multiple=32),
    _image("PixArtAlpha", 1024, 20, 4.5, tokens=120, pack=2, side_multiple=16),
    _image("PixArtSigma", 1024, 20, 4.5, tokens=300, pack=2, side_multiple=16),
    # It is trained to draw without guidance.
    _image("QwenImage21", 2048, 40, 1.0, spatial=16, side_multiple=32),
    _image("QwenImage", 1328, 50, 4.0, tokens=512, pack=2, side_multiple=16),
    _image("Chroma", 1024, 35, 5.0, tokens=512, pack=2, side_multiple=16),
    _image("Krea2", 1024, 28, 4.5, tokens=512, pack=2, side_multiple=16),
    _image("Ideogram4", 2048, 48, None, tokens=2048, pack=2, side_multiple=16),
    _image("ErnieImage", 1024, 50, 4.0, pack=2, side_multiple=16),
    _image("GlmImage", 1024, 50, 1.5, tokens=2048, pack=2, side_multiple=32),
    _image("LongCatImage", 1024, 50, 4.5, pack=2, side_multiple=16),
    _image("OvisImage", 1024, 50, 5.0, tokens=256, pack=2, side_multiple=16),
    _image("NucleusMoEImage", 1024, 50, 4.0, pack=2, side_multiple=16),
    _image("BriaFibo2", 1024, 30, 5.0, pack=2, side_multiple=16),
    _image("Bria", 1024, 30, 5.0, side_multiple=16),
    _image("DreamLiteMobile", 1024, 4, None, tokens=200, pack=2, side_multiple=16),
    _image("DreamLite", 1024, 30, 3.5, tokens=200, pack=2, side_multiple=16),
    _image("PRX", 1024, 28, 4.0, pack=2, side_multiple=16),
    _image("JoyImageEditPlus", 1024, 30, 4.0, tokens=4096, pack=2, side_multiple=16),
    _image("JoyImageEdit", 1024, 40, 4.0, tokens=4096, pack=2, side_multiple=16),
    _image("ZImage", 1024, 50, 5.0, tokens=512, pack=2, side_multiple=16),
    _image("HiDreamImage", 1024, 50, 5.0, tokens=128, pack=2, side_multiple=16),
    _image("HunyuanImage", 2048, 50, None, spatial=32, side_multiple=32),
    _image("HunyuanDiT", 1024, 50, 5.0, pack=2, side_multiple=16),
    _image("CogView4", 1024, 50, 5.0, tokens=1024, pack=2, side_multiple=32),
    _image("CogView3", 1024, 50, 5.0, tokens=224, pack=2, side_multiple=16),
    _image("Lumina2", 1024, 30, 4.0, tokens=256, pack=2, side_multiple=16),
    _image("Lumina", 1024, 30, 4.0, side_multiple=16),
    _image("OmniGen", 1024, 50, 2.5, side_multiple=16),
    _image("Amused", 1024, 12, 10.0, side_multiple=16),
    _image("IFImg2Img", 1024, 80, 10.0, side_multiple=16),
    _image("IFInpainting", 1024, 50, 7.0, side_multiple=16),
    _image("IF", 1024, 100, 7.0, side_multiple=16),
    _image("StableCascade|Wuerstchen", 1024, 12, None, side_multiple=16),
    _image("VQDiffusion", 1024, 100, 5.0, side_multiple=16),
    _image("AuraFlow", 1024, 50, 3.5, tokens=256, pack=2, side_multiple=16),
    _image("Kolors", 1024, 50, 5.0, tokens=256),
    _image("Kandinsky5T2I|Kandinsky5I2I", 1024, 50, 3.5, tokens=512, pack=2, side_multiple=16),
    _image("Kandinsky3", 1024, 25, 3.0, side_multiple=64),
    _image("Kandinsky", 512, 100, 4.0, side_multiple=64),
)

#: What is not known above: the pipeline's own scale, a size that most can draw.
_OTHER_VIDEO = _video("", "512x512x17", 8, 50, None, side_multiple=16)
_OTHER_IMAGE = _image("", 1024, 50, None, side_multiple=16)


def family_of(pipeline: str, *, clips: bool) -> Family:
    """The family of this class name; unknown names get a general one, of clips or of pictures."""
    known = next((family for family in FAMILIES if re.match(family.pattern, pipeline)), None)
    return known or (_OTHER_VIDEO if clips else _OTHER_IMAGE)
