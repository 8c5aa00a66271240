"""The classes of the suite, and for each what is known of it: what it draws, from what, and which fields of a job have no effect on it.

Plain data without torch: the checks (`test_families.py`) hold the product to it, and `printed` makes the tables of `docs/models.md` of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from broker.wire.inputs import ROLES

#: What is checked for each class, and what the documents say of it.
CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "card": "the card says what it draws, whether from a picture, and which frame counts there are",
        "size": "width, height and number of frames are those that were asked for, in the raw frames and in the file's header",
        "shape": "so they are for a portrait, another number of frames and of steps",
        "picture": "another picture changes what is drawn; a job without one, or with one too many, is refused in one sentence",
        "inputs": "another last frame, further image, mask, control image or clip changes what is drawn; a job without one that is "
        "needed, or with one too many, is refused in one sentence",
        "progress": "steps only go forward and reach the last",
        "seed": "one seed gives the same raw frames each time, another seed others",
        "bfloat16": "it is drawn in bfloat16 too, which is the dtype on a GPU",
        "cancel": "a cancel during encode and denoise stops the job; weights, buffers, scheduler and the next job are bit-equal",
        "resume": "a job goes on from a checkpoint and ends as the one that was never interrupted, bit for bit; or the card says that "
        "it begins anew",
        "outputs": "several outputs differ, and each is the one that its seed gives alone",
        "overlap": "a job whose tail runs beside the front of the next is the one that is drawn alone, and so is the next",
        "negative_prompt": "it changes the picture, or the card says that it does not",
        "guidance": "the scale changes the picture, or the card says that it does not",
        "guidance_2": "a second scale never fails a job; it changes the picture where there is a second expert",
        "max_sequence_length": "a short one is taken",
        "lora": "LoRAs are taken or refused in one sentence; of one class for each of diffusers' loaders: a LoRA of its attention changes "
        "what is drawn, and the next job without it is bit-equal to the one before",
        "sound": "a clip has sound exactly as long as its pictures, or the card says that there is none",
    }
)  # fmt: skip

Check = str


#: Checks of what a class must do at all: those that cases are held to that are `brief`.
CORE: tuple[Check, ...] = ("card", "size", "picture", "inputs", "progress", "seed", "bfloat16", "cancel")


class Case(Struct, frozen=True, kw_only=True):
    """A class of diffusers pipelines."""

    name: str
    #: The module `build_….py` that makes one.
    build: str
    #: Which of its builders, where one class serves models that differ; part of the case's name.
    variant: str = ""
    output: Literal["video", "image"] = "video"
    #: Whether it draws from a prompt; without one nothing is encoded.
    prompt: bool = True
    #: Whether the prompt is encoded before the first step; else the denoiser reads it itself.
    encodes: bool = True
    #: Whether a picture may or must be given.
    picture: Literal["no", "may", "must"] = "no"
    #: Roles of further media that it needs, and those that it takes besides.
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    #: Frame counts are `frame_step` x k + `frame_offset`, or one of `frame_choices`.
    frame_step: int = 1
    frame_offset: int = 1
    frame_least: int = 1
    frame_choices: tuple[int, ...] = ()
    #: Fields of a job without effect on what is drawn; the card says so.
    without: tuple[Literal["negative_prompt", "guidance_scale", "size"], ...] = ()
    #: Whether it has a second expert, with a scale of its own.
    experts: bool = False
    #: Whether it skips the first steps of a picture, by `extra.strength`.
    strength: bool = False
    #: Whether its clips can have sound; and what of a job's `extra` asks for it, where they do not have it by themselves.
    sound: bool = False
    sound_by: str = ""
    #: Held to `CORE` alone on every change, as the time of tests is short; to every check with FAMILIES=all in the environment.
    brief: bool = False
    #: Whether it is drawn with a LoRA here: one class for each of diffusers' loaders.
    lora: bool = False
    #: What every job's `extra` must say.
    extra: Mapping[str, Any] = MappingProxyType({})
    #: Steps of a short job: its scheduler takes no fewer.
    steps: int = 2
    #: Package that it needs and that is not had for every torch: it is held to the checks where that is installed.
    package: str = ""
    #: What it draws is served under conditions, in words.
    note: str = ""
    #: Checks that fail, and why. Each must fail: what is mended is struck off here.
    faults: Mapping[Check, str] = MappingProxyType({})

    @property
    def label(self) -> str:
        """Name of the case in tests and documents."""
        return f"{self.name}, {self.variant}" if self.variant else self.name

    def uses(self, kind: str) -> bool:
        """Whether a role of its inputs is of this kind."""
        return any(ROLES[role].kind == kind for role in (*self.needs, *self.takes))


def _briefly(build: str, *names: str, **known: Any) -> tuple[Case, ...]:
    return tuple(Case(name=name, build=build, brief=True, **known) for name in names)


_STEERED: dict[str, Any] = {"output": "image", "needs": ("control_image",)}
_OVER_PICTURE: dict[str, Any] = {"output": "image", "picture": "must", "needs": ("mask_image",)}
_STEERED_OVER: dict[str, Any] = {"output": "image", "picture": "must", "needs": ("control_image",)}
_STEERED_INTO: dict[str, Any] = {"output": "image", "picture": "must", "needs": ("control_image", "mask_image")}

_OF_KINDS: dict[str, Any] = {
    "extra": MappingProxyType({"control_mode": 1}),
    "note": "needs `extra.control_mode`, the kind of the control image by the model's own count",
}
_SIGHTED: dict[str, Any] = {"output": "image", "package": "torchvision"}

#: What is built on the parts of families above.
_BRIEF: tuple[Case, ...] = (
    *_briefly(
        "controls",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionControlNetXSPipeline",
        "StableDiffusionXLControlNetXSPipeline",
        "StableDiffusionAdapterPipeline",
        "StableDiffusionXLAdapterPipeline",
        "StableDiffusion3ControlNetPipeline",
        "FluxControlNetPipeline",
        "QwenImageControlNetPipeline",
        "ZImageControlNetPipeline",
        "SanaControlNetPipeline",
        "HunyuanDiTControlNetPipeline",
        "CogView4ControlPipeline",
        **_STEERED,
    ),
    *_briefly(
        "controls",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        strength=True,
        **_STEERED_OVER,
    ),
    *_briefly(
        "controls", "FluxControlNetImg2ImgPipeline", strength=True, without=("negative_prompt",), **_STEERED_OVER
    ),
    *_briefly(
        "controls",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        strength=True,
        **_STEERED_INTO,
    ),
    *_briefly(
        "controls", "FluxControlNetInpaintPipeline", strength=True, without=("negative_prompt",), **_STEERED_INTO
    ),
    *_briefly("controls", "ZImageControlNetInpaintPipeline", **_STEERED_INTO),
    *_briefly(
        "controls",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "QwenImageControlNetInpaintPipeline",
        **_OVER_PICTURE,
    ),
    *_briefly("controls", "StableDiffusionXLControlNetUnionPipeline", **_OF_KINDS, **_STEERED),
    *_briefly(
        "controls", "StableDiffusionXLControlNetUnionImg2ImgPipeline", strength=True, **_OF_KINDS, **_STEERED_OVER
    ),
    *_briefly(
        "controls", "StableDiffusionXLControlNetUnionInpaintPipeline", strength=True, **_OF_KINDS, **_STEERED_INTO
    ),
    *_briefly("controls", "AnimateDiffControlNetPipeline", needs=("control_video",)),
    *_briefly("controls", "AnimateDiffVideoToVideoControlNetPipeline", needs=("control_video", "video"), strength=True),
    *_briefly("controls", "VideoToVideoSDPipeline", needs=("video",), strength=True),
    *_briefly(
        "masks",
        "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusion3InpaintPipeline",
        "FluxKontextInpaintPipeline",
        "IFInpaintingPipeline",
        strength=True,
        **_OVER_PICTURE,
    ),
    *_briefly("masks", "Flux2KleinInpaintPipeline", strength=True, without=("negative_prompt",), **_OVER_PICTURE),
    *_briefly(
        "wan", "SkyReelsV2DiffusionForcingVideoToVideoPipeline", needs=("start_video",), frame_step=4, frame_least=5
    ),
    *_briefly(
        "ltx",
        "LTX2InContextPipeline",
        picture="may",
        needs=("control_video",),
        takes=("last_image", "start_video"),
        frame_step=8,
        sound=True,
        extra=MappingProxyType(
            {"stg_scale": 0.0, "audio_stg_scale": 0.0}
        ),  # it would perturb layers that the tiny model lacks
        note="made for LoRAs that look at the control video (IC-LoRA)",
    ),
    *_briefly("upscalers", "StableDiffusionUpscalePipeline", output="image", picture="must"),
    *_briefly("upscalers", "StableDiffusionLatentUpscalePipeline", output="image", picture="must"),
    *_briefly("masks", "KandinskyInpaintCombinedPipeline", "KandinskyV22InpaintCombinedPipeline", **_OVER_PICTURE),
    *_briefly("masks", "FluxControlImg2ImgPipeline", strength=True, without=("negative_prompt",), **_STEERED_OVER),
    *_briefly("rarer", "AmusedPipeline", "BriaFiboPipeline", "NucleusMoEImagePipeline", output="image"),
    *_briefly("rarer", "AmusedImg2ImgPipeline", output="image", picture="must"),
    *_briefly("rarer", "AmusedInpaintPipeline", **_OVER_PICTURE),
    *_briefly("rarer", "Ideogram4Pipeline", output="image", without=("negative_prompt",)),
    *_briefly(
        "rarer",
        "LDMPipeline",
        "ScoreSdeVePipeline",
        output="image",
        prompt=False,
        without=("negative_prompt", "guidance_scale", "size"),
    ),
    *_briefly(
        "deprecated",
        "PNDMPipeline",
        output="image",
        prompt=False,
        steps=4,
        without=("negative_prompt", "guidance_scale", "size"),
    ),
    *_briefly(
        "deprecated",
        "StableDiffusionModelEditingPipeline",
        "StableDiffusionParadigmsPipeline",
        "StableDiffusionPipelineSafe",
        output="image",
    ),
    *_briefly("editors", "QwenImageEditPipeline", output="image", picture="must", package="torchvision"),
    *_briefly(
        "editors",
        "QwenImageEditPlusPipeline",
        output="image",
        picture="must",
        takes=("reference_images",),
        package="torchvision",
    ),
    *_briefly(
        "editors",
        "QwenImageEditInpaintPipeline",
        strength=True,
        without=("size",),
        package="torchvision",
        **_OVER_PICTURE,
    ),
    *_briefly("sighted", "LongCatImagePipeline", **_SIGHTED),
    *_briefly("sighted", "LongCatImageEditPipeline", picture="must", without=("size",), **_SIGHTED),
    *_briefly("sighted", "Kandinsky5I2IPipeline", "JoyImageEditPipeline", picture="must", **_SIGHTED),
    *_briefly("sighted", "JoyImageEditPlusPipeline", picture="must", takes=("reference_images",), **_SIGHTED),
    *_briefly("sighted", "QwenImage21Pipeline", picture="may", takes=("reference_images",), **_SIGHTED),
    *_briefly("sighted", "DreamLitePipeline", picture="may", **_SIGHTED),
    *_briefly(
        "sighted", "DreamLiteMobilePipeline", picture="may", without=("negative_prompt", "guidance_scale"), **_SIGHTED
    ),
    *_briefly("sighted", "BriaFibo2Pipeline", picture="may", takes=("reference_images", "mask_image"), **_SIGHTED),
    *_briefly(
        "sighted",
        "OmniGenPipeline",
        encodes=False,
        picture="may",
        takes=("reference_images",),
        without=("negative_prompt",),
        **_SIGHTED,
    ),
    *_briefly(
        "sighted",
        "GlmImagePipeline",
        without=("negative_prompt",),
        note="its pictures are not taken: diffusers 0.42 fails on them with transformers 5.23",
        **_SIGHTED,
    ),
    *_briefly("editors", "ZImageOmniPipeline", output="image", picture="may", takes=("reference_images",)),
    *_briefly(
        "editors",
        "BriaFiboEditPipeline",
        output="image",
        picture="must",
        takes=("mask_image",),
        note="a prompt in words is its `edit_instruction`",
    ),
    *_briefly("deprecated", "StableDiffusionInpaintPipelineLegacy", strength=True, **_OVER_PICTURE),
    *_briefly("masks", "FluxControlInpaintPipeline", strength=True, without=("negative_prompt",), **_STEERED_INTO),
)

CASES: tuple[Case, ...] = (
    Case(name="WanPipeline", build="wan", frame_step=4, lora=True),
    Case(name="WanPipeline", variant="two experts", build="wan", frame_step=4, experts=True, lora=True),
    Case(name="WanPipeline", variant="text or picture", build="wan", frame_step=4, picture="may"),
    Case(name="WanImageToVideoPipeline", build="wan", picture="must", frame_step=4),
    Case(
        name="WanImageToVideoPipeline",
        variant="two experts",
        build="wan",
        picture="must",
        takes=("last_image",),
        frame_step=4,
        experts=True,
    ),
    Case(
        name="WanImageToVideoPipeline",
        variant="first and last frame",
        build="inputs",
        picture="must",
        needs=("last_image",),
        frame_step=4,
    ),
    Case(name="WanVideoToVideoPipeline", build="inputs", needs=("video",), frame_step=4, strength=True),
    Case(
        name="WanVACEPipeline",
        build="wan",
        takes=("reference_images", "mask_image", "video", "mask_video"),
        frame_step=4,
    ),
    Case(
        name="WanAnimatePipeline",
        build="inputs",
        picture="must",
        needs=("pose_video", "face_video"),
        takes=("background_video", "mask_video"),
        frame_step=4,
        frame_least=5,
    ),
    Case(name="LucyEditPipeline", build="inputs", needs=("video",), frame_step=4),
    Case(name="SkyReelsV2Pipeline", build="wan", frame_step=4, lora=True),
    Case(name="SkyReelsV2ImageToVideoPipeline", build="wan", picture="must", frame_step=4),
    Case(name="SkyReelsV2DiffusionForcingPipeline", build="wan", frame_step=4),
    Case(name="LTXPipeline", build="ltx", frame_step=8, lora=True),
    Case(name="LTXImageToVideoPipeline", build="ltx", picture="must", frame_step=8),
    Case(name="LTXConditionPipeline", build="ltx", picture="may", takes=("last_image", "start_video"), frame_step=8),
    Case(name="CogVideoXPipeline", build="cogvideox", frame_step=8, lora=True),
    Case(name="CogVideoXImageToVideoPipeline", build="cogvideox", picture="must", frame_step=8),
    Case(name="CogVideoXVideoToVideoPipeline", build="inputs", needs=("video",), frame_step=8, strength=True),
    Case(name="CogVideoXFunControlPipeline", build="inputs", needs=("control_video",), frame_step=8),
    Case(name="HunyuanVideoPipeline", build="hunyuan", frame_step=4, lora=True),
    Case(
        name="HunyuanVideoFramepackPipeline",
        build="hunyuan",
        picture="must",
        takes=("last_image",),
        frame_step=36,
        frame_least=37,
    ),
    Case(name="HunyuanVideo15Pipeline", build="hunyuan", frame_step=4),
    Case(name="HunyuanVideo15ImageToVideoPipeline", build="hunyuan", picture="must", frame_step=4, without=("size",)),
    Case(name="MochiPipeline", build="videos", frame_step=6, lora=True),
    Case(name="AllegroPipeline", build="videos", frame_least=2),
    Case(name="LattePipeline", build="videos", frame_choices=(16,)),
    Case(
        name="StableVideoDiffusionPipeline",
        build="videos",
        picture="must",
        frame_least=2,
        without=("negative_prompt",),
    ),
    Case(name="AnimateDiffPipeline", build="videos"),
    Case(name="AnimateDiffVideoToVideoPipeline", build="inputs", needs=("video",), strength=True),
    Case(name="LTX2Pipeline", build="ltx", frame_step=8, sound=True),
    Case(name="LTX2ImageToVideoPipeline", build="ltx", picture="must", frame_step=8, sound=True),
    Case(name="AnimateDiffSDXLPipeline", build="videos"),
    Case(name="EasyAnimatePipeline", build="videos", frame_step=4),
    Case(name="ChronoEditPipeline", build="wan", picture="must", frame_choices=(5,)),
    Case(name="AnyFlowPipeline", build="wan", frame_step=4),
    Case(
        name="HeliosPipeline",
        build="wan",
        picture="may",
        takes=("start_video",),
        frame_choices=(33, 65, 97, 129, 165, 197, 229),
        lora=True,
    ),
    Case(name="HunyuanSkyreelsImageToVideoPipeline", build="hunyuan", picture="must", frame_step=4),
    Case(name="Kandinsky5T2VPipeline", build="kandinsky", frame_step=4),
    Case(name="Kandinsky5I2VPipeline", build="kandinsky", picture="must", frame_step=4, frame_least=17),
    Case(
        name="Cosmos3OmniPipeline",
        build="cosmos",
        picture="may",
        takes=("start_video",),
        frame_step=4,
        sound=True,
        sound_by="enable_sound",
        note="its `cosmos_guardrail` is needed unless `enable_safety_checker` is false in `model_index.json`",
    ),
    Case(name="Kandinsky6TI2VAPipeline", build="kandinsky", picture="may", frame_step=4, sound=True),
    Case(name="Kandinsky6TI2VAPipeline", variant="from text, silent", build="kandinsky", frame_step=4),
    Case(
        name="AnyFlowFARPipeline", build="wan", frame_choices=(9,), note="here; as many as its `chunk_partition` says"
    ),
    Case(
        name="HunyuanVideoImageToVideoPipeline",
        build="hunyuan",
        picture="must",
        frame_step=4,
        without=("guidance_scale",),
        note="it has one where the transformer embeds it",
    ),
    Case(name="PIAPipeline", build="videos", picture="must"),
    Case(name="TextToVideoSDPipeline", build="videos"),
    Case(name="MotifVideoPipeline", build="motif", frame_step=4),
    Case(name="MotifVideoImage2VideoPipeline", build="motif", picture="must", frame_step=4),
    Case(name="SanaVideoPipeline", build="sana", frame_step=4),
    Case(name="SanaImageToVideoPipeline", build="sana", picture="must", frame_step=4),
    Case(name="FluxPipeline", build="flux", output="image", lora=True),
    Case(name="FluxImg2ImgPipeline", build="flux", output="image", picture="must", strength=True),
    Case(name="FluxKontextPipeline", build="flux", output="image", picture="may"),
    Case(
        name="FluxInpaintPipeline", build="inputs", output="image", picture="must", needs=("mask_image",), strength=True
    ),
    Case(
        name="FluxFillPipeline",
        build="inputs",
        output="image",
        picture="must",
        needs=("mask_image",),
        without=("negative_prompt",),
    ),
    Case(
        name="FluxControlPipeline",
        build="inputs",
        output="image",
        needs=("control_image",),
        without=("negative_prompt",),
    ),
    Case(
        name="Flux2KleinPipeline",
        build="flux",
        output="image",
        picture="may",
        takes=("reference_images",),
        without=("negative_prompt",),
        lora=True,
    ),
    Case(name="QwenImagePipeline", build="images", output="image", lora=True),
    Case(name="QwenImageImg2ImgPipeline", build="images", output="image", picture="must", strength=True),
    Case(
        name="QwenImageInpaintPipeline",
        build="inputs",
        output="image",
        picture="must",
        needs=("mask_image",),
        strength=True,
    ),
    Case(name="ZImagePipeline", build="images", output="image", lora=True),
    Case(
        name="ZImageInpaintPipeline",
        build="inputs",
        output="image",
        picture="must",
        needs=("mask_image",),
        strength=True,
    ),
    Case(name="ZImageImg2ImgPipeline", build="images", output="image", picture="must", strength=True),
    Case(name="ChromaPipeline", build="images", output="image"),
    Case(name="ChromaImg2ImgPipeline", build="images", output="image", picture="must", strength=True),
    Case(name="Lumina2Pipeline", build="images", output="image", lora=True),
    Case(name="PixArtAlphaPipeline", build="images", output="image"),
    Case(name="PixArtSigmaPipeline", build="images", output="image"),
    Case(name="AuraFlowPipeline", build="images", output="image", lora=True),
    Case(name="CogView3PlusPipeline", build="images", output="image"),
    Case(name="CogView4Pipeline", build="images", output="image", lora=True),
    Case(name="HiDreamImagePipeline", build="more_images", output="image", lora=True),
    Case(name="HunyuanImagePipeline", build="more_images", output="image"),
    Case(name="HunyuanDiTPipeline", build="more_images", output="image"),
    Case(name="Krea2Pipeline", build="more_images", output="image", lora=True),
    Case(name="BriaPipeline", build="more_images", output="image"),
    Case(name="OvisImagePipeline", build="more_images", output="image"),
    Case(name="LuminaPipeline", build="more_images", output="image"),
    Case(name="Kandinsky5T2IPipeline", build="kandinsky", output="image", lora=True),
    Case(name="KandinskyV22CombinedPipeline", build="kandinsky", output="image"),
    Case(name="Kandinsky3Pipeline", build="kandinsky", output="image"),
    Case(name="Kandinsky3Img2ImgPipeline", build="kandinsky", output="image", picture="must", strength=True),
    Case(name="StableDiffusionXLInstructPix2PixPipeline", build="stable_diffusion", output="image", picture="must"),
    Case(
        name="Flux2Pipeline",
        build="flux",
        output="image",
        picture="may",
        takes=("reference_images",),
        without=("negative_prompt",),
        note="its processor needs torchvision",
    ),
    Case(name="PRXPipeline", build="prx", output="image"),
    Case(name="PRXPixelPipeline", build="prx", output="image"),
    Case(name="ErnieImagePipeline", build="more_images", output="image", lora=True),
    Case(name="SanaPipeline", build="sana", output="image", lora=True),
    Case(name="SanaSprintPipeline", build="sana", output="image", without=("negative_prompt",)),
    Case(
        name="SanaSprintImg2ImgPipeline",
        build="sana",
        output="image",
        picture="must",
        without=("negative_prompt",),
    ),
    Case(name="StableDiffusionPipeline", build="stable_diffusion", output="image", lora=True),
    Case(
        name="StableDiffusionImg2ImgPipeline", build="stable_diffusion", output="image", picture="must", strength=True
    ),
    Case(
        name="StableDiffusionInpaintPipeline",
        build="inputs",
        output="image",
        picture="must",
        needs=("mask_image",),
        strength=True,
    ),
    Case(
        name="StableDiffusionXLInpaintPipeline",
        build="inputs",
        output="image",
        picture="must",
        needs=("mask_image",),
        strength=True,
    ),
    Case(name="StableDiffusionControlNetPipeline", build="inputs", output="image", needs=("control_image",)),
    Case(name="StableDiffusionInstructPix2PixPipeline", build="stable_diffusion", output="image", picture="must"),
    Case(name="StableDiffusionXLPipeline", build="stable_diffusion", output="image", lora=True),
    Case(
        name="StableDiffusionXLImg2ImgPipeline", build="stable_diffusion", output="image", picture="must", strength=True
    ),
    Case(name="StableDiffusion3Pipeline", build="stable_diffusion", output="image", lora=True),
    Case(
        name="StableDiffusion3Img2ImgPipeline", build="stable_diffusion", output="image", picture="must", strength=True
    ),
    Case(name="LatentConsistencyModelPipeline", build="stable_diffusion", output="image", without=("negative_prompt",)),
    Case(name="StableDiffusionPAGPipeline", build="perturbed", output="image"),
    Case(name="StableDiffusionPAGImg2ImgPipeline", build="perturbed", output="image", picture="must", strength=True),
    Case(name="StableDiffusionXLPAGPipeline", build="perturbed", output="image"),
    Case(name="StableDiffusionXLPAGImg2ImgPipeline", build="perturbed", output="image", picture="must", strength=True),
    Case(name="StableDiffusion3PAGPipeline", build="perturbed", output="image"),
    Case(name="StableDiffusion3PAGImg2ImgPipeline", build="perturbed", output="image", picture="must", strength=True),
    Case(name="SanaPAGPipeline", build="perturbed", output="image"),
    Case(name="PixArtSigmaPAGPipeline", build="perturbed", output="image"),
    Case(name="HunyuanDiTPAGPipeline", build="perturbed", output="image"),
    Case(name="AnimateDiffPAGPipeline", build="perturbed"),
    Case(name="KolorsPAGPipeline", build="perturbed", output="image"),
    Case(name="KolorsPipeline", build="kolors", output="image", lora=True),
    Case(name="KolorsImg2ImgPipeline", build="kolors", output="image", picture="must", strength=True),
    Case(
        name="LatentConsistencyModelImg2ImgPipeline",
        build="stable_diffusion",
        output="image",
        picture="must",
        strength=True,
        without=("negative_prompt",),
    ),
    Case(name="KandinskyCombinedPipeline", build="kandinsky", output="image"),
    Case(name="KandinskyImg2ImgCombinedPipeline", build="kandinsky", output="image", picture="must", strength=True),
    Case(name="KandinskyV22Img2ImgCombinedPipeline", build="kandinsky", output="image", picture="must", strength=True),
    Case(
        name="SkyReelsV2DiffusionForcingImageToVideoPipeline",
        build="wan",
        picture="must",
        takes=("last_image",),
        frame_step=4,
        frame_least=5,
    ),
    Case(
        name="LTX2ConditionPipeline",
        build="ltx",
        picture="may",
        takes=("last_image", "start_video"),
        frame_step=8,
        sound=True,
    ),
    Case(
        name="HeliosPyramidPipeline",
        build="wan",
        picture="may",
        takes=("start_video",),
        frame_choices=(33, 65, 97, 129, 165, 197, 229),
    ),
    Case(
        name="Flux2KleinKVPipeline",
        build="flux",
        output="image",
        picture="may",
        takes=("reference_images",),
        without=("negative_prompt", "guidance_scale"),
    ),
    Case(name="StableUnCLIPPipeline", build="priors", output="image"),
    Case(name="StableUnCLIPImg2ImgPipeline", build="priors", output="image", picture="must"),
    Case(
        name="StableDiffusionImageVariationPipeline",
        build="priors",
        output="image",
        picture="must",
        without=("negative_prompt",),
    ),
    Case(name="IFPipeline", build="pixels", output="image"),
    Case(name="IFImg2ImgPipeline", build="pixels", output="image", picture="must", strength=True, without=("size",)),
    Case(
        name="DDPMPipeline",
        build="pixels",
        output="image",
        prompt=False,
        without=("negative_prompt", "guidance_scale", "size"),
    ),
    Case(
        name="DDIMPipeline",
        build="pixels",
        output="image",
        prompt=False,
        without=("negative_prompt", "guidance_scale", "size"),
    ),
    Case(
        name="ConsistencyModelPipeline",
        build="pixels",
        output="image",
        prompt=False,
        without=("negative_prompt", "guidance_scale", "size"),
    ),
    Case(name="StableDiffusionDepth2ImgPipeline", build="older", output="image", picture="must", strength=True),
    Case(name="LDMTextToImagePipeline", build="older", output="image", without=("negative_prompt",)),
    Case(name="StableDiffusionPanoramaPipeline", build="older", output="image"),
    Case(name="StableDiffusionSAGPipeline", build="older", output="image"),
    Case(name="SemanticStableDiffusionPipeline", build="older", output="image"),
    *_BRIEF,
)


#: Classes with a card that are not run here, by the package that they need and that is not had for every torch.
NOT_RUN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cosmos_guardrail": (
            "CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline", "Cosmos2TextToImagePipeline", "Cosmos2VideoToWorldPipeline",
            "Cosmos2_5_PredictBasePipeline",
        ),
    }
)  # fmt: skip

#: Classes that no job can be drawn with, and what they would need, as they are refused.
UNFIT: Mapping[str, str] = MappingProxyType(
    {
        "RePaintPipeline": "a mask of what is kept",
        "QwenImageLayeredPipeline": "several layers as one output",
        "LTXLatentUpsamplePipeline": "something to refine",
        "IFSuperResolutionPipeline": "something to refine",
        "KandinskyV22PriorPipeline": "another pipeline around it",
        "StableAudioPipeline": "an output that is neither video nor image",
        "ConsisIDPipeline": "the features of a face",
        # These fail on every call in this version of the library.
        "I2VGenXLPipeline": "a text encoder of transformers 4",
        "ChromaInpaintPipeline": "`guidance_embeds` in the config of its transformer",
        "EasyAnimateInpaintPipeline": "`cache_mag_vae` in the config of its VAE",
        "EasyAnimateControlPipeline": "a prompt's encoder of another version than its class has",
        "KarrasVePipeline": "a KarrasVeScheduler that is loaded from where it is saved",
        "StableCascadeCombinedPipeline": "a component of the class PaellaVQModel",
        "WuerstchenCombinedPipeline": "a component of the class WuerstchenDiffNeXt",
        "UnCLIPPipeline": "a component of the class UnCLIPTextProjModel",
        "UnCLIPImageVariationPipeline": "a component of the class UnCLIPTextProjModel",
        "AltDiffusionPipeline": "a component of the class RobertaSeriesModelWithTransformation",
        "AltDiffusionImg2ImgPipeline": "a component of the class RobertaSeriesModelWithTransformation",
        "VQDiffusionPipeline": "a component of the class LearnedClassifierFreeSamplingEmbeddings",
        # Deprecated by the library, and called unlike any other.
        "TextToVideoZeroPipeline": "a share of its steps for each of three loops",
        "TextToVideoZeroSDXLPipeline": "a share of its steps for each of three loops",
        "VersatileDiffusionTextToImagePipeline": "pictures in the place of prompts",
        "VersatileDiffusionImageVariationPipeline": "pictures in the place of prompts",
        "VersatileDiffusionDualGuidedPipeline": "pictures in the place of prompts",
        "UniDiffuserPipeline": "a mode of its call, of which some give text",
        "LEditsPPPipelineStableDiffusion": "a picture that was inverted before",
        "LEditsPPPipelineStableDiffusionXL": "a picture that was inverted before",
        "DanceDiffusionPipeline": "an output that is neither video nor image",
        "OnnxStableDiffusionPipeline": "ONNX Runtime",
    }
)
