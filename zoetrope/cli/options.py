"""Options that several commands share, and the client that they open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoetrope.client.client import Client
from zoetrope.client.errors import ZoetropeError
from zoetrope.client.retries import RetryPolicy

Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="ZOETROPE_URL", help="The service [default: http://127.0.0.1:8000].", show_default=False
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", help="File with the API key [default: the variable ZOETROPE_API_KEY].", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write what the service answered, as JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]

#: A person waits at the terminal: a service that does not answer is reported at once. Events and downloads have patience of their own.
_POLICY = RetryPolicy(most=2, first_s=0.2)


def opened(url: str | None, key_file: Path | None) -> Client:
    """The client for these options. Raises `ZoetropeError`."""
    key = None
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ZoetropeError(f"--key-file: {str(key_file)!r} cannot be read: {error}") from None
    return Client(url, key, retries=_POLICY)
