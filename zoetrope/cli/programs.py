"""Commands that run a program of the service: serve, pull, keys, bench. Their options are the program's, `--help` as well."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer

#: Command -> the module and first arguments it runs, and what it does.
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "serve": (("zoetrope.serving",), "Run the whole service here, in the foreground."),
    "pull": (("workers", "pull"), "Fetch a model from the hub."),
    "keys": (("http_edge", "keys"), "Make, list and remove API keys."),
    "bench": (("bench",), "Measure the service."),
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, (line, about) in PROGRAMS.items():
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=about, add_help_option=False, context_settings=settings)(_command(line))


def _command(line: Sequence[str]) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        become([*line, *context.args])

    return run


def become(line: Sequence[str]) -> NoReturn:
    """Go on as `python -m LINE`: the same process, so that signals reach the program itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", *line])
