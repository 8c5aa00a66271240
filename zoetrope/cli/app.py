"""The command's entry: all commands, and errors as one sentence with an exit code."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zoetrope.cli import doctor, generate, jobs, pool, programs
from zoetrope.cli.terminal import EXIT_CODES, err, exit_code, sentence
from zoetrope.client.errors import ZoetropeError

# One list: help puts an empty line between paragraphs.
_CODES = "\n".join(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="zoetrope",
    help="Draw videos and images with a Zoetrope service, look after it, and run it.",
    epilog=f"Exit codes:\n\n{_CODES}",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (generate, jobs, pool, doctor, programs):
    part.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            version = importlib.metadata.version("zoetrope")
        except importlib.metadata.PackageNotFoundError:
            version = "of a checkout that is not installed"
        typer.echo(f"zoetrope {version}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (`EXIT_CODES`)."""
    try:
        code = app(args=None if argv is None else list(argv), prog_name="zoetrope", standalone_mode=False)
    except ZoetropeError as error:
        err().print(f"zoetrope: {sentence(error)}", markup=False)
        return exit_code(error)
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        # One sentence, as every other error: an option that there is not, a value that it does not take.
        err().print(f"zoetrope: {error.format_message().rstrip('.')}; --help lists the options", markup=False)
        return 2
    except BrokenPipeError:
        # `zoetrope ps | head`: the reader is gone. Nor shall the interpreter write on, at its end.
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0
