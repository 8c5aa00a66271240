"""A worker over several machines: one of its processes on each, all of them or none: pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from workers.launchers.child import Report
from workers.supervisor.exit_codes import EXIT_LEFT


def part_names(name: str, machines: int) -> tuple[str, ...]:
    """The names of a worker's processes by machine: the first is the worker's own, which is registered at the broker."""
    return (name, *(f"{name}.{number}" for number in range(1, machines)))


def combined(parts: Sequence[Report | None]) -> Report | None:
    """The report of a worker, from those of its processes in the order of `part_names`; None: not all of them run."""
    leader = parts[0]
    failed = next((part for part in parts if part is not None and part.code not in (None, EXIT_LEFT)), None)
    if failed is not None:
        # Starting the worker again would end in the same way, on whichever of its machines that was.
        boot = leader.boot if leader is not None else failed.boot
        return replace(failed, name=failed.name.partition(".")[0], boot=boot)
    known = [part for part in parts if part is not None]
    if leader is None or (leader.code is None and len(known) < len(parts)):
        return None
    if leader.code is not None and all(part.code is not None for part in known):
        return leader
    # It has ended when all of it has.
    hosts = ", ".join(dict.fromkeys(part.host for part in known))
    nodes = tuple(node for part in known for node in part.nodes)
    return replace(leader, code=None, leaving=leader.code is not None, host=hosts, nodes=nodes)
