"""Measure how long a device stands idle when one job follows another in an engine.

Reads a JSON object from stdin, {"model": directory, "device": "cpu" or "cuda", "threads": n, "jobs": n, "after_s": seconds}, draws so many
jobs of the model's own size through the worker's runner, each given `after_s` after the engine asked for it, in two threads as the engine's
loop has them. It prints the milliseconds of every hand-over: of the time from the end of a job's last denoising step to the beginning of
the next job's first one, that in which no model of the pipeline computed anything, neither the next job's text encoder nor the VAE of the
one before.

    echo '{"model": "workers/demo_model", "jobs": 8}' | .venv/bin/python -m scripts.engine_idle
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from bench.suites.idle import Order, Span, idle_ms
from broker.wire.jobspec import JobSpec, encode_spec
from workers.engine.loop import SWITCH_S
from workers.engine.pipelines import Pipelines
from workers.engine.registry import Registry
from workers.engine.runner import Runner
from workers.ipc.messages import JobFinished, NextRequested, PostprocessBegun, RunJob, Setup
from workers.ipc.shared import SLOTS, SharedCounters
from workers.models.catalogue import model_for

#: Jobs that do not count: two measure what a job takes before others are drawn beside their tails.
_UNCOUNTED = 2


class Watch:
    """Times at which the models of a pipeline computed, by the device's clock."""

    def __init__(self, pipe: Any, device: str) -> None:
        self._cuda: Any = torch.cuda if device == "cuda" else None
        self._base = self._event()
        #: (what, begin, end), in the order of their ends.
        self._spans: list[tuple[str, Any, Any]] = []
        parts = {"denoiser": pipe.transformer, "text encoder": pipe.text_encoder, "vae": pipe.vae.decoder}
        for what, module in parts.items():
            begun: list[Any] = []
            module.register_forward_pre_hook(lambda *_, begun=begun: begun.append(self._event()))
            module.register_forward_hook(
                lambda *_, begun=begun, what=what: self._spans.append((what, begun.pop(), self._event()))
            )

    def _event(self) -> Any:
        if self._cuda is None:
            return time.perf_counter()
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def spans(self) -> list[Span]:
        """All of them, in seconds."""
        if self._cuda is None:
            return [Span(what, begin, end) for what, begin, end in self._spans]
        self._cuda.synchronize()
        since = self._base.elapsed_time
        return [Span(what, since(begin) / 1e3, since(end) / 1e3) for what, begin, end in self._spans]


def measure(order: Order) -> list[float]:
    """Milliseconds of each hand-over."""
    model = model_for(order.model, "measured", {})
    card = model.card
    setup = Setup(
        models=(card,), preload=card.name, device=order.device, threads=order.threads, setups={card.name: model.setup}
    )
    registry = Registry(setup)
    engine: Any = registry.engine(card)
    engine.load(card)
    pipelines: Pipelines = engine.pipelines
    watch = Watch(pipelines.loaded(card.name).pipe, order.device)
    asked, ended = threading.Semaphore(0), threading.Semaphore(0)
    early = set[int]()

    def send(message: Struct) -> None:
        if isinstance(message, NextRequested):
            early.add(message.fence)
            asked.release()
        elif isinstance(message, PostprocessBegun):
            if message.fence not in early:
                asked.release()
        elif isinstance(message, JobFinished):
            ended.release()
        else:
            raise SystemExit(f"a job did not end well: {message}")

    runner = Runner(registry, {card.name: card}, SharedCounters.create(), send, lambda: None)
    usual = card.defaults
    sys.setswitchinterval(SWITCH_S)
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(2) as callers:
        for number in range(_UNCOUNTED + order.jobs):
            out = Path(place, str(number))
            out.mkdir()
            spec = JobSpec(
                model=card.name, output=card.output, prompt=f"a red circle moving right, take {number}", width=usual.width,
                height=usual.height, num_frames=usual.num_frames, fps=usual.fps, seed=number,
                guidance_scale=usual.guidance_scale, num_inference_steps=usual.num_inference_steps,
                max_sequence_length=usual.max_sequence_length,
            )  # fmt: skip
            body = encode_spec(spec)
            job = RunJob(job_id=str(number), fence=number + 1, body=body, out_dir=str(out), slot=number % SLOTS)
            running = callers.submit(runner.run, job)
            if number < _UNCOUNTED:
                ended.acquire()
                running.result()
                while asked.acquire(blocking=False):
                    """It is given one when this one has ended."""
            else:
                asked.acquire()
                time.sleep(order.after_s)
        for _ in range(order.jobs):
            ended.acquire()
    return idle_ms(watch.spans(), forwards_of(usual.num_inference_steps, usual.guidance_scale))[_UNCOUNTED:]


def forwards_of(steps: int, guidance: float | None) -> int:
    """Calls of the denoiser in a job: two a step with guidance."""
    return steps * (2 if guidance and guidance > 1 else 1)


def main(run: Callable[[Order], Sequence[float]] = measure) -> int:
    """Measure what the JSON on stdin describes."""
    logging.disable(logging.WARNING)
    found = run(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
