"""Commands that run a program of the service: serve, pull, keys, bench. Their options are the program's, `--help` as well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

#: Command -> the module and first arguments it runs, and what it does.
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "serve": (("zoetrope.serving",), "Run the whole service here, in the foreground."),
    "pull": (("workers", "pull"), "Fetch a model from the hub."),
    "keys": (("http_edge", "keys"), "Make, list and remove API keys."),
    "bench": (("bench",), "Measure the service."),
}

#: Of a program's help: an option, with what it is for on the same line; and a command of its own.
_OPTION = re.compile(r"^  (?:-\w(?: \S+)?, )?(--[\w-]+)(.*)$", re.MULTILINE)
_COMMAND = re.compile(r"^    (\w[\w-]*)(?:  +(.*))?$", re.MULTILINE)

#: Longest time for the words of a completion, seconds: the shell waits for them.
_HELP_S = 10.0


class _Program(TyperCommand):
    """A command that passes all its arguments, options too, to its program; shells complete them as arguments."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The words that the program could take here."""
        return [item for parameter in self.params for item in parameter.shell_complete(ctx, incomplete)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, (line, about) in PROGRAMS.items():
        settings = {"ignore_unknown_options": True}
        app.command(name, cls=_Program, help=about, add_help_option=False, context_settings=settings)(_command(line))


def _command(line: Sequence[str]) -> Callable[..., None]:
    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        given = next((words for words in ctx.params.values() if isinstance(words, list | tuple)), ())
        return [one for one in completions(line, given) if one[0].startswith(incomplete)]

    words = typer.Argument(None, autocompletion=complete)

    def run(arguments: list[str] | None = words) -> None:
        become([*line, *(arguments or ())])

    return run


def completions(line: Sequence[str], given: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The options and commands that a program takes behind the words given, each with what it is for, as its own help has them."""
    commands, options = _read_help(line)
    if given and given[0] in dict(commands):
        # The options are those of the command.
        commands, options = _read_help([*line, given[0]])
    return commands + options


def _read_help(line: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    try:
        ended = subprocess.run(
            [sys.executable, "-m", *line, "--help"],
            capture_output=True,
            text=True,
            timeout=_HELP_S,
            env={**os.environ, "COLUMNS": "200"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], []
    text = ended.stdout
    options = [(name, _about(rest)) for name, rest in _OPTION.findall(text)]
    usage, _, _ = text.partition("\n\n")
    commands = _COMMAND.findall(text.partition("COMMAND\n")[2].partition("\n\n")[0]) if "COMMAND" in usage else []
    return commands, options


def _about(rest: str) -> str:
    """Help behind an option's name, without its value."""
    return rest.partition("  ")[2].strip()


def become(line: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m LINE`, so that signals reach the program itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", *line])
