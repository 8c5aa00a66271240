"""A fuzzer that keeps what was new: inputs that made a target say what none had before are mutated further."""

from __future__ import annotations

import time
from random import Random

from msgspec import Struct

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Feature, Frames, Target


class Finding(Struct, frozen=True):
    """An input that a target may not refuse in this way."""

    target: str
    frames: Frames
    error: str


class Report(Struct):
    """What came out of one target."""

    target: str
    runs: int = 0
    features: int = 0
    finding: Finding | None = None


class _Corpus:
    """Inputs that were new. Those that were taken are half of what is picked: most new ways to be refused lead nowhere."""

    def __init__(self) -> None:
        self.taken: list[Frames] = []
        self.refused: list[Frames] = []

    def add(self, frames: Frames, feature: Feature) -> None:
        refused = bool(feature) and str(feature[0]).endswith("Error")
        (self.refused if refused else self.taken).append(frames)

    def pick(self, random: Random) -> Frames:
        first, second = (self.taken, self.refused) if random.random() < 0.5 else (self.refused, self.taken)
        return random.choice(first or second or [[b""]])


def fuzz(target: Target, seed: int, *, runs: int = 0, seconds: float = 0.0) -> Report:
    """Run a target so often, or for so long; stops at the first finding."""
    random = Random(f"{seed} {target.name}")
    report = Report(target.name)
    seen: set[Feature] = set()
    corpus = _Corpus()
    end = time.monotonic() + seconds
    for frames in target.seeds:
        _try(target, frames, seen, corpus, report)
    while report.finding is None and (report.runs < runs or (seconds and time.monotonic() < end)):
        _try(target, mutated(corpus.pick(random), corpus.pick(random), random), seen, corpus, report)
    report.features = len(seen)
    return report


def _try(target: Target, frames: Frames, seen: set[Feature], corpus: _Corpus, report: Report) -> None:
    report.runs += 1
    try:
        feature = target.run(frames)
    except Exception as error:  # whatever a target lets through is a finding
        text = f"{type(error).__name__}: {str(error)[:300]}"
        report.finding = Finding(target.name, smallest(target, frames, type(error)), text)
        return
    if feature not in seen:
        seen.add(feature)
        corpus.add(frames, feature)


def smallest(target: Target, frames: Frames, error: type[Exception]) -> Frames:
    """A part of the input that still shows the error: frames and then halves, quarters … of each left out."""
    for index in reversed(range(len(frames))):
        fewer = frames[:index] + frames[index + 1 :]
        if _shows(target, fewer, error):
            frames = fewer
    for index in range(len(frames)):
        size = len(frames[index]) // 2
        while size:
            at = 0
            while at < len(frames[index]):
                frame = frames[index]
                fewer = [*frames[:index], frame[:at] + frame[at + size :], *frames[index + 1 :]]
                if _shows(target, fewer, error):
                    frames = fewer
                else:
                    at += size
            size //= 2
    return frames


def _shows(target: Target, frames: Frames, error: type[Exception]) -> bool:
    try:
        target.run(frames)
    except error:
        return True
    except Exception:  # another finding, for another day
        return False
    return False
