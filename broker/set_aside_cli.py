"""`python -m broker set-aside`: shows the jobs that the running broker set aside, and does with them what the operator decides."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

from broker import client_command
from broker.client.client import BrokerClient
from broker.wire import messages as m

_DESCRIPTION = """\
Jobs over which the broker failed, or whose rows in the journal are damaged, are set aside: they wait, and all others go on. `list`
shows them with the reason. `release` lets a job go on where it was, `fail` ends it as failed, `delete` removes its record. It speaks to
the running broker of this home, as the broker's user. Exit codes: 0 done; 1 a job could not be settled, or no broker answers; 2 an
option is wrong.
"""

_OUTCOMES = {
    "done": "done",
    "not_set_aside": "no job of this id is set aside",
    "unreadable": "its row cannot be read, so it can be failed or deleted, not released",
    "raised": "the broker failed on it once more; it stays set aside, and the broker's log says why",
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    return client_command.run("set-aside", options, environ, lambda client: _settle(client, options))


async def _settle(client: BrokerClient, options: argparse.Namespace) -> int:
    if options.command == "list":
        for view in await client.set_aside_requests.list():
            sys.stdout.write(_line(view))
        return 0
    ids = [view.id for view in await client.set_aside_requests.list()] if options.all else options.id
    failed = 0
    for job_id in ids:
        outcome = await client.set_aside_requests.settle(job_id, options.command)
        sys.stdout.write(f"{job_id}: {_OUTCOMES[outcome]}\n")
        failed += outcome != "done"
    return 1 if failed else 0


def _line(view: m.JobView) -> str:
    mark = view.set_aside or m.SetAside("")
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mark.at))
    cancelled = ", cancel requested" if view.cancel_requested else ""
    return f"{view.id}  {view.state}{cancelled}  since {at}  {mark.reason}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker set-aside", description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="show them, a line a job")
    for name, help_text in (
        ("release", "let a job go on where it was; one whose cancel was asked for ends as cancelled"),
        ("fail", "end a job as failed"),
        ("delete", "remove a job's record"),
    ):
        command = commands.add_parser(name, help=help_text)
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("id", metavar="ID", nargs="*", default=[], help="the job's id, as `list` shows it")
        which.add_argument("--all", action="store_true", help="every job that is set aside")
    for command in (listing, *(commands.choices[name] for name in ("release", "fail", "delete"))):
        client_command.add_options(command)
    return parser
