"""`python -m bench COMMAND`: one plan per command, filled here once; every command returns a report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import run_all
from bench.commands import COMMANDS, Command
from bench.report import plot, report
from bench.report.errors import BadPlan, BenchError


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Zoetrope.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=_examples(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_options(sub)
        sub.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
        sub.add_argument("--plot", metavar="FILE", help="also draw them as a PNG")
        sub.set_defaults(measure=command.run)
    run_all.add_command(commands)
    return parser


def _examples(command: Command) -> str:
    lines = [f"  python -m bench {command.name} {arguments}".rstrip() for arguments, _ in command.examples]
    width = max(map(len, lines))
    pairs = zip(lines, command.examples, strict=True)
    return "examples:\n" + "\n".join(f"{line:<{width}}   # {text}" for line, (_, text) in pairs)


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
    """Exit status: 0 measured, 1 could not be measured, 2 an option is wrong, 130 stopped by Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.command == run_all.NAME:
            run_all.run(arguments)
        else:
            check_targets(arguments.json, arguments.plot)
            publish(arguments.measure(arguments), arguments.json, arguments.plot)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadPlan) else 1
    except KeyboardInterrupt:
        return 130
    return 0
