"""`python -m bench COMMAND`: one plan per command, filled here once; every command returns a report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench import brokerbench, load, plot, report, workload
from bench.errors import BadPlan, BenchError


class Command(Struct, frozen=True):
    """One measurement: its name, one sentence, its options, and how it is run."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], report.Report]


def _broker_options(parser: argparse.ArgumentParser) -> None:
    default = brokerbench.BrokerPlan()
    option = parser.add_argument
    option("--workers", type=int, default=default.workers, help="simulated workers (default: %(default)s)")
    option("--credit", type=int, default=default.credit, help="jobs a worker may hold (default: %(default)s)")
    option("--window", type=int, default=default.window, help="jobs outstanding in the rate run (default: %(default)s)")
    option("--jobs", type=int, default=default.jobs, help="jobs of the rate run (default: %(default)s)")
    option("--latency-jobs", type=int, default=default.latency_jobs, help="jobs one by one (default: %(default)s)")
    option("--repeats", type=int, default=default.repeats, help="fresh brokers; medians (default: %(default)s)")
    option("--body-bytes", type=int, default=default.body_bytes, help="size of a job spec (default: %(default)s)")
    option("--directory", default=default.directory, help="where the journal is put (default: the temporary directory)")
    option("--watch", action="store_true", help="have the client watch all jobs, as an edge does")
    option("--no-pin", action="store_true", help="leave cores to the system instead of giving the broker its own")


def _run_broker(arguments: argparse.Namespace) -> report.Report:
    return brokerbench.run(
        brokerbench.BrokerPlan(
            workers=arguments.workers,
            credit=arguments.credit,
            window=arguments.window,
            jobs=arguments.jobs,
            latency_jobs=arguments.latency_jobs,
            repeats=arguments.repeats,
            body_bytes=arguments.body_bytes,
            directory=arguments.directory,
            watch=arguments.watch,
            pin=not arguments.no_pin,
        )
    )


def _load_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--url", default="http://127.0.0.1:8000", help="address of an edge (default: %(default)s)")
    option("--rate", type=float, required=True, help="requests a second, on average")
    option("--jobs", type=int, required=True, help="requests in all")
    option("--seed", type=int, default=0, help="draws arrivals, sizes and prompts (default: %(default)s)")
    option("--prompt", action="append", default=[], help="prompt; repeat it for several (default: four short ones)")
    option("--model", default="", help="model (default: the server's)")
    option("--size", default="", help="WxH[xFRAMES][@WEIGHT], comma-separated for a mix (default: the model's)")
    option("--steps", default="", help="step count, comma-separated for a mix (default: the model's)")
    option("--timeout", type=float, default=600.0, help="seconds to wait after the last arrival (default: %(default)s)")


def _run_load(arguments: argparse.Namespace) -> report.Report:
    return load.run(
        load.LoadPlan(
            url=arguments.url.rstrip("/"),
            rate=arguments.rate,
            jobs=arguments.jobs,
            seed=arguments.seed,
            prompts=tuple(arguments.prompt) or workload.DEFAULT_PROMPTS,
            model=arguments.model,
            shapes=workload.parse_shapes(arguments.size),
            steps=workload.parse_steps(arguments.steps),
            timeout_s=arguments.timeout,
        )
    )


COMMANDS = (
    Command("broker", "no-op jobs through a real broker: rate, processor time, latency", _broker_options, _run_broker),
    Command("load", "open-loop requests to a running service: waits, latency, GPU use", _load_options, _run_load),
)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Zoetrope.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        command.add_options(sub)
        sub.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
        sub.add_argument("--plot", metavar="FILE", help="also draw them as a PNG")
        sub.set_defaults(run=command.run)
    return parser


def check_targets(*paths: str | None) -> None:
    """Refuse an unwritable file before minutes of measuring. Raises `BadPlan`."""
    for path in paths:
        if path and (not Path(path).parent.is_dir() or Path(path).is_dir()):
            raise BadPlan(f"{path!r} cannot be written: its directory must exist, and it must not be one")


def publish(result: report.Report, json_file: str | None, plot_file: str | None) -> None:
    """The table to stdout, the rest to files. Raises `BenchError`."""
    about: dict[str, Any] = report.machine()
    print(report.as_table(result, about))
    if json_file:
        report.write(json_file, report.as_json(result, about, time.time()))
    if plot_file:
        report.write(plot_file, plot.render(result, f"{about['cpu']}, {about['cores']} cores"))


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 measured, 1 could not be measured, 2 asked for nonsense, 130 stopped by Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    try:
        check_targets(arguments.json, arguments.plot)
        publish(arguments.run(arguments), arguments.json, arguments.plot)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadPlan) else 1
    except KeyboardInterrupt:
        return 130
    return 0
