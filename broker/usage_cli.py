"""`python -m broker usage`: what was used of the pool, of every tenant."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from broker import client_command
from broker.client.client import BrokerClient
from broker.runtime.settings import SettingsError
from broker.wire import messages as m
from broker.wire.usage import USAGE_GROUPS, day_of, day_text

_DESCRIPTION = """\
Jobs that are over, GPU-seconds and bytes of results, by day (UTC), tenant, API key and model. `gpu_s`: in attempts whose work a result
holds; `lost_gpu_s`: in all others. It speaks to the running broker of this home, as the broker's user. Exit codes: 0 done; 1 no broker
answers; 2 an option is wrong.
"""

_DAYS = 30


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print what the command line requests; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        fields = _question(options)
    except SettingsError as error:
        return client_command.failed("usage", error, 2)
    return client_command.run("usage", options, environ, lambda client: _print(client, fields, options))


async def _print(client: BrokerClient, fields: Mapping[str, object], options: argparse.Namespace) -> int:
    rows, more = await client.usage(**fields)
    sys.stdout.writelines(_lines(rows, fields["by"], as_json=options.json))
    if more:
        sys.stderr.write("broker usage: there is more: ask for fewer days, or by less\n")
    return 0


def _question(options: argparse.Namespace) -> dict[str, object]:
    """Fields of `GetUsage`. Raises `SettingsError`."""
    by = tuple(group.strip() for group in options.by.split(",") if group.strip())
    for group in by:
        if group not in USAGE_GROUPS:
            raise SettingsError(f"--by: {group!r} is none of {', '.join(USAGE_GROUPS)}")
    last = _day("--to", options.to) if options.to else int(time.time() // 86_400)
    first = _day("--from", options.first) if options.first else max(0, last - _DAYS + 1)
    return {"first_day": first, "last_day": last, "by": by, "tenant": options.tenant}


def _day(name: str, text: str) -> int:
    try:
        day = day_of(text)
    except ValueError:
        day = -1
    if day < 0:
        raise SettingsError(f"{name}: {text!r} is no day since 1970-01-01, written as 2026-11-28")
    return day


def _lines(rows: Sequence[m.UsageRow], by: object, *, as_json: bool) -> list[str]:
    assert isinstance(by, tuple)
    names = [*(name for name in USAGE_GROUPS if name in by), *m.UsageRow.__struct_fields__[4:]]
    table = [[day_text(row.day) if name == "day" else getattr(row, name) for name in names] for row in rows]
    if as_json:
        return [msgspec.json.encode(dict(zip(names, row, strict=True))).decode() + "\n" for row in table]
    texts = [
        names,
        *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) or "-" for cell in row] for row in table),
    ]
    widths = [max(len(row[index]) for row in texts) for index in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in texts
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker usage", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--from", dest="first", metavar="DAY", help="the first day, as 2026-11-28 (default: 30 days)")
    parser.add_argument("--to", metavar="DAY", help="the last day (default: today)")
    parser.add_argument(
        "--by",
        default="tenant,model",
        metavar="NAMES",
        help="day, tenant, key, model, with commas (default: tenant,model)",
    )
    parser.add_argument("--tenant", default="", help="of this tenant alone")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    client_command.add_options(parser)
    return parser
