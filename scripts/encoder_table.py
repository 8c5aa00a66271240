"""Print which encoder settings give the same bytes for the same frames, and what each costs.

Encodes one raw clip again and again, in processes whose allocator fills memory differently (MALLOC_PERTURB_) and with different thread
counts, and prints how many different files came out, their size, and the processor time of one encoding:

    .venv/bin/python scripts/encoder_table.py --repeats 20 64x64x17 832x480x81
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

BASE = {"crf": "18", "preset": "veryfast"}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as in 0.1.0": {},
    "mbtree=0": {"x264-params": "mbtree=0"},
    "mbtree=0 crf=21": {"crf": "21", "x264-params": "mbtree=0"},
    "bframes=0": {"x264-params": "bframes=0"},
    "bframes=0:mbtree=0": {"x264-params": "bframes=0:mbtree=0"},
    "b-adapt=0": {"x264-params": "b-adapt=0"},
    "weightp=0": {"x264-params": "weightp=0"},
    "rc-lookahead=0": {"x264-params": "rc-lookahead=0"},
    "sliced-threads=1": {"x264-params": "sliced-threads=1"},
    "bframes=0:sliced-threads=1": {"x264-params": "bframes=0:sliced-threads=1"},
}
PERTURB = ("", "85", "170")
THREADS = (1, 2, 4, 8)


def clip(width: int, height: int, frames: int) -> npt.NDArray[np.uint8]:
    """A disc that moves over a dark ground with a little noise, as flat as drawings are: frames x height x width x 3."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for number in range(frames):
        centre = width * (0.2 + 0.6 * number / frames)
        disc = ((x - centre) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 5) ** 2)[..., None]
        ground = random.integers(0, 8, (height, width, 3))
        pictures.append(np.where(disc, np.array([230, 40, 30]) + ground // 2, ground))
    stacked: npt.NDArray[np.uint8] = np.clip(np.stack(pictures), 0, 255).astype(np.uint8)
    return stacked


def encode(pixels: npt.NDArray[np.uint8], options: Mapping[str, str], threads: int) -> bytes:
    """An MP4 of the frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(16), options={**BASE, **options})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = threads
        for number, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def child(size: str, repeats: int, names: list[str]) -> None:
    """Print what every setting and thread count gives in this process, as JSON."""
    width, height, frames = map(int, size.split("x"))
    pixels = clip(width, height, frames)
    found = {}
    for name in names:
        options = SETTINGS[name]
        for threads in THREADS:
            before = resource.getrusage(resource.RUSAGE_SELF)
            files = [encode(pixels, options, threads) for _ in range(repeats)]
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu_s = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / repeats
            digests = sorted({hashlib.sha256(file).hexdigest() for file in files})
            found[f"{name} {threads}"] = (digests, len(files[0]), cpu_s)
    print(json.dumps(found))


def main() -> int:
    """Print a table for every size."""
    options = argparse.ArgumentParser(description="Compare encoder settings.", allow_abbrev=False)
    options.add_argument("sizes", nargs="+", metavar="WxHxFRAMES")
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--only", default=",".join(SETTINGS), help="settings, comma-separated (default: all)")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    names = [name for name in SETTINGS if name in arguments.only.split(",")]
    if arguments.child:
        child(arguments.sizes[0], arguments.repeats, names)
        return 0
    print("| size | setting | files | at one thread count | bytes | CPU s |\n|---|---|---:|---:|---:|---:|")
    for size in arguments.sizes:
        runs = []
        for perturb in PERTURB:
            environ = {name: value for name, value in os.environ.items() if name != "MALLOC_PERTURB_"}
            if perturb:
                environ["MALLOC_PERTURB_"] = perturb
            command = [
                sys.executable,
                __file__,
                "--child",
                "--repeats",
                str(arguments.repeats),
                "--only",
                arguments.only,
                size,
            ]
            runs.append(json.loads(subprocess.run(command, env=environ, capture_output=True, check=True).stdout))
        for name in names:
            by_threads = [{d for run in runs for d in run[f"{name} {threads}"][0]} for threads in THREADS]
            total, most = len(set().union(*by_threads)), max(map(len, by_threads))
            length = runs[0][f"{name} {THREADS[1]}"][1]
            cpu_s = min(run[f"{name} {THREADS[1]}"][2] for run in runs)
            print(f"| {size} | {name} | {total} | {most} | {length:,} | {cpu_s:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
