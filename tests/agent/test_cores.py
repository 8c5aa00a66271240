"""The quota of a container's control groups: a tree of files in, cores out."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.supervisor.cores import cpu_quota, usable_cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
HYBRID = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
TOP = "sys/fs/cgroup"
CPU = f"{TOP}/cpu,cpuacct"


def v1(directory: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{directory}/cpu.cfs_quota_us": quota, f"{directory}/cpu.cfs_period_us": period}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "cores"),
    [
        pytest.param("", "", {}, None, id="no control groups"),
        pytest.param(V2, "0::/", {f"{TOP}/cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param(V2, "0::/", {f"{TOP}/cpu.max": "rubbish"}, None, id="nothing that is a limit"),
        pytest.param(V2, "0::/", {f"{TOP}/cpu.max": "150000 100000"}, 1.5, id="at the root, as a container sees it"),
        pytest.param(
            V2,
            "0::/system.slice/zoetrope.service",
            {f"{TOP}/system.slice/zoetrope.service/cpu.max": "200000 100000"},
            2.0,
            id="a service's own",
        ),
        pytest.param(
            V2,
            "0::/a/b/c",
            {f"{TOP}/a/b/c/cpu.max": "max 100000", f"{TOP}/a/cpu.max": "100000 200000"},
            0.5,
            id="an ancestor's",
        ),
        pytest.param(
            V2,
            "0::/a/b",
            {f"{TOP}/a/b/cpu.max": "300000 100000", f"{TOP}/a/cpu.max": "400000 100000"},
            3.0,
            id="the smallest, the group's",
        ),
        pytest.param(V2, "0::/a", {f"{TOP}/b/cpu.max": "100000 100000"}, None, id="another group's"),
        pytest.param(V2, "0::/../b", {f"{TOP}/cpu.max": "100000 100000"}, 1.0, id="outside the namespace"),
        pytest.param(
            V2.replace(" / ", " /docker/4f2a ", 1),
            "0::/docker/4f2a/job",
            {f"{TOP}/cpu.max": "400000 100000", f"{TOP}/job/cpu.max": "200000 100000"},
            2.0,
            id="below a container's root, under its name outside",
        ),
        pytest.param(
            V2.replace("/sys/fs/cgroup", "/mnt/control\\040groups"),
            "0::/",
            {"mnt/control groups/cpu.max": "100000 100000"},
            1.0,
            id="mounted elsewhere",
        ),
        pytest.param(V1.format(root="/"), "4:cpu,cpuacct:/", v1(CPU, "-1"), None, id="version 1 without a limit"),
        pytest.param(
            V1.format(root="/"),
            "5:memory:/x\n4:cpu,cpuacct:/a/b",
            v1(f"{CPU}/a", "250000") | v1(f"{CPU}/a/b", "-1"),
            2.5,
            id="version 1, an ancestor's",
        ),
        pytest.param(
            V1.format(root="/docker/4f2a"),
            "4:cpu,cpuacct:/docker/4f2a",
            v1(CPU, "50000"),
            0.5,
            id="version 1 in a container",
        ),
        pytest.param(
            "\n".join((MEMORY, V1.format(root="/"), HYBRID)),
            "5:memory:/m\n4:cpu,cpuacct:/a\n0::/u",
            v1(f"{CPU}/a", "300000") | v1(f"{TOP}/memory/m", "100000") | {f"{TOP}/unified/u/cpu.max": "max 100000"},
            3.0,
            id="both versions",
        ),
    ],
)
def test_the_smallest_quota_of_a_group_and_its_ancestors_counts(
    tmp_path: Path, mounts: str, groups: str, files: dict[str, str], cores: float | None
) -> None:
    plant(tmp_path, files)
    if mounts:
        plant(tmp_path, {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups})
    assert cpu_quota(tmp_path) == cores


def test_part_of_a_core_is_one_and_no_quota_leaves_what_the_machine_has(tmp_path: Path) -> None:
    limited = plant(
        tmp_path / "limited",
        {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a", f"{TOP}/a/cpu.max": "20000 100000"},
    )
    assert usable_cores(limited) == 1
    assert usable_cores(tmp_path / "none") >= 1
