"""Makes the demo model's weights from nothing: `python -m scripts.demo_model.train --out DIRECTORY`.

Stages in a row: the autoencoder, the same once more on moving clips, its decoder alone, the latents of some thousand clips, the text
encoder, the transformer. Each stage leaves a checkpoint in the work directory, and the same command goes on from there after a stop.

On a CPU the command starts itself once more in several processes that share each step (see `ranks`).
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scripts.demo_model import ranks
from scripts.demo_model.dit_training import CLIPS, Latents, encode_clips, take_averages, transformer_stage
from scripts.demo_model.fast_convolution import speed_up
from scripts.demo_model.parts import (
    Student,
    TransformerSizes,
    new_text_encoder,
    new_tokenizer,
    new_transformer,
    save_pipeline,
)
from scripts.demo_model.reader_training import reader_stage
from scripts.demo_model.stages import TrainingError, seconds_spent, train
from scripts.demo_model.vae_training import Vae, VaeSizes, decoder_stage, new_vae, polish_stage, whole_stage

log = logging.getLogger(__name__)


_STEPS = ("autoencoder_steps", "polish_steps", "decoder_steps", "reader_steps", "transformer_steps")
_CORES = os.cpu_count() or 1
#: A step has no more parts than this.
_MOST_PROCESSES = 2


@dataclass(frozen=True)
class Plan:
    """All that decides the weights."""

    seed: int = 1
    autoencoder_steps: int = 1600
    polish_steps: int = 500
    decoder_steps: int = 700
    reader_steps: int = 3000
    transformer_steps: int = 3600
    vae: VaeSizes = field(default_factory=VaeSizes)
    transformer: TransformerSizes = field(default_factory=TransformerSizes)
    #: Clips to encode for each length in frames.
    clips: Mapping[int, int] = field(default_factory=lambda: CLIPS)


def make_model(plan: Plan, out: Path, work: Path, device: torch.device) -> None:
    """Train by the plan, going on from the checkpoints in `work`, and write the pipeline to `out`. Raises `TrainingError`."""
    work.mkdir(parents=True, exist_ok=True)
    vae = make_vae(plan, work, device)
    latents = encode_clips(vae, plan.clips, plan.seed, work)
    student = make_transformer(plan, latents, work, device)
    if ranks.rank() == 0:
        write_model(plan, vae, latents, student, out)


def make_vae(plan: Plan, work: Path, device: torch.device) -> Vae:
    """The trained autoencoder."""
    torch.manual_seed(plan.seed)
    vae = new_vae(plan.vae).to(device)
    speed_up(vae)
    for stage in (
        whole_stage(vae, plan.autoencoder_steps),
        polish_stage(vae, plan.polish_steps),
        decoder_stage(vae, plan.decoder_steps),
    ):
        train(stage, plan.seed, work / f"{stage.name}.pt")
    return vae


def make_transformer(plan: Plan, latents: Latents, work: Path, device: torch.device) -> Student:
    """The trained transformer and text encoder."""
    torch.manual_seed(plan.seed)
    student = Student(
        new_transformer(plan.vae.latent, plan.transformer).to(device),
        new_text_encoder(plan.transformer).to(device),
        new_tokenizer(),
    )
    train(reader_stage(student, plan.reader_steps), plan.seed, work / "reader.pt")
    stage = transformer_stage(student, latents, plan.transformer_steps)
    train(stage, plan.seed, work / "transformer.pt")
    take_averages(stage)
    return student


def write_model(plan: Plan, vae: Vae, latents: Latents, student: Student, out: Path) -> None:
    """Write the pipeline's directory, with an autoencoder that normalises its latents by what was measured."""
    mean, std = latents.statistics()
    shipped = new_vae(plan.vae)
    shipped.load_state_dict(vae.state_dict())
    shipped.register_to_config(
        latents_mean=[round(value, 4) for value in mean.tolist()],
        latents_std=[round(value, 4) for value in std.tolist()],
    )
    save_pipeline(out, shipped, student.transformer.cpu(), student.text_encoder.cpu())


def main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line; 0 when the model is written, 1 when training failed, 2 for a bad argument."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if arguments.processes > 1 and "WORLD_SIZE" not in os.environ:
        return _in_processes(arguments.processes, sys.argv[1:] if argv is None else argv)
    torch.set_num_threads(max(1, _CORES // arguments.processes))
    plan = Plan(arguments.seed, *(getattr(arguments, name) for name in _STEPS))
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    begun = time.monotonic()
    ranks.join()
    try:
        make_model(plan, arguments.out, work, torch.device(arguments.device))
    except (TrainingError, OSError) as error:
        log.error("training failed: %s", error)
        return 1
    finally:
        ranks.leave()
    if int(os.environ.get("RANK", "0")) != 0:
        return 0
    spent = {stage: seconds_spent(work / f"{stage}.pt") for stage in (name.removesuffix("_steps") for name in _STEPS)}
    told = ", ".join(f"{stage} {seconds / 60:.1f} min" for stage, seconds in spent.items())
    log.info("written to %s after %.1f min; over all runs: %s", arguments.out, (time.monotonic() - begun) / 60, told)
    return 0


def _in_processes(count: int, argv: Sequence[str]) -> int:
    """Run this command in `count` processes of this machine and give their exit code."""
    starter = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    environment = {"OMP_NUM_THREADS": str(max(1, _CORES // count)), **os.environ}
    return subprocess.run([*starter, "-m", "scripts.demo_model.train", *argv], env=environment, check=False).returncode


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m scripts.demo_model.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the pipeline to write")
    parser.add_argument("--work", type=Path, help="directory of checkpoints and latents (OUT.work)")
    parser.add_argument("--seed", type=int, default=plan.seed, help=f"({plan.seed})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument(
        "--processes", type=int, help="that share each step, at most 2 (2 on a CPU with cores for them, else 1)"
    )
    for name in _STEPS:
        value = getattr(plan, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"({value})")
    arguments = parser.parse_args(argv)
    if arguments.processes is None:
        arguments.processes = min(_MOST_PROCESSES, _CORES) if arguments.device == "cpu" else 1
    if arguments.processes > _MOST_PROCESSES:
        parser.error(f"--processes must be at most {_MOST_PROCESSES}, the parts of a step, not {arguments.processes}")
    for name in ("processes", *_STEPS):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(arguments, name)}")
    try:
        torch.device(arguments.device)
    except RuntimeError:
        parser.error(f"--device {arguments.device!r} is no device of torch")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
