"""Recipes that run one worker over several machines, with stand-ins for what a cluster has: who starts what, and who is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from bench.harness.process import ROOT
from broker.runtime.settings import load
from tests.support.waiting import wait_until
from workers.rank.settings import RankSettings
from workers.settings import WorkerSettings

DEPLOY = ROOT / "deploy"

#: Writes down how it was called, and ends as the file of its part says once there is one, or, a part without `.deaf`, when it is told to.
PYTHON = """#!/bin/bash
part=$2
trap 'echo told >> "$PARTS/$part.told"; [ -e "$PARTS/$part.deaf" ] || exit 0' TERM
echo "$@" > "$PARTS/$part.words.new" && mv "$PARTS/$part.words.new" "$PARTS/$part.words"
until [ -e "$PARTS/$part.code" ]; do sleep 0.05; done
exit "$(cat "$PARTS/$part.code")"
"""

SRUN = """#!/bin/bash
echo "$@" > "$PARTS/srun.words"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""

SCONTROL = """#!/bin/bash
echo "$@" > "$PARTS/scontrol.words"
"""


class Group:
    """The Slurm recipe, under way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._write(path / ".venv" / "bin" / "python", PYTHON)
        self._write(path / "bin" / "srun", SRUN)
        self._write(path / "bin" / "scontrol", SCONTROL)
        self.process = subprocess.Popen(
            ["bash", DEPLOY / "slurm" / "group.sbatch"],
            env={
                "PATH": f"{path / 'bin'}:{os.environ['PATH']}",
                "PARTS": str(path),
                "INSTALLED_AT": str(path),
                "ADDRESS": "10.0.0.1",
                "ZOETROPE_BACK": "tcp://broker:7002",
                "ZOETROPE_DEPOT": "http://broker:8000",
                "ZOETROPE_CURVE_DIR": "/keys",
                "SLURM_JOB_ID": "4007",
                "SLURM_JOB_NUM_NODES": "2",
                "SLURM_GPUS_PER_NODE": "h100:8",
                "SLURMD_NODENAME": "node-1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self.words("workers")
        self.words("workers.rank")

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def words(self, part: str) -> list[str]:
        file = self.path / f"{part}.words"
        wait_until(file.exists, 20.0, part)
        return file.read_text().split()

    def end(self, part: str, code: int) -> None:
        (self.path / f"{part}.new").write_text(str(code))
        (self.path / f"{part}.new").rename(self.path / f"{part}.code")

    def told(self, part: str) -> bool:
        return (self.path / f"{part}.told").exists()

    def requeued(self) -> bool:
        return (self.path / "scontrol.words").exists()


@pytest.fixture
def group(tmp_path):
    made = Group(tmp_path)
    yield made
    for part in ("workers", "workers.rank"):
        made.end(part, 0)
    made.process.terminate()
    made.process.communicate(timeout=60)


def test_the_first_machine_leads_and_the_others_run_its_ranks(group):
    leader = load(WorkerSettings, "x", "workers", group.words("workers")[2:], {})
    assert (leader.gpus, leader.machines, leader.rank_endpoint) == ("auto/8", 2, "tcp://10.0.0.1:29407")
    rank = load(RankSettings, "x", "workers", group.words("workers.rank")[2:], {})
    assert (rank.gpus, rank.leader) == ("auto", leader.rank_endpoint)
    assert {"--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--exclude=node-1"} <= set(group.words("srun"))


def test_a_notice_is_for_the_leader_and_its_ranks_are_told_when_it_has_ended(group):
    (group.path / "workers.deaf").touch()
    group.process.send_signal(signal.SIGTERM)
    wait_until(lambda: group.told("workers"), 20.0)
    assert group.process.poll() is None
    assert not group.told("workers.rank"), "it hands its job back with them"
    group.end("workers", 0)
    wait_until(lambda: group.told("workers.rank"), 20.0)
    assert group.process.wait(30) == 0
    assert not group.requeued()


@pytest.mark.parametrize(("part", "other"), [("workers", "workers.rank"), ("workers.rank", "workers")])
@pytest.mark.parametrize(("code", "again"), [(2, False), (1, True)])
def test_a_part_that_fails_ends_the_group_as_its_code_says(group, part, other, code, again):
    group.end(part, code)
    assert group.process.wait(30) == (0 if again else code)
    wait_until(lambda: group.told(other), 20.0)
    assert group.requeued() == again


def test_skypilot_makes_the_first_machine_the_leader(tmp_path):
    recipe = yaml.safe_load((DEPLOY / "skypilot" / "group.yaml").read_text())
    assert recipe["num_nodes"] == 2
    Group._write(tmp_path / "zoetrope" / ".venv" / "bin" / "python", '#!/bin/bash\necho "$@"\n')
    (tmp_path / ".zoetrope" / "curve").mkdir(parents=True)
    (tmp_path / ".zoetrope" / "curve" / "worker.key").touch()
    asked = []
    for number in ("0", "1"):
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ZOETROPE_BACK": "tcp://b:1",
            "ZOETROPE_DEPOT": "http://b",
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NODE_RANK": number,
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        }
        done = subprocess.run(
            ["bash", "-c", recipe["run"]], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        asked.append(done.stdout.split())
    leader = load(WorkerSettings, "x", "workers", asked[0][2:], {})
    assert (leader.gpus, leader.machines, leader.rank_endpoint) == ("auto/8", 2, "tcp://10.0.0.1:29400")
    rank = load(RankSettings, "x", "workers", asked[1][2:], {})
    assert (asked[1][:2], rank.gpus, rank.leader) == (["-m", "workers.rank"], "auto", leader.rank_endpoint)
