"""Classes of pipelines whose jobs go on from a checkpoint and then end bit for bit as if they had never been interrupted.

The suite of families (`tests/engine/families`) tries it with every class that it knows, and holds this list to what it finds. Others have
a state that neither their callback nor their scheduler hands out, in a model, copies of the scheduler or sound: their jobs begin anew.
"""

from __future__ import annotations

RESUMABLE = frozenset({
    "AllegroPipeline", "AmusedInpaintPipeline", "AmusedPipeline", "AnimateDiffPAGPipeline",
    "AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffVideoToVideoPipeline", "AnyFlowPipeline", "AuraFlowPipeline",
    "BriaPipeline", "ChromaImg2ImgPipeline", "ChromaPipeline", "ChronoEditPipeline", "CogVideoXFunControlPipeline",
    "CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXVideoToVideoPipeline", "CogView3PlusPipeline", "CogView4Pipeline",
    "ConsistencyModelPipeline", "DDIMPipeline", "DDPMPipeline", "EasyAnimatePipeline", "ErnieImagePipeline", "Flux2KleinKVPipeline",
    "Flux2KleinPipeline", "Flux2Pipeline", "FluxControlPipeline", "FluxFillPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline",
    "FluxKontextPipeline", "FluxPipeline", "HiDreamImagePipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTPipeline",
    "HunyuanImagePipeline", "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline",
    "HunyuanVideoImageToVideoPipeline", "HunyuanVideoPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline", "IFPipeline",
    "Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline", "Kandinsky5I2VPipeline", "Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline",
    "KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline", "Krea2Pipeline", "LDMPipeline", "LDMTextToImagePipeline",
    "LTXConditionPipeline", "LTXImageToVideoPipeline", "LTXPipeline", "LatentConsistencyModelImg2ImgPipeline",
    "LatentConsistencyModelPipeline", "LattePipeline", "LucyEditPipeline", "Lumina2Pipeline", "LuminaPipeline", "MochiPipeline",
    "OvisImagePipeline", "PIAPipeline", "PixArtAlphaPipeline", "PixArtSigmaPAGPipeline", "PixArtSigmaPipeline",
    "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImagePipeline", "SanaImageToVideoPipeline", "SanaPAGPipeline",
    "SanaPipeline", "SanaSprintImg2ImgPipeline", "SanaSprintPipeline", "SanaVideoPipeline",
    "SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGImg2ImgPipeline",
    "StableDiffusion3PAGPipeline", "StableDiffusion3Pipeline", "StableDiffusionAdapterPipeline", "StableDiffusionControlNetPipeline",
    "StableDiffusionDepth2ImgPipeline", "StableDiffusionImageVariationPipeline", "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline", "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGPipeline", "StableDiffusionPipeline", "StableDiffusionXLAdapterPipeline", "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline", "StableDiffusionXLInstructPix2PixPipeline", "StableDiffusionXLPAGImg2ImgPipeline",
    "StableDiffusionXLPAGPipeline", "StableDiffusionXLPipeline", "StableUnCLIPImg2ImgPipeline", "StableVideoDiffusionPipeline",
    "TextToVideoSDPipeline", "VideoToVideoSDPipeline", "WanAnimatePipeline", "WanImageToVideoPipeline", "WanPipeline",
    "WanVACEPipeline", "WanVideoToVideoPipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImagePipeline",
})  # fmt: skip

#: Of these, classes that decode what their callback does not hand out: a checkpoint after the last step would hold the wrong thing, so
#: they go on from the one before it, or begin the last steps anew.
DECODE_SOMETHING_ELSE = frozenset({"SanaSprintImg2ImgPipeline", "SanaSprintPipeline"})
