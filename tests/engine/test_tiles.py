"""Tiles cover all of a clip, whatever its size."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLAllegro
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.tiles import cover_whole, laid


@given(length=st.integers(1, 400), tile=st.integers(2, 60), data=st.data())
def test_whole_tiles_end_where_the_length_does(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    size, step = laid(length, tile, overlap)

    count = (length - size) // step + 1
    assert step * (count - 1) + size == length
    assert size <= tile
    assert count == 1 or size - step >= overlap


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 8, 10), (3, 13, 31), (8, 25, 12)])
def test_no_place_is_left_out(frames: int, height: int, width: int) -> None:
    """Sizes are in latents; this VAE's own tiles are 6 x 20 x 20 of them."""
    torch.manual_seed(0)
    vae = AutoencoderKLAllegro(
        block_out_channels=(8,) * 4, down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
        layers_per_block=1, norm_num_groups=2, sample_size=160,
    ).eval()  # fmt: skip
    vae.enable_tiling()
    cover_whole(vae)

    with torch.no_grad():
        clip = vae.decode(torch.randn(1, 4, frames, height, width)).sample

    assert clip.shape == (1, 4 * frames, 3, 8 * height, 8 * width)
    assert bool(clip.abs().amax(dim=(1, 2)).gt(0).all())
    assert bool(clip.abs().amax(dim=(2, 3, 4)).gt(0).all())
