"""One clip whose engine is killed at two thirds of its steps: after which step it goes on, and how soon.

`python -m scripts.resume_clip --model DIRECTORY [--gpus 0] [--steps 18] [--size 832x480x81] [--checkpoint-s 3]` draws the clip once
undisturbed, then again with `kill -9` of the engine, and prints one JSON object. On a GPU the two files may differ by the video encoder
although their latents do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.harness.job_client import JobClient, spec_of
from bench.harness.procs import temporary_home
from bench.harness.service import Service, demo_model
from bench.report.errors import BenchError
from broker.client.errors import BrokerError
from broker.wire import messages as m
from broker.wire.terms import FINAL_NAMES

_LOOK_S = 0.02
_PATIENCE_S = 600.0
_RESUMED = re.compile(r"after step (\d+) of")


async def _once(desk: JobClient, job_id: str, is_so: Callable[[m.JobView], bool]) -> m.JobView:
    """The job, once it is so, or final."""
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        with contextlib.suppress(BrokerError):
            view = await desk.client.get(job_id)
            if view is not None and (view.state in FINAL_NAMES or is_so(view)):
                return view
        await asyncio.sleep(_LOOK_S)
    raise BenchError(f"job {job_id} did not come so far within {_PATIENCE_S:.0f} s")


async def measure(service: Service, steps: int, size: tuple[int, int, int]) -> dict[str, Any]:
    """Draw the clip twice, the second time with a kill. Raises `BenchError`."""
    width, height, frames = size
    async with JobClient(service.settings.front_endpoint) as desk:
        card = (await service.idle(desk.client)).workers[0].models[0]
        spec = spec_of(card, width=width, height=height, num_frames=frames, num_inference_steps=steps, seed=7)
        begun = time.monotonic()
        calm = await _once(desk, await desk.submit(spec, card), lambda view: False)
        calm_s = time.monotonic() - begun
        await service.idle(desk.client)
        job_id, at = await desk.submit(spec, card), -(-2 * steps // 3)
        hit = await _once(desk, job_id, lambda view: view.phase == "denoise" and view.step >= at)
        killed = time.monotonic()
        for process in service.processes["workers"].engines():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await _once(
            desk, job_id, lambda view: view.attempts > hit.attempts and view.phase == "denoise" and view.step > 0
        )
        again = time.monotonic()
        ended = await _once(desk, job_id, lambda view: False)
        done = time.monotonic()
    found = _RESUMED.match(ended.result.used.get("resumed", "")) if ended.result is not None else None
    resumed = int(found[1]) if found is not None else 0
    digests = {artefact.sha256 for view in (calm, ended) if view.result for artefact in view.result.artefacts}
    return {
        "size": f"{width}x{height}x{frames}",
        "steps": steps,
        "undisturbed": calm.state,
        "undisturbed_s": round(calm_s, 2),
        "killed_at_step": hit.step,
        "state": ended.state,
        "attempts": ended.attempts,
        "went_on_after_step": resumed,
        "steps_drawn_twice": max(0, hit.step - resumed),
        "kill_to_denoising_s": round(again - killed, 2),
        "kill_to_end_s": round(done - killed, 2),
        "same_file": len(digests) == 1,
    }


def main(argv: Sequence[str]) -> int:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description="Kill a clip's engine at two thirds of its steps.")
    parser.add_argument("--model", default=str(demo_model()), help="a diffusers directory (default: the demo model)")
    parser.add_argument("--gpus", default="cpu:1", help="what the worker runs on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--size", default="64x64x17", help="width x height x frames (default: %(default)s)")
    parser.add_argument("--checkpoint-s", type=float, default=3.0, help="seconds between checkpoints")
    given = parser.parse_args(argv)
    width, height, frames = map(int, given.size.split("x"))
    with temporary_home("") as home:
        options = ("--checkpoint-s", f"{given.checkpoint_s:g}")
        service = Service(Path(home), gpus=given.gpus, model=given.model, workers_options=options)
        service.start("broker", "workers")
        try:
            told = asyncio.run(measure(service, given.steps, (width, height, frames)))
        finally:
            service.stop()
    print(msgspec.json.encode(told).decode())
    return 0 if told["state"] == "succeeded" and told["attempts"] > 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
