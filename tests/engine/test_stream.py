"""Decoding frame by frame gives the pixels of decoding at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline

from broker.wire.jobspec import ModelCard
from tests.engine.conftest import spec_for
from workers.engine.arguments import call_arguments
from workers.engine.errors import EngineError
from workers.engine.frames import image_pixels, to_uint8, video_frames
from workers.engine.stream import can_stream, decode_frames, denormalise
from workers.engine.video import VideoEngine


@pytest.fixture(scope="module")
def pipe(video_engine: VideoEngine, demo_card: ModelCard) -> WanPipeline:
    return video_engine.pipelines.get(demo_card)  # type: ignore[no-any-return]


def _latents(channels: int, frames: int) -> torch.Tensor:
    return torch.randn(1, channels, frames, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_equal_those_of_the_whole(pipe: WanPipeline, frames: int) -> None:
    latents = _latents(16, frames)
    with torch.no_grad():
        whole = pipe.vae.decode(latents).sample[0].movedim(1, 0)

    parts = list(decode_frames(pipe.vae, latents))

    assert [len(part) for part in parts] == [1] + [4] * (frames - 1)
    assert torch.equal(torch.cat(parts), whole)


def _small_vae() -> AutoencoderKLWan:
    """As that of Wan 2.1, which does not fold pixels into channels, nor does it have residual blocks."""
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_seen_before_it_is_clamped(value: float) -> None:
    vae = _small_vae()
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] = value
    with pytest.raises(EngineError, match="no numbers"):
        list(decode_frames(vae, _latents(4, 2)))


def test_frames_equal_without_patches() -> None:
    vae = _small_vae()
    latents = _latents(4, 3)
    with torch.no_grad():
        whole = vae.decode(latents).sample[0].movedim(1, 0)

    assert torch.equal(torch.cat(list(decode_frames(vae, latents))), whole)


def test_decoding_that_is_left_half_way_forgets_it(pipe: WanPipeline) -> None:
    latents = _latents(16, 3)
    frames = decode_frames(pipe.vae, latents)
    next(frames)

    frames.close()

    assert all(part is None for part in pipe.vae._feat_map)


def test_pixels_equal_those_of_the_pipeline(pipe: WanPipeline, demo_card: ModelCard) -> None:
    spec = spec_for(demo_card, num_frames=9, num_inference_steps=4)
    pipe.set_progress_bar_config(disable=True)
    whole = video_frames(pipe(**call_arguments(pipe, spec, 7), output_type="np"))

    latents = pipe(**call_arguments(pipe, spec, 7), output_type="latent").frames
    parts = [to_uint8(part).movedim(1, -1).numpy() for part in decode_frames(pipe.vae, denormalise(pipe.vae, latents))]

    assert np.array_equal(np.concatenate(parts), whole)


def test_tiles_are_left_to_the_pipeline(pipe: WanPipeline) -> None:
    assert can_stream(pipe)
    pipe.vae.enable_tiling()
    try:
        assert not can_stream(pipe)
    finally:
        pipe.vae.use_tiling = False


class Output:
    """A pipeline's output with one field."""

    def __init__(self, **fields: object) -> None:
        vars(self).update(fields)


@pytest.mark.parametrize("kind", ["arrays", "tensor", "pictures", "tuple", "grey", "clip", "frames"])
def test_every_form_of_output_becomes_pixels(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    if kind == "grey":
        pixels = pixels[..., :1].repeat(3, axis=-1)
    floats = pixels.astype(np.float32) / 255
    output = {
        "arrays": lambda: Output(frames=floats[np.newaxis]),
        "tensor": lambda: Output(videos=torch.from_numpy(floats).movedim(-1, 1)[None]),
        "pictures": lambda: Output(frames=[WanPipeline.numpy_to_pil(floats)]),
        "tuple": lambda: ([list(floats)],),
        "grey": lambda: Output(frames=floats[np.newaxis, ..., :1]),
        # Cosmos 3: one clip, not a batch of clips, and beside it the sound.
        "clip": lambda: Output(video=floats, sound=None),
        "frames": lambda: Output(video=WanPipeline.numpy_to_pil(floats), sound=None),
    }[kind]()

    assert np.array_equal(video_frames(output), pixels)


def test_an_image_is_the_first_of_its_batch() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)

    floats = pixels.astype(np.float32) / 255
    images = WanPipeline.numpy_to_pil(floats)
    # Kandinsky 5 calls the batch "image"; a pipeline may give a clip of one frame, or several layers of one picture.
    for output in (
        Output(images=images), Output(image=images), Output(image=floats), Output(image=floats[0]), Output(video=floats),
        Output(frames=floats[np.newaxis]), Output(images=[images]),
    ):  # fmt: skip
        assert np.array_equal(image_pixels(output), pixels[0])
