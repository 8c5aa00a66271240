"""The command `python -m workers --launcher NAME`: starts, shows or stops a pool's launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from broker.runtime.settings import SettingsError
from workers.launchers.keeper import PoolStatus
from workers.launchers.registry import LauncherError, launcher
from workers.launchers.settings import read
from workers.supervisor.exit_codes import EXIT_SETTINGS

EXIT_DONE, EXIT_UNREACHABLE = 0, 1


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the command; returns the exit code."""
    try:
        command = read(argv, environ)
        chosen = launcher(command.launcher)
        if command.stop:
            chosen.stop(command.order, hand_back=command.hand_back)
            print(f"pool {command.order.pool} has stopped")
        else:
            shown = chosen.status(command.order) if command.status else chosen.start(command.order)
            print("\n".join(lines(shown)))
    except SettingsError as error:
        print(f"workers: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    except LauncherError as error:
        print(f"workers: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    return EXIT_DONE


def lines(status: PoolStatus) -> list[str]:
    """The pool as text, a worker a line."""
    limits = status.limits
    lines = [
        f"pool {status.pool}: {len(status.members)} workers, {status.wanted} wanted "
        f"({limits.min_workers} to {limits.max_workers}); {status.waiting} jobs wait, {status.backlog_s:.0f} GPU-seconds"
        + ("; it stops" if status.stopping else "")
    ]
    for member in status.members:
        where = f"{member.host} process {member.pid}, log {member.log}" if member.host else member.lacking
        lines.append(f"  {member.name:<6}{member.phase:<9}  {where or 'not started yet'}")
    if status.fault:
        lines.append(f"fault: {status.fault}")
    return [*lines, f"log of the run, on the head: {status.log}"]
