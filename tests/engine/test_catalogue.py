"""What a worker says of a model, from its directory alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.wire.inputs import ROLES
from broker.wire.jobspec import Defaults, Limits
from tests.engine.model_dirs import model_dir
from workers.models.abilities import draws_clips, what_is_missing
from workers.models.catalogue import card_for, default_model
from workers.models.families import FAMILIES, family_of
from workers.models.pipeline_classes import GUIDANCE, pipeline_class, pipeline_names
from workers.models.sources import CatalogueError


def test_demo_model_gives_the_best_it_can() -> None:
    card = card_for(str(default_model()))

    assert (card.name, card.engine, card.output, card.pipeline) == ("demo", "video", "video", "WanPipeline")
    assert card.source == str(default_model())
    assert (card.takes_image, card.needs_image) == (True, False)
    assert card.defaults == Defaults(
        width=64, height=64, num_frames=17, fps=8.0, num_inference_steps=10, guidance_scale=4.0, max_sequence_length=32
    )
    assert card.limits == Limits(
        min_side=32, max_side=128, side_multiple=16, max_pixels=128 * 128, max_frames=33, frame_step=4, max_steps=200
    )
    assert (card.token_side, card.token_frames) == (16, 4)


def test_fake_needs_no_directory() -> None:
    card = card_for("fake")

    assert (card.name, card.engine, card.output) == ("fake", "fake", "video")
    assert card.limits.side_multiple == 1
    assert card_for("fake", "fake-2", {"output": "image"}).output == "image"
    assert card_for("x", "x", {"engine": "fake"}).name == "x"


def test_catalogue_never_loads_torch() -> None:
    code = (
        "import sys; from workers.models.catalogue import card_for, default_model; card_for(str(default_model()));"
        "sys.exit(bool({'torch', 'diffusers', 'numpy', 'zmq'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


WAN_VAE = {"_class_name": "AutoencoderKLWan", "z_dim": 16}
WAN_BIG_VAE = {"_class_name": "AutoencoderKLWan", "z_dim": 48, "scale_factor_spatial": 16, "scale_factor_temporal": 4}
WAN_TRANSFORMER = {"patch_size": [1, 2, 2]}
SD_VAE = {"block_out_channels": [128, 256, 512, 512]}
LTX_VAE = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}


@pytest.mark.parametrize(
    ("pipeline", "index", "configs", "expected"),
    [
        ("WanPipeline", {}, {"vae": WAN_VAE, "transformer": WAN_TRANSFORMER}, ("video", 832, 480, 81, 16, 50, 5.0, 16, 4)),
        ("WanPipeline", {"boundary_ratio": 0.875}, {"vae": WAN_VAE}, ("video", 832, 480, 81, 16, 40, 4.0, 16, 4)),
        ("WanPipeline", {"expand_timesteps": True}, {"vae": WAN_BIG_VAE}, ("video", 1280, 704, 121, 24, 50, 5.0, 32, 4)),
        ("WanImageToVideoPipeline", {}, {"vae": WAN_VAE}, ("video", 832, 480, 81, 16, 40, 5.0, 16, 4)),
        ("LTXPipeline", {}, {"vae": LTX_VAE, "transformer": {"patch_size": 1}}, ("video", 704, 512, 161, 25, 50, 3.0, 32, 8)),
        ("CogVideoXPipeline", {}, {"vae": SD_VAE}, ("video", 720, 480, 49, 8, 50, 6.0, 16, 8)),
        ("HunyuanVideoPipeline", {}, {}, ("video", 1280, 720, 129, 24, 50, 6.0, 16, 4)),
        (
            "CogVideoXPipeline", {}, {"vae": SD_VAE, "transformer": {"patch_size_t": 2}},
            ("video", 720, 480, 49, 8, 50, 6.0, 16, 16),
        ),
        ("HeliosPipeline", {}, {}, ("video", 640, 384, 129, 24, 50, 5.0, 16, 33)),
        ("HunyuanVideoFramepackPipeline", {}, {}, ("video", 1280, 720, 145, 24, 50, 6.0, 16, 36)),
        ("MochiPipeline", {}, {}, ("video", 848, 480, 85, 30, 64, 4.5, 16, 6)),
        ("AllegroPipeline", {}, {}, ("video", 1280, 720, 88, 15, 100, 7.5, 16, 1)),
        ("StableVideoDiffusionPipeline", {}, {"vae": SD_VAE}, ("video", 1024, 576, 25, 7, 25, None, 64, 1)),
        ("AnimateDiffPipeline", {}, {"vae": SD_VAE}, ("video", 512, 512, 16, 8, 50, 7.5, 8, 1)),
        ("LattePipeline", {}, {"vae": SD_VAE}, ("video", 512, 512, 16, 8, 50, 7.5, 8, 1)),
        ("FluxPipeline", {}, {"vae": SD_VAE}, ("image", 1024, 1024, 1, 1, 28, 3.5, 16, 1)),
        ("FluxPipeline", {}, {"transformer": {"guidance_embeds": False}}, ("image", 1024, 1024, 1, 1, 4, None, 16, 1)),
        ("StableDiffusion3Pipeline", {}, {"vae": SD_VAE}, ("image", 1024, 1024, 1, 1, 28, 7.0, 16, 1)),
        ("StableDiffusionXLPipeline", {}, {"vae": SD_VAE}, ("image", 1024, 1024, 1, 1, 50, 5.0, 8, 1)),
        ("StableDiffusionPipeline", {}, {"vae": SD_VAE}, ("image", 512, 512, 1, 1, 50, 7.5, 8, 1)),
        ("SanaPipeline", {}, {"vae": {"encoder_block_out_channels": [1] * 6}}, ("image", 1024, 1024, 1, 1, 20, 4.5, 32, 1)),
        ("QwenImagePipeline", {}, {"transformer": {"patch_size": 2}}, ("image", 1328, 1328, 1, 1, 50, 4.0, 16, 1)),
        ("ZImagePipeline", {}, {}, ("image", 1024, 1024, 1, 1, 50, 5.0, 16, 1)),
        ("PRXPipeline", {}, {}, ("image", 1024, 1024, 1, 1, 28, 4.0, 16, 1)),
        ("Krea2Pipeline", {}, {}, ("image", 1024, 1024, 1, 1, 28, 4.5, 16, 1)),
        ("Krea2Pipeline", {"is_distilled": True}, {}, ("image", 1024, 1024, 1, 1, 8, 0.0, 16, 1)),
        ("Flux2KleinPipeline", {"is_distilled": True}, {}, ("image", 1024, 1024, 1, 1, 4, None, 16, 1)),
        ("Ideogram4Pipeline", {}, {}, ("image", 2048, 2048, 1, 1, 48, None, 16, 1)),
        ("QwenImage21Pipeline", {}, {}, ("image", 2048, 2048, 1, 1, 40, 1.0, 32, 1)),
        ("AmusedPipeline", {}, {}, ("image", 1024, 1024, 1, 1, 12, 10.0, 16, 1)),
    ],
)  # fmt: skip
def test_families(tmp_path: Path, pipeline: str, index: Any, configs: Any, expected: tuple[object, ...]) -> None:
    card = card_for(model_dir(tmp_path / "m", pipeline, index, **configs))

    defaults, limits = card.defaults, card.limits
    assert expected == (
        card.output, defaults.width, defaults.height, defaults.num_frames, defaults.fps, defaults.num_inference_steps,
        defaults.guidance_scale, limits.side_multiple, limits.frame_step,
    )  # fmt: skip
    assert card.engine == card.output
    assert limits.max_frames == (1 if card.output == "image" else 257)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.pattern)
def test_every_family_has_a_class(family: Any) -> None:
    assert any(family_of(name, clips=True) is family for name in pipeline_names())


#: Classes whose authors say another number of steps than their pipeline's signature.
_OTHER_STEPS = re.compile(
    r"WanImageToVideoPipeline|StableDiffusion(3(Img2Img|Inpaint|PAGImg2Img)|LatentUpscale)Pipeline"
)
#: Classes whose usual guidance is not their signature's: 3.5 of Flux and 6.0 of HunyuanVideo are what the models were distilled for.
_OTHER_GUIDANCE = re.compile(
    r"Flux(Kontext|ControlNet)?(Img2Img|Inpaint)?Pipeline|HunyuanVideo(Framepack)?Pipeline|Flux2KleinInpaint|QwenImageControlNetInpaint"
    r"|StableDiffusionLatentUpscale"
)


def test_a_class_draws_in_as_many_steps_as_its_signature_says() -> None:
    """A distilled class in the steps of the one that it comes from draws noise, or takes ten times too long."""
    wrong = []
    for name in pipeline_names():
        taken = pipeline_class(name)
        if taken is None or "prompt" not in taken.parameters or what_is_missing(taken):
            continue
        usual = family_of(name, clips=draws_clips(taken)).defaults
        steps = taken.parameters["num_inference_steps"].default if taken.takes("num_inference_steps") else None
        if isinstance(steps, int) and steps != usual.num_inference_steps and not _OTHER_STEPS.fullmatch(name):
            wrong.append(f"{name}: {usual.num_inference_steps} steps, and its signature says {steps}")
        scale = next((taken.parameters[key].default for key in GUIDANCE if key in taken.parameters), None)
        # None: the pipeline's own.
        known = isinstance(scale, int | float) and usual.guidance_scale is not None
        if known and scale != usual.guidance_scale and not _OTHER_GUIDANCE.match(name):
            wrong.append(f"{name}: guidance {usual.guidance_scale}, and its signature says {scale}")
    assert wrong == []


def test_every_class_of_the_library_gives_a_card_or_one_sentence(tmp_path: Path) -> None:
    refused: dict[str, str] = {}
    for name in pipeline_names():
        source = model_dir(tmp_path / name, name)
        try:
            card_for(source)
        except CatalogueError as error:
            refused[name] = str(error)

    assert len(pipeline_names()) - len(refused) > 100
    assert [text for text in refused.values() if "\n" in text or len(text) > 400] == []


@pytest.mark.parametrize(
    ("pipeline", "configs", "allowed", "refused"),
    [
        ("HeliosPipeline", {}, (33, 65, 129), (1, 34, 66)),
        ("Kandinsky5I2VPipeline", {}, (17, 21), (1, 5, 13, 18)),
        ("HunyuanVideoFramepackPipeline", {}, (37, 73, 109), (1, 9, 33, 36)),
        ("ChronoEditPipeline", {}, (5,), (1, 4, 81)),
        ("LattePipeline", {"transformer": {"video_length": 16}}, (16,), (1, 15, 32)),
        ("LattePipeline", {"transformer": {"video_length": 8}}, (8,), (1, 16)),
        ("AnyFlowFARPipeline", {"transformer": {"chunk_partition": [1, 3, 2]}}, (21,), (17, 81)),
        ("TextToVideoSDPipeline", {}, (1, 16, 24), ()),
        ("AllegroPipeline", {}, (2, 5, 88), (1,)),
        ("AnimateDiffPipeline", {"motion_adapter": {"motion_max_seq_length": 24}}, (1, 24), (25, 32)),
    ],
)
def test_frame_counts_of_families_with_rules_of_their_own(
    tmp_path: Path, pipeline: str, configs: Any, allowed: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    limits = card_for(model_dir(tmp_path, pipeline, **configs)).limits

    assert [count for count in (*allowed, *refused) if limits.allows_frames(count)] == list(allowed)


def test_length_of_the_text_is_the_models_own(tmp_path: Path) -> None:
    small = card_for(model_dir(tmp_path / "a", "CogVideoXPipeline", transformer={"max_text_seq_length": 16}))

    assert small.defaults.max_sequence_length == 16
    assert card_for(model_dir(tmp_path / "b", "CogVideoXPipeline")).defaults.max_sequence_length == 226


@pytest.mark.parametrize(
    ("pipeline", "negative", "guidance", "second", "size"),
    [
        ("WanPipeline", True, True, False, True),
        ("Flux2Pipeline", False, True, False, True),
        ("Flux2KleinKVPipeline", False, False, False, True),
        ("LatentConsistencyModelPipeline", False, True, False, True),
        ("StableVideoDiffusionPipeline", False, True, False, True),
        ("HunyuanVideo15Pipeline", True, True, False, True),
        ("HunyuanVideo15ImageToVideoPipeline", True, True, False, False),
        ("StableDiffusionInstructPix2PixPipeline", True, True, False, True),
        ("LongCatImageEditPipeline", True, True, False, False),
        ("DDPMPipeline", False, False, False, False),
    ],
)
def test_what_has_an_effect_is_read_from_the_class(
    tmp_path: Path, pipeline: str, negative: bool, guidance: bool, second: bool, size: bool
) -> None:
    card = card_for(model_dir(tmp_path, pipeline))

    assert (card.takes_negative_prompt, card.takes_guidance, card.takes_guidance_2, card.takes_size) == (
        negative, guidance, second, size,
    )  # fmt: skip
    assert guidance or card.defaults.guidance_scale is None


def test_models_whose_guidance_was_trained_away_take_none(tmp_path: Path) -> None:
    schnell = card_for(model_dir(tmp_path / "a", "FluxPipeline", transformer={"guidance_embeds": False}))
    klein = card_for(model_dir(tmp_path / "b", "Flux2KleinPipeline", {"is_distilled": True}))

    assert (schnell.takes_guidance, klein.takes_guidance) == (False, False)
    assert not card_for(model_dir(tmp_path / "d", "DreamLiteMobilePipeline")).takes_guidance
    assert card_for(model_dir(tmp_path / "c", "Flux2KleinPipeline")).takes_guidance


def test_a_second_scale_is_for_models_with_two_experts(tmp_path: Path) -> None:
    both = card_for(model_dir(tmp_path, "WanPipeline", {"boundary_ratio": 0.875}))

    assert (both.takes_guidance_2, both.defaults.guidance_scale_2) == (True, 3.0)


def test_extra_parameters_are_those_of_the_call_that_json_can_carry(tmp_path: Path) -> None:
    shift = {"scheduler": {}}
    source = model_dir(tmp_path / "a", "StableDiffusionXLPipeline", **shift)
    flow = model_dir(tmp_path / "b", "WanPipeline", **shift)
    (tmp_path / "b" / "scheduler" / "scheduler_config.json").write_text('{"shift": 3.0}')

    sdxl, wan = card_for(source).extra_parameters, card_for(flow).extra_parameters

    assert sdxl is not None
    assert wan is not None
    assert {"prompt_2", "guidance_rescale", "clip_skip", "denoising_end"} <= set(sdxl)
    assert not {"prompt", "latents", "prompt_embeds", "timesteps", "original_size", "output_type", "flow_shift"} & set(
        sdxl
    )
    assert "flow_shift" in wan


@pytest.mark.parametrize(
    ("pipeline", "strength"),
    [
        ("StableDiffusionXLImg2ImgPipeline", 0.3),
        ("KolorsImg2ImgPipeline", 0.3),
        ("FluxImg2ImgPipeline", None),
        ("StableDiffusionXLPipeline", None),
    ],
)
def test_strength_that_leaves_out_whole_steps(tmp_path: Path, pipeline: str, strength: float | None) -> None:
    assert card_for(model_dir(tmp_path, pipeline)).default_strength == strength


@pytest.mark.parametrize(
    ("pipeline", "index", "sound"),
    [
        ("LTX2Pipeline", {"vocoder": ["ltx2", "LTX2Vocoder"]}, True),
        ("Kandinsky6TI2VAPipeline", {"vocoder": [None, None]}, False),
        ("Cosmos3OmniPipeline", {"sound_tokenizer": ["diffusers", "Cosmos3AVAEAudioTokenizer"]}, True),
        ("Cosmos3OmniPipeline", {}, False),
        ("WanPipeline", {}, False),
    ],
)
def test_clips_have_sound_where_the_model_has_what_makes_it(
    tmp_path: Path, pipeline: str, index: Any, sound: bool
) -> None:
    assert card_for(model_dir(tmp_path, pipeline, index)).sound == sound


def test_a_text_to_video_model_with_a_time_for_each_frame_takes_an_image_too(tmp_path: Path) -> None:
    card = card_for(model_dir(tmp_path, "WanPipeline", {"expand_timesteps": True}))

    assert (card.takes_image, card.needs_image) == (True, False)


@pytest.mark.parametrize(
    ("pipeline", "takes", "needs"),
    [
        ("WanImageToVideoPipeline", True, True),
        ("LTXImageToVideoPipeline", True, True),
        ("FluxImg2ImgPipeline", True, True),
        ("StableVideoDiffusionPipeline", True, True),
        ("Kandinsky5I2VPipeline", True, True),
        ("QwenImageEditPlusPipeline", True, True),
        ("FluxKontextPipeline", True, False),
        ("Flux2Pipeline", True, False),
        ("Cosmos2VideoToWorldPipeline", True, False),
        ("WanPipeline", False, False),
        ("StableDiffusionXLPipeline", False, False),
    ],
)
def test_images_that_pipelines_take(tmp_path: Path, pipeline: str, takes: bool, needs: bool) -> None:
    card = card_for(model_dir(tmp_path, pipeline))

    assert (card.takes_image, card.needs_image) == (takes, needs)


@pytest.mark.parametrize(
    ("pipeline", "transformer", "takes", "needs"),
    [
        ("StableDiffusionInpaintPipeline", {}, ["image", "mask_image"], ["image", "mask_image"]),
        ("FluxFillPipeline", {}, ["image", "mask_image"], ["image", "mask_image"]),
        ("StableDiffusionXLControlNetPipeline", {}, ["control_image"], ["control_image"]),
        ("StableDiffusionXLControlNetImg2ImgPipeline", {}, ["image", "control_image"], ["image", "control_image"]),
        ("WanVideoToVideoPipeline", {}, ["video"], ["video"]),
        ("WanVACEPipeline", {}, ["reference_images", "mask_image", "mask_video", "video"], []),
        ("CogVideoXFunControlPipeline", {}, ["control_video"], ["control_video"]),
        (
            "WanAnimatePipeline",
            {},
            ["image", "pose_video", "face_video", "background_video", "mask_video"],
            ["image", "pose_video", "face_video"],
        ),
        ("LTX2ConditionPipeline", {}, ["image", "last_image", "start_video"], []),
        ("Cosmos2VideoToWorldPipeline", {}, ["image", "start_video"], []),
        ("HeliosPipeline", {}, ["image", "start_video"], []),
        ("JoyImageEditPlusPipeline", {}, ["image", "reference_images"], ["image"]),
        ("Flux2Pipeline", {}, ["image", "reference_images"], []),
        # Wan 2.2 sees no picture through CLIP; 2.1 does, one or, where its positions are for two, both.
        ("WanImageToVideoPipeline", {}, ["image", "last_image"], ["image"]),
        ("WanImageToVideoPipeline", {"image_dim": 1280}, ["image"], ["image"]),
        (
            "WanImageToVideoPipeline",
            {"image_dim": 1280, "pos_embed_seq_len": 514},
            ["image", "last_image"],
            ["image", "last_image"],
        ),
        ("WanPipeline", {}, [], []),
    ],
)
def test_what_further_media_a_pipeline_takes(
    tmp_path: Path, pipeline: str, transformer: dict[str, int], takes: list[str], needs: list[str]
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(transformer))

    card = card_for(str(tmp_path), "m")

    assert {role for role in ("image", *ROLES) if card.takes(role, card.output)} == set(takes)
    assert set(card.needs) == set(needs)


@pytest.mark.parametrize(
    ("pipeline", "missing"),
    [
        ("DiTPipeline", "`class_labels`"),
        ("KandinskyV22Pipeline", "`image_embeds` and `negative_image_embeds`"),
        ("BlipDiffusionPipeline", "`reference_image`"),
        ("CycleDiffusionPipeline", "`source_prompt`"),
        ("StableDiffusionAttendAndExcitePipeline", "`token_indices`"),
        ("ConsisIDPipeline", "the features of a face"),
        ("AudioLDM2Pipeline", "neither video nor image"),
        ("KandinskyV22PriorPipeline", "another pipeline"),
        ("LTXLatentUpsamplePipeline", "something to refine"),
        ("LEditsPPPipelineStableDiffusion", "a picture that was inverted before"),
        ("UniDiffuserPipeline", "a mode of its call"),
    ],
)
def test_pipelines_that_need_more_than_a_job_has(tmp_path: Path, pipeline: str, missing: str) -> None:
    with pytest.raises(CatalogueError, match=f"{pipeline}, and that needs .*{missing}.*, and no job carries that"):
        card_for(model_dir(tmp_path, pipeline))


@pytest.mark.parametrize(
    ("pipeline", "missing"),
    [
        (
            "StableCascadeCombinedPipeline",
            "a component of the class PaellaVQModel, which the installed diffusers does not load",
        ),
        (
            "KarrasVePipeline",
            "a KarrasVeScheduler that is loaded from where it is saved, and the installed libraries have none",
        ),
    ],
)
def test_pipelines_that_the_libraries_cannot_run(tmp_path: Path, pipeline: str, missing: str) -> None:
    with pytest.raises(
        CatalogueError, match=f"is run by {pipeline}, and that needs {missing}; take a model that does without"
    ):
        card_for(model_dir(tmp_path, pipeline))


def test_a_mode_that_needs_what_no_job_carries_is_not_offered(tmp_path: Path) -> None:
    card = card_for(model_dir(tmp_path / "m", "WanAnimatePipeline"), "m")

    assert card.extra_parameters is not None
    assert "mode" not in card.extra_parameters
    assert "prev_segment_conditioning_frames" in card.extra_parameters
