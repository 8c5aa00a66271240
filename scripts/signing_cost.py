"""Measure what signing a result costs, by kind and size: `python -m scripts.signing_cost`.

A table of the time that it takes to publish a file of random pixels, unsigned and signed, and how much more that is, beside the bar of
10 ms and 6 ms for each MB: of a processor, and by the clock, which says the same where the machine is quiet. Each is the least of several
runs.
Needs the extras serve and c2pa.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from broker.runtime.content_credentials import Signer
from broker.runtime.credential_files import credential_files
from broker.runtime.settings import CommonSettings
from broker.wire.jobspec import Artefact
from workers.engine.artefacts import Mp4Writer, publish
from workers.engine.recipes import FileRecipe

_RUNS = 15
#: A recipe of the usual length.
_RECIPE = '{"zoetrope":1,"request":{"prompt":"' + "a" * 600 + '"}}'


def _files(directory: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name, media type, bytes) of each file to sign."""
    rng = np.random.default_rng(0)
    for side in (64, 512, 1024, 2048):
        picture = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for kind in ("PNG", "JPEG", "WEBP"):
            out = io.BytesIO()
            picture.save(out, kind)
            yield f"{kind} {side} x {side}", f"image/{kind.lower()}", out.getvalue()
    for side, frames in ((64, 17), (256, 49), (512, 49), (768, 81)):
        with Mp4Writer(directory, "clip.mp4", 16.0) as writer:
            for _ in range(frames):
                writer.write(rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8))
            writer.finish()
        yield f"MP4 {side} x {side} x {frames}", "video/mp4", (directory / "clip.mp4").read_bytes()


def _least(run: Callable[[], object], before: Callable[[], object]) -> tuple[float, float]:
    """The cheapest runs, milliseconds of a processor and of the clock."""
    of_processor, of_clock = [], []
    for _ in range(_RUNS):
        before()
        began, started = time.perf_counter(), time.process_time()
        run()
        of_processor.append(1e3 * (time.process_time() - started))
        of_clock.append(1e3 * (time.perf_counter() - began))
    return min(of_processor), min(of_clock)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        files = credential_files(CommonSettings(home=str(directory / "home"), content_credentials="on"))
        assert files is not None
        signer = Signer(files, "0")
        print(
            "| file | MB | unsigned, CPU ms | signed, CPU ms | more | more by the clock | bar |\n|---|---|---|---|---|---|---|"
        )
        for name, media_type, data in _files(directory):
            part = directory / "file.part"
            record = Artefact(name="file", media_type=media_type, size=0, sha256="0" * 64)

            def write(part: Path = part, data: bytes = data) -> None:
                part.write_bytes(data)

            def made(embedded: FileRecipe | None, part: Path = part, record: Artefact = record) -> tuple[float, float]:
                return _least(lambda: publish(part, directory / "file", record, embedded), write)

            (plain, plain_clock), (signed, signed_clock) = made(None), made(FileRecipe(text=_RECIPE, signer=signer))
            size = len(data) / 1e6
            print(
                f"| {name} | {size:.2f} | {plain:.1f} | {signed:.1f} | {signed - plain:.1f} | "
                f"{signed_clock - plain_clock:.1f} | {10 + 6 * size:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
