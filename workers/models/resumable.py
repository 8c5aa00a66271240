"""Classes of pipelines whose jobs go on from a checkpoint and then end bit for bit as if they had never been interrupted.

The suite of families (`tests/engine/families`) tries it with every class of its table, and holds this list to what it finds. Others
begin anew, as they have a state that neither their callback nor their scheduler hands out:

- sound beside the latents: LTX 2, Cosmos 3 Omni
- a scheduler for each frame or window, copied from the pipeline's: Skyreels V2's diffusion forcing, panoramas, AnyFlow FAR
- clips drawn in parts, each by a loop of its own: Framepack, Helios
- a momentum of guidance in the loop itself: SEGA (`SemanticStableDiffusionPipeline`), Safe Stable Diffusion
- steps taken side by side: Paradigms
- maps of attention that are read in the step after: self-attention guidance
- Kandinsky 2.2's decoders, for a reason not found yet
- a loop of its own before the one that draws, with another scheduler: Stable unCLIP's prior (from text; from a picture there is none)
- a scheduler without `step`: Score SDE
- keys and values of the prompt, which the first step leaves to all others: Qwen-Image 2.1

Some of these would pass with the short jobs of the suite, and differ in longer ones.
"""

from __future__ import annotations

RESUMABLE = frozenset({
    "AllegroPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "AmusedPipeline", "AnimateDiffControlNetPipeline",
    "AnimateDiffPAGPipeline", "AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffVideoToVideoControlNetPipeline",
    "AnimateDiffVideoToVideoPipeline", "AnyFlowPipeline", "AuraFlowPipeline", "BriaFibo2Pipeline", "BriaFiboEditPipeline",
    "BriaFiboPipeline", "BriaPipeline", "ChromaImg2ImgPipeline", "ChromaPipeline", "ChronoEditPipeline",
    "CogVideoXFunControlPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXVideoToVideoPipeline",
    "CogView3PlusPipeline", "CogView4ControlPipeline", "CogView4Pipeline", "ConsistencyModelPipeline", "DDIMPipeline",
    "DDPMPipeline", "EasyAnimatePipeline", "ErnieImagePipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline",
    "Flux2KleinPipeline", "Flux2Pipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline",
    "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline", "FluxControlNetPipeline", "FluxControlPipeline",
    "FluxFillPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxKontextInpaintPipeline", "FluxKontextPipeline",
    "FluxPipeline", "GlmImagePipeline", "HiDreamImagePipeline", "HunyuanDiTControlNetPipeline", "HunyuanDiTPAGPipeline",
    "HunyuanDiTPipeline", "HunyuanImagePipeline", "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideo15ImageToVideoPipeline",
    "HunyuanVideo15Pipeline", "HunyuanVideoImageToVideoPipeline", "HunyuanVideoPipeline", "IFImg2ImgPipeline",
    "IFInpaintingPipeline", "IFPipeline", "Ideogram4Pipeline", "JoyImageEditPipeline", "JoyImageEditPlusPipeline",
    "Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline", "Kandinsky5I2IPipeline", "Kandinsky5I2VPipeline", "Kandinsky5T2IPipeline",
    "Kandinsky5T2VPipeline", "Kandinsky6TI2VAPipeline", "KandinskyCombinedPipeline", "KandinskyImg2ImgCombinedPipeline",
    "KandinskyInpaintCombinedPipeline", "KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline", "Krea2Pipeline",
    "LDMPipeline", "LDMTextToImagePipeline", "LTXConditionPipeline", "LTXImageToVideoPipeline", "LTXPipeline",
    "LatentConsistencyModelImg2ImgPipeline", "LatentConsistencyModelPipeline", "LattePipeline", "LucyEditPipeline",
    "Lumina2Pipeline", "LuminaPipeline", "MochiPipeline", "MotifVideoImage2VideoPipeline", "MotifVideoPipeline",
    "NucleusMoEImagePipeline", "OmniGenPipeline", "OvisImagePipeline", "PIAPipeline", "PNDMPipeline", "PRXPipeline",
    "PRXPixelPipeline", "PixArtAlphaPipeline", "PixArtSigmaPAGPipeline", "PixArtSigmaPipeline",
    "QwenImageControlNetInpaintPipeline", "QwenImageControlNetPipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline",
    "QwenImagePipeline", "SanaControlNetPipeline", "SanaImageToVideoPipeline", "SanaPAGPipeline", "SanaPipeline",
    "SanaSprintImg2ImgPipeline", "SanaSprintPipeline", "SanaVideoPipeline", "SkyReelsV2ImageToVideoPipeline",
    "SkyReelsV2Pipeline", "StableDiffusion3ControlNetInpaintingPipeline", "StableDiffusion3ControlNetPipeline",
    "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline", "StableDiffusion3PAGImg2ImgPipeline",
    "StableDiffusion3PAGPipeline", "StableDiffusion3Pipeline", "StableDiffusionAdapterPipeline",
    "StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPAGInpaintPipeline", "StableDiffusionControlNetPAGPipeline", "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetXSPipeline", "StableDiffusionDepth2ImgPipeline", "StableDiffusionImageVariationPipeline",
    "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionInstructPix2PixPipeline", "StableDiffusionLatentUpscalePipeline", "StableDiffusionModelEditingPipeline",
    "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline", "StableDiffusionPAGPipeline",
    "StableDiffusionPipeline", "StableDiffusionUpscalePipeline", "StableDiffusionXLAdapterPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPAGImg2ImgPipeline", "StableDiffusionXLControlNetPAGPipeline",
    "StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "StableDiffusionXLControlNetUnionInpaintPipeline", "StableDiffusionXLControlNetUnionPipeline",
    "StableDiffusionXLControlNetXSPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline", "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline",
    "StableDiffusionXLPAGPipeline", "StableDiffusionXLPipeline", "StableUnCLIPImg2ImgPipeline", "StableVideoDiffusionPipeline",
    "TextToVideoSDPipeline", "VideoToVideoSDPipeline", "WanAnimatePipeline", "WanImageToVideoPipeline", "WanPipeline",
    "WanVACEPipeline", "WanVideoToVideoPipeline", "ZImageControlNetInpaintPipeline", "ZImageControlNetPipeline",
    "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImageOmniPipeline", "ZImagePipeline",
})  # fmt: skip

#: Of these, classes that decode what their callback does not hand out: a checkpoint after the last step would hold the wrong thing, so
#: they go on from the one before it, or begin the last steps anew.
DECODE_SOMETHING_ELSE = frozenset({"SanaSprintImg2ImgPipeline", "SanaSprintPipeline"})
