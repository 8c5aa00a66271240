"""`python -m tests.fuzz`: fuzz every reader of bytes for a while, or replay an input."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from tests.fuzz.fuzzer import Finding, fuzz
from tests.fuzz.targets import TARGETS


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every place where bytes are read.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs (default %(default)s)")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="this one alone")
    parser.add_argument("--replay", nargs="+", metavar="HEX", help="with --target: the frames of one input")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    chosen = [target for target in TARGETS if options.target in (None, target.name)]
    if options.replay:
        print(chosen[0].run([bytes.fromhex("" if text == "-" else text) for text in options.replay]))
        return 0
    found = 0
    for target in chosen:
        report = fuzz(target, options.seed, seconds=options.seconds / len(chosen))
        print(f"{report.runs:9} runs {report.features:6} ways  {target.name}", flush=True)
        if report.finding is not None:
            found += 1
            print(explain(report.finding))
    return 1 if found else 0


def explain(finding: Finding) -> str:
    """What was found, and the command that shows it."""
    frames = " ".join(frame.hex() or "-" for frame in finding.frames) or "-"
    return f"{finding.error}\n    python -m tests.fuzz --target {finding.target} --replay {frames}"
