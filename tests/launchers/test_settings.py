"""What the command line of a launcher makes of itself, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from broker.runtime.settings import SettingsError, load
from tests.support.waiting import wait_until
from workers.launchers import child, cli
from workers.launchers.keeper import MemberStatus, PoolStatus
from workers.launchers.plan import Limits
from workers.launchers.settings import read
from workers.rank.settings import RankSettings
from workers.settings import WorkerSettings


def order(*argv, environ=None):
    return read(("--launcher", "ray", "--gpus", "cpu", *argv), environ or {}).order


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--launcher", "rai"], "launcher: 'rai' must be ray"),
        (["--min-workers", "9", "--max-workers", "4"], "min_workers: 9 must not be above max_workers, which is 4"),
        (["--min-workers", "-1"], "--min-workers: '-1' must be a whole number from 0 to 10000"),
        (["--max-workers", "0"], "--max-workers: '0' must be a whole number from 1 to 10000"),
        (["--target-wait-s", "0"], "--target-wait-s: '0' must be a number, above 0 and at most 1000000.0"),
        (["--idle-s", "soon"], "--idle-s: 'soon' must be a number"),
        (["--node-label", "gpu=h100,zone"], "node_label: 'zone' must be NAME=VALUE, as gpu=h100"),
        (["--pool", "A pool"], "--pool: 'A pool' must be up to 24 small letters"),
        (["--gpus", "0-7"], "gpus: '0-7' must be left out, or cpu"),
        (["--gpus-per-worker", "65"], "--gpus-per-worker: '65' must be a whole number from 0 to 64"),
        (["--gpus-per-worker", "0", "--gpus", "auto"], "gpus_per_worker: 0 is for workers without a GPU"),
        (["--machines", "2"], "machines: it must be left out, and rank_endpoint as well"),
        (["--machines-per-worker", "0"], "--machines-per-worker: '0' must be a whole number from 1 to 64"),
        (
            ["--machines-per-worker", "9", "--gpus-per-worker", "8"],
            "machines_per_worker: 9 machines of 8 GPUs (gpus_per_worker) make a worker of 72; it may have 64",
        ),
        (
            ["--machines-per-worker", "2", "--gpus-per-worker", "0", "--gpus", "cpu"],
            "gpus_per_worker: 0 is for workers of one machine, and machines_per_worker is 2",
        ),
        (["--worker-python", "python3"], "worker_python: 'python3' must be an absolute path"),
        (["--url", "edge:8000"], "url: 'edge:8000' must be an address"),
        (["--back", "tcp://broker"], "back: 'tcp://broker' must be tcp://ADDRESS:PORT"),
        (["--status", "--stop"], "status: either look at the pool, or --stop it"),
        (["--hand-back"], "hand_back: it says how to --stop"),
        (["--threads", "-1"], "--threads: '-1' must be a whole number"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_rule(argv, expected):
    with pytest.raises(SettingsError) as caught:
        read(("--launcher", "ray", *argv), {})
    assert expected in str(caught.value)


def test_settings_come_from_flags_environment_and_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoetrope.toml").write_text("[launcher]\nidle_s = 60\n[workers]\nstop_grace_s = 30\n")
    made = order("--max-workers", "5", environ={"ZOETROPE_TARGET_WAIT_S": "7", "ZOETROPE_THREADS": "3"})
    assert made.limits == Limits(min_workers=1, max_workers=5, target_wait_s=7, idle_s=60)
    assert (made.stop_grace_s, made.threads) == (30, 3)
    assert "--config" not in made.arguments, "all that it says is said by flags"


def test_paths_are_absolute_and_tables_of_models_stay_in_their_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoetrope.toml").write_text('[models.wan]\nengine = "fake"\n')
    (tmp_path / "local").mkdir()
    made = order("--home", "h", "--curve-dir", "keys", "--models", "wan,./local,owner/name")
    flags = dict(zip(made.arguments[::2], made.arguments[1::2], strict=True))
    assert flags["--config"] == str(tmp_path / "zoetrope.toml")
    assert (flags["--home"], flags["--curve-dir"]) == (str(tmp_path / "h"), str(tmp_path / "keys"))
    assert flags["--models"] == f"wan,{tmp_path / 'local'},owner/name"
    assert flags["--die-with-parent"] == "true"
    assert made.models[0] == "wan"
    assert made.models[2] == "owner/name"


def test_a_worker_with_a_gpu_asks_for_it_by_number():
    """auto would make a worker without one on a machine whose driver fails."""
    made = read(("--launcher", "ray"), {}).order
    assert made.arguments[made.arguments.index("--gpus") + 1] == "0"
    assert made.gpus_per_worker == 1


@pytest.mark.parametrize(("gpus", "argv", "devices"), [(4, (), "0-3/4"), (2, ("--gpus", "cpu"), "cpu:2/2")])
def test_a_worker_draws_with_all_gpus_that_it_takes(gpus, argv, devices):
    made = read(("--launcher", "ray", *argv, "--gpus-per-worker", str(gpus)), {}).order
    assert made.arguments[made.arguments.index("--gpus") + 1] == devices
    assert made.gpus_per_worker == gpus


def test_a_worker_over_several_machines_is_a_group_on_the_first_and_its_ranks_on_the_others():
    made = order("--gpus-per-worker", "2", "--machines-per-worker", "3", "--home", "/z", "--pool", "wan")
    assert made.gpus == 6
    endpoint = "tcp://10.0.0.1:29400"
    words = child.command(made, "w0", endpoint)
    settings = load(WorkerSettings, "x", "workers", words[3:], {})
    assert (settings.gpus, settings.machines, settings.rank_endpoint) == ("cpu:2/2", 3, endpoint)
    assert settings.name_prefix == "wan.w0."
    words = child.rank_command(made, endpoint)
    assert words[1:3] == ["-m", "workers.rank"]
    rank = load(RankSettings, "x", "workers", words[3:], {})
    assert (rank.gpus, rank.leader, rank.home, rank.die_with_parent) == ("cpu:2", endpoint, "/z", True)
    assert child.command(order(), "w0")[-2:] == ["--name-prefix", "pool.w0."]
    assert order().rank_arguments == ()


def test_names_are_those_of_the_pool_also_where_an_image_says_auto():
    assert order(environ={"ZOETROPE_NAME_PREFIX": "auto", "ZOETROPE_HEARTBEAT_FILE": "/tmp/beat"}).prefix == ""
    assert "--heartbeat-file" not in order(environ={"ZOETROPE_HEARTBEAT_FILE": "/tmp/beat"}).arguments


def test_a_worker_is_started_with_its_name_and_without_what_is_not_its_own():
    made = order("--pool", "wan", "--name-prefix", "lab.", "--threads", "6", "--worker-python", "/opt/z/bin/python")
    command = child.command(made, "w3")
    assert command[:3] == ["/opt/z/bin/python", "-m", "workers"]
    assert command[-2:] == ["--name-prefix", "lab.wan.w3."]
    given = {"RAY_AUTH_TOKEN": "secret", "OMP_NUM_THREADS": "1", "ZOETROPE_HEARTBEAT_FILE": "/tmp/beat", "PATH": "/bin"}
    environ = child.surroundings(made, given)
    assert environ == {"OMP_NUM_THREADS": "6", "PATH": "/bin"}


def test_an_order_bears_no_secret(tmp_path):
    key = tmp_path / "api.key"
    key.write_text("zk-secret")
    assert "zk-secret" not in repr(order("--api-key-file", str(key), environ={"ZOETROPE_API_KEY": "zk-secret"}))


def test_a_process_that_cannot_be_started_has_ended_and_says_why(tmp_path):
    made = order("--home", str(tmp_path), "--worker-python", "/nowhere/python")
    process = child.WorkerProcess(made, "w0", child.command(made, "w0"), {})
    assert process.poll() == 2
    assert "/nowhere/python" in process.why()


def test_a_process_that_is_told_to_end_before_it_heeds_signals_has_left(tmp_path):
    """Taken for a crash, it would be started again."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho begun; exec sleep 600\n")
    python.chmod(0o755)
    made = order("--home", str(tmp_path), "--worker-python", str(python))
    process = child.WorkerProcess(made, "w0", child.command(made, "w0"), {})
    wait_until(process.log.read_text)
    assert process.poll() is None
    process.terminate()
    assert wait_until(lambda: process.poll() is not None and [process.poll()]) == [0]


def test_a_process_keeps_its_output_in_a_file(tmp_path):
    made = order("--home", str(tmp_path), "--model", "/nowhere/model")
    process = child.WorkerProcess(made, "w0", child.command(made, "w0"), {"PATH": "/bin"})
    assert process._process.wait(60) == process.poll() == 2
    assert process.why().startswith("workers: model: '/nowhere/model'")
    assert process.log == tmp_path / "launcher" / "pool.w0.log"


def test_a_pool_in_words():
    status = PoolStatus(
        pool="wan",
        limits=Limits(min_workers=1, max_workers=4, target_wait_s=60, idle_s=60),
        wanted=2,
        backlog_s=90.4,
        waiting=3,
        members=(
            MemberStatus(name="w0", phase="busy", host="gpu1", pid=71, log="/z/launcher/wan.w0.log"),
            MemberStatus(name="w1", phase="placing", lacking="of 2 machines, 4 GPUs in all, none has one free"),
            MemberStatus(name="w2", phase="placing"),
        ),
        fault="w3 ended",
        log="/z/launcher/wan.jsonl",
    )
    assert cli.lines(status) == [
        "pool wan: 3 workers, 2 wanted (1 to 4); 3 jobs wait, 90 GPU-seconds",
        "  w0    busy       gpu1 process 71, log /z/launcher/wan.w0.log",
        "  w1    placing    of 2 machines, 4 GPUs in all, none has one free",
        "  w2    placing    not started yet",
        "fault: w3 ended",
        "log of the run, on the head: /z/launcher/wan.jsonl",
    ]


def test_the_command_says_what_is_wrong_and_ends_with_2():
    done = subprocess.run(
        [sys.executable, "-m", "workers", "--launcher", "ray", "--min-workers", "9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "workers: min_workers: 9 must not be above max_workers, which is 8\n"
