"""Classes of pipelines whose jobs go on from a checkpoint and then end bit for bit as if they had never been interrupted.

The suite of families (`tests/engine/families`) tries it with every class that it knows, and holds this list to what it finds. Others have
no callback after their steps, or a state that it does not hand out, in a model, in copies of the scheduler or in sound: their jobs begin
anew.
"""

from __future__ import annotations

RESUMABLE = frozenset({
    "AllegroPipeline", "AnimateDiffPAGPipeline", "AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffVideoToVideoPipeline",
    "AnyFlowPipeline", "AuraFlowPipeline", "BriaPipeline", "ChromaImg2ImgPipeline", "ChromaPipeline", "ChronoEditPipeline",
    "CogVideoXFunControlPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXVideoToVideoPipeline",
    "CogView3PlusPipeline", "CogView4Pipeline", "EasyAnimatePipeline", "ErnieImagePipeline", "Flux2KleinKVPipeline",
    "Flux2KleinPipeline", "Flux2Pipeline", "FluxControlPipeline", "FluxFillPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline",
    "FluxKontextPipeline", "FluxPipeline", "HiDreamImagePipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTPipeline",
    "HunyuanImagePipeline", "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideoImageToVideoPipeline", "HunyuanVideoPipeline",
    "Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline", "Kandinsky5I2VPipeline", "Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline",
    "KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline", "Krea2Pipeline", "LTXConditionPipeline", "LTXImageToVideoPipeline",
    "LTXPipeline", "LatentConsistencyModelImg2ImgPipeline", "LatentConsistencyModelPipeline", "LattePipeline", "LucyEditPipeline",
    "Lumina2Pipeline", "LuminaPipeline", "MochiPipeline", "OvisImagePipeline", "PIAPipeline", "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline", "QwenImagePipeline", "SanaImageToVideoPipeline", "SanaPAGPipeline", "SanaPipeline",
    "SanaSprintImg2ImgPipeline", "SanaSprintPipeline", "SanaVideoPipeline", "SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Pipeline",
    "StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGImg2ImgPipeline", "StableDiffusion3PAGPipeline", "StableDiffusion3Pipeline",
    "StableDiffusionControlNetPipeline", "StableDiffusionDepth2ImgPipeline", "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline", "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGPipeline", "StableDiffusionPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGPipeline", "StableDiffusionXLPipeline", "StableVideoDiffusionPipeline",
    "WanAnimatePipeline", "WanImageToVideoPipeline", "WanPipeline", "WanVACEPipeline", "WanVideoToVideoPipeline",
    "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImagePipeline",
})  # fmt: skip
