"""Tiles that cover the whole of what is decoded, for a VAE that can decode in tiles alone.

`AutoencoderKLAllegro` lays tiles of one size at one distance over the latents, and leaves grey what the last whole tile does not reach: all
of a picture smaller than a tile, and edges of any size but the one it was made for. The grid here is laid anew for each clip.
"""

from __future__ import annotations

import math
from typing import Any

import torch

#: VAEs that raise NotImplementedError for a picture in one piece.
_TILED_ONLY = ("AutoencoderKLAllegro",)


def tile_vae(pipe: Any, on: bool) -> None:
    """Decode in tiles, where the VAE can. The Wan VAE is not tiled: decoding it frame by frame bounds its memory without seams."""
    vae = getattr(pipe, "vae", None)
    on = on or type(vae).__name__ in _TILED_ONLY
    if vae is None or type(vae).__name__ == "AutoencoderKLWan":
        return
    for method in ("enable_tiling", "enable_slicing") if on else ("disable_tiling", "disable_slicing"):
        if hasattr(vae, method):
            getattr(vae, method)()


def cover_whole(vae: Any) -> None:
    """Let this VAE, if it is one of those, lay its tiles by the clip that it decodes. They are never much larger than its own."""
    if type(vae).__name__ not in _TILED_ONLY:
        return
    time, side = vae.config.temporal_compression_ratio, vae.spatial_compression_ratio
    scales = (time, side, side)
    tiles = [size // scale for size, scale in zip(vae.kernel, scales, strict=True)]
    overlaps = [(size - step) // scale for size, step, scale in zip(vae.kernel, vae.stride, scales, strict=True)]

    def decode(latents: torch.Tensor) -> Any:
        grid = [laid(*each) for each in zip(latents.shape[2:], tiles, overlaps, strict=True)]
        vae.kernel, vae.stride = (
            tuple(length * scale for length, scale in zip(lengths, scales, strict=True))
            for lengths in zip(*grid, strict=True)
        )
        return type(vae).tiled_decode(vae, latents)

    vae.tiled_decode = decode


def laid(length: int, tile: int, overlap: int) -> tuple[int, int]:
    """(length of a tile, distance of their beginnings) such that whole tiles of at most `tile` end where `length` does.

    They overlap by at least `overlap`, which is shorter than a tile. A length that one tile holds is one tile.
    """
    if length <= tile:
        return length, length
    count = math.ceil((length - overlap) / (tile - overlap))
    while (step := (length - overlap) // count) > 1:
        size = length - step * (count - 1)
        if size <= tile:
            return size, step
        count += 1
    return tile, 1
