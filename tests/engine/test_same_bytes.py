"""The same frames are the same file, whatever the allocator leaves in memory and however many cores there are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ENCODE = """
import sys
from pathlib import Path
import numpy as np
from workers.engine.artefacts import Mp4Writer
from workers.engine.soundtrack import Sound

width, height, frames, rate, out = *map(int, sys.argv[1:5]), Path(sys.argv[5])
random = np.random.default_rng(7)
y, x = np.mgrid[0:height, 0:width]
sound = Sound(random.normal(0, 0.2, (2, rate)).astype(np.float32).clip(-1, 1), rate) if rate else None
with Mp4Writer(out, "video.mp4", 16.0, sound) as writer:
    for number in range(frames):
        disc = ((x - width * (0.2 + 0.6 * number / frames)) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2)[..., None]
        ground = random.integers(0, 8, (height, width, 3))
        writer.write(np.where(disc, [230, 40, 30], ground).astype(np.uint8)[None])
    writer.finish()
"""


@pytest.mark.parametrize("clip", ["64 64 17 0", "480 272 25 0", "480 272 25 24000"])
def test_the_same_frames_are_the_same_bytes(tmp_path: Path, clip: str) -> None:
    digests = set()
    for number, perturb in enumerate(("", "85", "170")):
        cores = {sorted(os.sched_getaffinity(0))[0]} if number else os.sched_getaffinity(0)
        out = tmp_path / perturb
        out.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-c", _ENCODE, *clip.split(), str(out)],
            env={**os.environ, "MALLOC_PERTURB_": perturb} if perturb else os.environ,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: B023
            check=True,
            timeout=120,
        )
        digests.add(hashlib.sha256((out / "video.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1
