"""`python -m broker backup` and `python -m broker restore`: a copy of the journal, and the journal from a copy."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.runtime.errors import ShellError
from broker.runtime.settings import SettingsError, load
from broker.settings import BrokerSettings
from broker.shell.journal import backup

_BACKUP = """\
Copy the journal to FILE, whole and as of one moment, whether the broker of this home runs or not: it goes on meanwhile. FILE must not
exist. The files of jobs are not in it: copy `artefacts/` after it. Exit codes: 0 done; 1 it could not be made; 2 an option is wrong.
"""

_RESTORE = """\
Put FILE, which `python -m broker backup` made, in the place of the journal. The broker of this home must be stopped. The journal that is
there is kept beside it. Exit codes: 0 done; 1 it could not be done; 2 an option is wrong, or a broker uses this home.
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command `backup` or `restore`, with which `argv` begins; returns the exit code."""
    command = argv[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m broker {command}", description=_BACKUP if command == "backup" else _RESTORE, allow_abbrev=False
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--home", help="directory of the service (default: as for the broker)")
    options = parser.parse_args(argv[1:])
    flags = [f"--home={options.home}"] if options.home else []
    try:
        settings = load(BrokerSettings, f"python -m broker {command}", "broker", flags, environ)
        _back_up(settings, options.file) if command == "backup" else _restore(settings, options.file)
    except SettingsError as error:
        sys.stderr.write(f"broker {command}: {error}\n")
        return 2
    except ShellError as error:
        sys.stderr.write(f"broker {command}: {error}\n")
        return error.exit_code
    return 0


def _back_up(settings: BrokerSettings, target: Path) -> None:
    copy = backup.back_up(settings.home_path, settings.journal_path, target, _Progress())
    sys.stdout.write(f"{target}: {copy.jobs} jobs, {copy.bytes} bytes, checked\n")


def _restore(settings: BrokerSettings, source: Path) -> None:
    name = f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    copy, kept = backup.restore(settings.home_path, settings.journal_path, source, name)
    sys.stdout.write(f"{settings.journal_path}: {copy.jobs} jobs from {source}\n")
    if kept is not None:
        sys.stdout.write(f"the journal that was there is in {kept}\n")


class _Progress:
    """Line of progress on a terminal, at most ten times a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now >= self._next or done == total):
            self._next = now + 0.1
            end = "\n" if done == total else ""
            sys.stderr.write(f"\rcopied {done >> 20} of {total >> 20} MB{end}")
            sys.stderr.flush()
