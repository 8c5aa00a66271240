"""Output to a terminal: tables and lines, JSON instead of them, and exit codes for scripts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from zoetrope.client.errors import (
    Forbidden,
    JobCancelled,
    JobFailed,
    NotFound,
    NotThisService,
    QueueFull,
    ServiceError,
    ServiceFault,
    ServiceUnreachable,
    Unauthorized,
    Unavailable,
    WaitTimeout,
    ZoetropeError,
)

#: Exit codes and what they mean, printed in docs/command.md.
EXIT_CODES = {
    0: "done",
    1: "the job failed, or a check of `doctor` or `verify` did",
    2: "an option is wrong, or the service refuses a value",
    3: "the service cannot be reached, or cannot serve now",
    4: "there is no such job, model, worker or file",
    5: "an API key is needed, or may not do this",
    6: "the job was cancelled by somebody else",
    7: "`--timeout` passed; the job goes on",
    130: "Ctrl-C; of `generate`, the job was cancelled",
}

#: The first that fits counts.
_CODES: tuple[tuple[type[ZoetropeError], int], ...] = (
    (JobFailed, 1),
    (JobCancelled, 6),
    (WaitTimeout, 7),
    (Unauthorized, 5),
    (Forbidden, 5),
    (NotFound, 4),
    (QueueFull, 3),
    (Unavailable, 3),
    (ServiceFault, 3),
    (ServiceUnreachable, 3),
    (NotThisService, 3),
)

#: Columns where there is no terminal that could break a line.
_WIDE = 200

#: Longest part of a prompt in a table.
_PROMPT_CHARS = 48


def out() -> Console:
    """The console of results: plain, and never broken into lines, where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """The console of progress and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def exit_code(error: ZoetropeError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 2)


def sentence(error: ZoetropeError) -> str:
    """The error in one sentence, with what to do about it where that is known."""
    text = str(error).rstrip(".")
    match error:
        case ServiceUnreachable():
            return f"{text}; `zoetrope serve` starts one here, --url or ZOETROPE_URL names another"
        case NotThisService():
            return f"{text}; --url or ZOETROPE_URL names another address"
        case Unauthorized():
            return f"{text}; set ZOETROPE_API_KEY, or name a file with --key-file"
        case QueueFull() if error.retry_after_s:
            return f"{text}; try again in {error.retry_after_s:.0f} s"
        case WaitTimeout():
            return f"{text}: `zoetrope logs -f {error.job.id}` follows it"
        case ServiceFault() if error.request_id:
            return f"{text}; the service's log has more under request_id={error.request_id}"
        case ServiceError(code="not_ready"):
            return text
    return text


def show_json(value: Any) -> None:
    """Write JSON: one document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_json_line(value: Any) -> None:
    """Write JSON as a line of a stream."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Write a table, or the sentence `empty` (to stderr) where there are no rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    if table.row_count:
        out().print(table)
    else:
        err().print(empty)


def show_pairs(pairs: Mapping[str, str]) -> None:
    """Write names and values, one a line; those without a value are left out."""
    width = max((len(name) for name, value in pairs.items() if value), default=0)
    for name, value in pairs.items():
        if value:
            out().print(f"[bold]{name:<{width}}[/bold]  {escape(value)}")


def span(seconds: float | None) -> str:
    """A time in words: 4.2 s, 3 min 5 s, 2 h 10 min; "" for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ago(at: float | None) -> str:
    """Time since a Unix time, in words."""
    return "" if at is None else f"{span(max(0.0, time.time() - at))} ago"


def clock(at: float) -> str:
    """A Unix time as the time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def day_and_time(at: float) -> str:
    """A Unix time as day and time of day."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


@contextlib.contextmanager
def looking() -> Iterator[Callable[[str], None]]:
    """Show a text on a line of stderr that each call replaces and the end removes; nothing where stderr is no terminal."""
    with contextlib.ExitStack() as shown:
        status: Status | None = None

        def show(text: str) -> None:
            nonlocal status
            if not sys.stderr.isatty():
                return
            if status is None:
                status = shown.enter_context(err().status(text))
            status.update(text)

        yield show


def megabytes(number: float) -> str:
    """An amount of memory, given in MB, in KB, MB or GB."""
    if 0 < number < 1:
        return f"{max(1.0, 1000 * number):.0f} KB"
    return f"{number:.0f} MB" if number < 1000 else f"{number / 1000:.1f} GB"


def shortened(text: str) -> str:
    """A prompt as a table has room for it."""
    text = " ".join(text.split())
    return text if len(text) <= _PROMPT_CHARS else text[: _PROMPT_CHARS - 1] + "…"


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """End a command that only watches on Ctrl-C, without a traceback: exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
