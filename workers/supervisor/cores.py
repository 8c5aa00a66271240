"""CPU cores that a process may use: its affinity, and the time that its control groups grant."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msgspec import Struct


class _Mount(Struct, frozen=True):
    """A mounted hierarchy of control groups: `root` is the group that is seen at `at`."""

    root: PurePosixPath
    at: PurePosixPath
    version: int


def usable_cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may run on, and no more than the smallest quota of its control groups, rounded up; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The least of what the control groups of this process and all their ancestors grant, in cores; None: no limit.

    `root` holds proc/self/cgroup and proc/self/mountinfo and what these name. Groups above the root of a container's mount are not seen.
    """
    quotas = [
        quota
        for mount in _mounts(root)
        if (group := _group(root, mount)) is not None
        for directory in _upwards(root, mount, group)
        if (quota := _granted(directory, mount.version)) is not None
    ]
    return min(quotas, default=None)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # another system, or no /proc
        return []


def _mounts(root: Path) -> Iterator[_Mount]:
    """The hierarchies that can limit processor time: proc_pid_mountinfo(5)."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, (kind, *more) = before.split(" "), after.split(" ") if separator else [""]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5:
            continue
        if kind == "cgroup2" or "cpu" in more[-1].split(","):
            seen, at = (PurePosixPath(_unescaped(field)) for field in fields[3:5])
            yield _Mount(seen, at, version=2 if kind == "cgroup2" else 1)


def _unescaped(field: str) -> str:
    """A path of mountinfo, where white space and backslashes are written as three octal digits."""
    first, *rest = field.split("\\")
    return first + "".join(
        chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() and len(part) >= 3 else part for part in rest
    )


def _group(root: Path, mount: _Mount) -> PurePosixPath | None:
    """This process's group in that hierarchy: cgroups(7)."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if mount.version == 2 else ("cpu" in controllers.split(",")):
            return PurePosixPath(path or "/")
    return None


def _upwards(root: Path, mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Directories of a group and its ancestors, as far as they are mounted."""
    top = root / mount.at.relative_to("/")
    below = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    if ".." in below.parts:  # the group lies outside this namespace
        below = PurePosixPath()
    for part in (below, *below.parents):
        yield top / part


def _granted(directory: Path, version: int) -> float | None:
    try:
        if version == 2:
            granted, _, period = (directory / "cpu.max").read_text().partition(" ")
        else:
            granted, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(granted) / int(period) if int(granted) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # this group has no limit, or "max"
        return None
