"""A job that is prepared beside another, in a real engine: neither is drawn differently from how it is drawn alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard, encode_spec
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import tapped
from workers.engine.registry import Registry
from workers.engine.runner import Runner
from workers.ipc.messages import JobFinished, NextRequested, RunJob, Setup
from workers.ipc.shared import SLOTS, SharedCounters
from workers.models.catalogue import default_model, model_for

_PATIENCE_S = 120.0


class Engine:
    """A runner over the demo model. `run` gives each job to it as soon as the one before asks for the next, or when that has ended."""

    def __init__(self, place: Path) -> None:
        model = model_for(str(default_model()), "m", {"limits": {"min_side": 64}})
        self.card: ModelCard = model.card
        setup = Setup(models=(self.card,), preload="m", device="cpu", threads=1, setups={"m": model.setup})
        self._place = place
        self._news = threading.Condition()
        self.said: list[Struct] = []
        self.words = SharedCounters.create()
        self._runner = Runner(Registry(setup), {"m": self.card}, self.words, self._say, lambda: None)
        self._callers = ThreadPoolExecutor(2)
        self._count = 0

    def _say(self, message: Struct) -> None:
        with self._news:
            self.said.append(message)
            self._news.notify_all()

    def _give(self, spec: JobSpec) -> Path:
        self._count += 1
        directory = self._place / str(self._count)
        directory.mkdir()
        self._callers.submit(
            self._runner.run,
            RunJob(
                job_id=str(self._count),
                fence=self._count,
                body=encode_spec(spec),
                out_dir=str(directory),
                slot=self._count % SLOTS,
                checkpoints=str(self._place / f"checkpoints-{self._count}"),
            ),
        )
        return directory

    def _wait(self, kind: type[Struct], fence: int) -> bool:
        """Wait for this of the job, or for its end; whether it was the former."""

        def found() -> list[Struct]:
            return [one for one in self.said if isinstance(one, kind | JobFinished) and one.fence == fence]  # type: ignore[union-attr]

        with self._news:
            assert self._news.wait_for(found, _PATIENCE_S), self.said
        return isinstance(found()[0], kind)

    def run(self, *specs: JobSpec) -> tuple[list[Any], int]:
        """(raw frames of each, how many were given before the one before had ended)."""
        asked = 0
        with tapped() as frames:
            places = []
            for spec in specs:
                places.append(self._give(spec))
                asked += self._wait(NextRequested, self._count)
            for number in range(self._count - len(specs), self._count):
                self._wait(JobFinished, number + 1)
        return [np.concatenate(frames[place / "video.mp4"]) for place in places], asked

    def close(self) -> None:
        self._callers.shutdown()
        self.words.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("prepared"))
    yield made
    made.close()


def job(engine: Engine, prompt: str, seed: int, **fields: Any) -> JobSpec:
    return spec_for(
        engine.card, prompt=prompt, seed=seed, num_frames=5, num_inference_steps=4, width=64, height=64, **fields
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"extra": {"flow_shift": 2.0}},
        {"previews": 2},
        {"guidance_scale": 3.0, "negative_prompt": "blue"},
    ],
    ids=["plain", "another shift", "previews", "guidance"],
)
def test_frames_are_those_of_jobs_that_are_drawn_alone(engine: Engine, fields: dict[str, Any]) -> None:
    specs = [
        job(engine, "a red circle moving right", 1),
        job(engine, "a blue square moving left", 2, **fields),
        job(engine, "a green star", 3),
    ]
    alone = [engine.run(spec)[0][0] for spec in (*specs, specs[0])][:3]
    engine.run(specs[1])
    together, asked = engine.run(*specs)
    assert asked, "the next was asked for beside the one before"
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
