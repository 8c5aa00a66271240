"""Draw the run of a pool from its log: `python scripts/draw_pool.py <home>/launcher/POOL.jsonl OUT.svg`.

Above, the workers by what they do and how many were wanted; below, the jobs that waited. Marks are what befell machines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt

#: Phase -> (its word in the picture, colour), from the bottom up.
_PHASES = {
    "busy": ("drawing", "#2f6f9f"),
    "idle": ("idle", "#9cc3dd"),
    "starting": ("starting", "#f0c36d"),
    "placing": ("without a machine", "#e5e5e5"),
    "draining": ("leaving", "#b9a3c9"),
    "doomed": ("leaving a machine that goes away", "#d98880"),
    "lost": ("no message", "#333333"),
}

#: Event -> its word.
_MARKS = {"lost": "machine gone", "notice": "notice"}


def main() -> None:
    """Read the log, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.log.read_text(encoding="utf-8").splitlines()]
    samples = [line for line in lines if "phases" in line]
    if not samples:
        parser.error(f"log: {str(options.log)!r} has no sample of a pool")
    # Without a date and random names in the file: the same log gives the same picture.
    plt.rcParams["svg.hashsalt"] = "pool"
    plt.rcParams["svg.fonttype"] = "none"
    figure = draw(samples, [line for line in lines if line.get("event") in _MARKS])
    figure.savefig(options.out, metadata={"Date": None})


def draw(samples: list[dict[str, Any]], events: list[dict[str, Any]]) -> Any:
    """The figure of these samples and events."""
    begun = samples[0]["at"]
    # What the last sample says holds on for a while: no line is written when nothing changes.
    samples = [*samples, {**samples[-1], "at": samples[-1]["at"] + 5.0}]
    times = [sample["at"] - begun for sample in samples]
    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(10, 5.2), height_ratios=(2.2, 1), layout="constrained"
    )
    shown = [phase for phase in _PHASES if any(sample["phases"].get(phase) for sample in samples)]
    upper.stackplot(
        times,
        [[sample["phases"].get(phase, 0) for sample in samples] for phase in shown],
        labels=[_PHASES[phase][0] for phase in shown],
        colors=[_PHASES[phase][1] for phase in shown],
        step="post",
    )
    upper.step(times, [sample["wanted"] for sample in samples], "k--", where="post", linewidth=1.2, label="wanted")
    upper.set_ylabel("workers")
    lower.fill_between(times, [sample["waiting"] for sample in samples], step="post", color="#888888")
    lower.set_ylabel("jobs that wait")
    lower.set_xlabel("seconds")
    marked: dict[str, float] = {}
    for event in events:
        at, word = event["at"] - begun, _MARKS[event["event"]]
        # Of a machine with several workers each says so.
        if at - marked.get(word, -1e9) > 10:
            upper.axvline(at, color="#c0392b", linewidth=1.2)
            lower.axvline(at, color="#c0392b", linewidth=1.2)
            upper.text(at, upper.get_ylim()[1], f" {word}", color="#c0392b", va="top", fontsize=9)
        marked[word] = at
    upper.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(shown) + 1, frameon=False, fontsize=9)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    upper.yaxis.get_major_locator().set_params(integer=True)
    return figure


if __name__ == "__main__":
    main()
