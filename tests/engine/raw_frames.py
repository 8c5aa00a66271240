"""The frames that go into a video: what comes out of the lossy file is another thing on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.engine.artefacts import Mp4Writer


@contextmanager
def tapped() -> Iterator[dict[Path, list[Any]]]:
    """Inside, the frames that this process writes into each video are kept, by its path."""
    kept: dict[Path, list[Any]] = {}
    write: Callable[..., None] = Mp4Writer.write

    def keep(self: Mp4Writer, frames: Any) -> None:
        kept.setdefault(self._path, []).append(np.array(frames))
        write(self, frames)

    Mp4Writer.write = keep  # type: ignore[method-assign]
    try:
        yield kept
    finally:
        Mp4Writer.write = write  # type: ignore[method-assign]


def written(act: Callable[[], object]) -> npt.NDArray[np.uint8]:
    """All frames of the one video that `act` writes: number x height x width x 3."""
    with tapped() as kept:
        act()
    (frames,) = kept.values()
    return np.concatenate(frames)
