"""Measure what a second process gives on this CPU: `python -m tests.engine.ranks.measure [ROUNDS]`.

One process and two of one thread each draw the same job of the demo model in turns. A vote is the shorter of the two ranks' waits: the
other's is the time for which it was ahead.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.engine.conftest import spec_for
from tests.engine.ranks.group import Forks, RankGroup
from workers.models.catalogue import default_model, model_for

_STEPS = 6


def main(rounds: int) -> None:
    """Print the figures."""
    demo = model_for(str(default_model()), "demo")
    with tempfile.TemporaryDirectory() as place:
        forks = Forks(Path(place))
        groups = {ranks: forks.group(ranks, demo.card, setups={"demo": demo.setup}).ready() for ranks in (1, 2)}
        for name, scale in (("guidance", 4.0), ("sequence", 1.0)):
            spec = spec_for(
                demo.card, guidance_scale=scale, width=128, height=128, num_frames=33, num_inference_steps=_STEPS
            )
            took: dict[int, list[float]] = {1: [], 2: []}
            votes: list[float] = []
            for _ in range(rounds):
                for ranks, group in groups.items():
                    group.draw(spec)
                    took[ranks].append(group.ending.result.stage_durations["denoise"] / _STEPS)
                votes += _votes(groups[2])
            ratios = [one / two for one, two in zip(took[1], took[2], strict=True)]
            sys.stdout.write(
                f"{name}: {statistics.median(took[1]):.3f} s a step alone, {statistics.median(took[2]):.3f} s in two processes, "
                f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds); "
                f"a vote {1000 * statistics.median(votes):.2f} ms; load {os.getloadavg()[0]:.1f}\n"
            )
        for group in groups.values():
            group.kill()
        forks.close()


def _votes(group: RankGroup) -> list[float]:
    waits = [np.load(group.taps / f"votes-{rank}.npy") for rank in (0, 1)]
    return [float(wait) for wait in np.minimum(*waits)]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
