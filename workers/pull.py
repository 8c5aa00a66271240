"""`python -m workers pull`: fetch a model from the hub, with its size before and how far it is."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import huggingface_hub

from workers.models import hub
from workers.models.hub import Fetch, PullError, gigabytes
from workers.supervisor.exit_codes import EXIT_SETTINGS

_DESCRIPTION = """\
Fetch a model from the hub into its cache (HF_HOME), where workers find it by its id: only the files that it is loaded from. Run it
again after an interruption, and it goes on. HF_TOKEN opens gated and private models.
"""

#: Seconds between two lines of progress, on a terminal and in a log.
_ON_TERMINAL_S, _IN_LOG_S = 0.5, 15.0


def main(argv: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Fetch what the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser("python -m workers pull", description=_DESCRIPTION)
    parser.add_argument("model", help="OWNER/NAME, or OWNER/NAME@REVISION for a branch, a tag or a commit")
    parser.add_argument(
        "files",
        nargs="*",
        help="single files of it, as *.safetensors or lora/style.safetensors (default: the whole model)",
    )
    parser.add_argument(
        "--variant", default="", help="weights of this variant where a part has them, as fp16 (default: the plain ones)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and its size")
    parser.add_argument("--json", action="store_true", help="write what was fetched as JSON, and progress to stderr")
    arguments = parser.parse_args(argv)
    progress = sys.stderr if arguments.json else out
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)  # its warnings repeat at length the one sentence at the end
    try:
        fetch = hub.plan(arguments.model, arguments.files, arguments.variant)
        _print_plan(fetch, progress, listed=arguments.dry_run and not arguments.json)
        directory = None if arguments.dry_run else hub.pull(fetch, _Lines(progress))
        if arguments.json:
            print(json.dumps(_as_json(fetch, directory), indent=2), file=out)
        elif directory is not None:
            print(directory, file=out)
            for name in arguments.files and fetch.files:
                print(directory / name, file=out)
    except PullError as error:
        print(f"workers pull: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    except KeyboardInterrupt:
        print("workers pull: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _as_json(fetch: Fetch, directory: Path | None) -> dict[str, object]:
    """A fetch in JSON. Sizes are in bytes; `missing_bytes` is what was not here before; no directory: nothing was fetched."""
    return {
        "model": fetch.model.repo,
        "commit": fetch.commit,
        "files": dict(fetch.files),
        "total_bytes": fetch.total,
        "missing_bytes": fetch.missing,
        "directory": None if directory is None else str(directory),
    }


def _print_plan(fetch: Fetch, out: TextIO, *, listed: bool) -> None:
    if listed:
        for name, size in fetch.files.items():
            print(f"{gigabytes(size):>10}  {name}", file=out)
    here = "all of it here" if not fetch.missing else f"{gigabytes(fetch.missing)} to fetch"
    print(
        f"{fetch.model.repo} at {fetch.commit[:12]}: {len(fetch.files)} files, {gigabytes(fetch.total)}, {here}",
        file=out,
        flush=True,
    )


class _Lines:
    """Progress as lines: rewritten in place on a terminal, one below the other in a log."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._lock = threading.Lock()
        self._begun: tuple[float, int] | None = None
        self._written_at = -1e9

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            now = self._clock()
            if self._begun is None:
                self._begun = now, done
            if now - self._written_at < (_ON_TERMINAL_S if self._terminal else _IN_LOG_S) and done < total:
                return
            if done >= total and self._written_at == float("inf"):
                return
            self._written_at = now if done < total else float("inf")
            text = _line(done, total, now - self._begun[0], done - self._begun[1])
            if self._terminal:
                text = "\r" + text.ljust(shutil.get_terminal_size().columns - 1) + ("\n" if done >= total else "")
            print(text, end="" if self._terminal else "\n", file=self._out, flush=True)


def _line(done: int, total: int, seconds: float, came: int) -> str:
    """ "4.1 GB of 28.3 GB (14 %), 112 MB/s, 3 min left"."""
    text = f"{gigabytes(done)} of {gigabytes(total)} ({100 * done // max(1, total)} %)"
    if came <= 0 or seconds <= 0 or done >= total:
        return text
    rate = came / seconds
    left = (total - done) / rate
    return f"{text}, {gigabytes(rate)}/s, " + (f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
