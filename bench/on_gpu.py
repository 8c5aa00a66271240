"""All that only a GPU can show, in order of worth, for a machine that is there for minutes: `python -m bench.on_gpu [--out FILE]`.

Each section is a process with a limit of its own; its output by then is kept. A section that no longer fits into the time that is
left is skipped, and reported. `--device cpu` goes through the same list with tiny shapes, to check that it runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench.harness.process import ROOT, clean_environ
from bench.harness.service import demo_model

#: What is left for a section to begin at all.
_LEAST_S = 20.0


class Section(Struct, frozen=True, kw_only=True):
    """One measurement: a command, how long it may take, and what is written to its stdin."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    stdin: bytes = b""


class SectionResult(Struct, frozen=True, kw_only=True):
    """Result of a section. `said` is the JSON of its last line, or its last lines as text."""

    name: str
    ending: str
    took_s: float = 0.0
    said: Any = None


#: Of the ways to be quicker, those that there is time for, in order of worth.
_VARIANTS = (
    "lossless", "compile-cache", "cache-fast", "compile", "attention", "bf16-vae", "cache-safe", "fp8-dynamic", "4-step",
)  # fmt: skip


def sections(device: str, home: Path) -> list[Section]:
    """The list, the most worth first."""
    on_gpu = device == "cuda"
    weights = "wan-1.3b" if on_gpu else "tiny"
    model = home / weights
    size = [832, 480, 81] if on_gpu else [64, 64, 5]
    # The others need what a CPU has not, or compile for minutes.
    variants = _VARIANTS if on_gpu else ("attention", "bf16-vae", "cache-fast", "4-step")
    order = {
        "model": str(model),
        "device": device,
        "threads": 0 if on_gpu else 1,
        "steps": 12 if on_gpu else 4,
        "size": size,
        "variants": variants,
    }
    gpus = "0" if on_gpu else "cpu:1"

    def step(shape: str, limit_s: float) -> Section:
        shape = shape if on_gpu else "tiny"
        command = ("-m", "scripts.step_time", shape, "--device", device, "--repeats", "2")
        return Section(name=f"step {shape}", command=command, limit_s=limit_s)

    drawn = ("-m", "bench.suites.random_model", weights, str(model), str(demo_model() / "tokenizer"), device)
    clip = ("--size", "x".join(map(str, size)), "--steps", "18" if on_gpu else "12")
    killed = (
        "-m",
        "scripts.resume_clip",
        "--model",
        str(model),
        "--gpus",
        gpus,
        *clip,
        "--checkpoint-s",
        "3" if on_gpu else "0.01",
    )
    return [
        Section(name="gpu tests", command=("-m", "pytest", "-q", "-m", "gpu", "tests/gpu"), limit_s=150),
        Section(name=f"draw {weights}", command=drawn, limit_s=90),
        Section(name="variants", command=("-m", "scripts.engine_speed"), limit_s=330, stdin=msgspec.json.encode(order)),
        Section(name="killed clip", command=killed, limit_s=170),
        step("wan-14b-i2v", 150),
        *([step("wan-1.3b", 90), step("flux", 90)] if on_gpu else []),
        Section(
            name="hand-over", command=("-m", "bench", "engine", "--jobs", "3", "--rounds", "1", "--gpus", gpus, "--steps", "4"),
            limit_s=120,
        ),
        Section(
            name="respawn", command=("-m", "bench", "recover", "--repeats", "1", "--queued", "0"),
            limit_s=120,
        ),
    ]  # fmt: skip


def run(
    planned: Sequence[Section],
    budget_s: float,
    keep: Callable[[list[SectionResult]], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[SectionResult]:
    """Run the sections; return their results, in order. `keep` gets all results so far after each."""
    begun, told = clock(), list[SectionResult]()
    for section in planned:
        left = budget_s - (clock() - begun)
        if left < _LEAST_S:
            told.append(SectionResult(name=section.name, ending=f"skipped: {left:.0f} s were left"))
        else:
            told.append(_one(section, min(section.limit_s, left), clock))
        print(f"{told[-1].name}: {told[-1].ending}, {told[-1].took_s:.1f} s", file=sys.stderr, flush=True)
        keep(told)
    return told


def _one(section: Section, limit_s: float, clock: Callable[[], float]) -> SectionResult:
    begun = clock()
    with tempfile.TemporaryFile() as out, subprocess.Popen(
        [sys.executable, *section.command], cwd=ROOT, stdin=subprocess.PIPE, stdout=out, env=clean_environ(OMP_WAIT_POLICY="PASSIVE")
    ) as process:  # fmt: skip
        try:
            process.communicate(section.stdin, timeout=limit_s)
            ending = "done" if process.returncode == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            ending = f"stopped after {limit_s:.0f} s"
        out.seek(0)
        text = out.read().decode(errors="replace")
    return SectionResult(name=section.name, ending=ending, took_s=round(clock() - begun, 1), said=said(text))


def said(text: str) -> Any:
    """The JSON of the last line that is some; else the last lines as they are."""
    lines = text.strip().splitlines()
    for line in reversed(lines[-3:]):
        if line.startswith(("{", "[")):
            try:
                return msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
    return lines[-30:]


def table(told: Sequence[SectionResult]) -> str:
    """All figures, a line each."""
    lines = []
    for section in told:
        lines.append(f"## {section.name}: {section.ending}, {section.took_s:.1f} s")
        rows = section.said if isinstance(section.said, list) else [section.said] if section.said is not None else []
        for row in rows:
            lines.append(
                "  "
                + ("  ".join(f"{key}={value}" for key, value in row.items()) if isinstance(row, dict) else str(row))
            )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the list."""
    parser = argparse.ArgumentParser(description="Measure what only a GPU can show.")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--budget", type=float, default=840.0, help="seconds for all of it (default: %(default)s)")
    parser.add_argument("--out", default="on_gpu.json", help="file of the results (default: %(default)s)")
    parser.add_argument("--only", default="", help="names of sections, comma-separated, by their beginnings")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as home:
        wanted = tuple(given.only.split(",")) if given.only else ("",)
        planned = [section for section in sections(given.device, Path(home)) if section.name.startswith(wanted)]
        told = run(planned, given.budget, lambda told: _keep(Path(given.out), told))
    print(table(told))
    return 0


def _keep(file: Path, told: Sequence[SectionResult]) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(told)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
