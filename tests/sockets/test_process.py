"""`python -m broker` as a process: how it starts, how it dies, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from bench.harness.process import ROOT
from broker.client.client import BrokerClient
from broker.client.errors import ShuttingDown
from broker.shell.journal.schema import SCHEMA
from tests.support.waiting import eventually, wait_until
from tests.testing.brokers import Brokers
from tests.testing.in_process import a_job, in_loop


@pytest.fixture
def processes(tmp_path, run_dir):
    made = Brokers(tmp_path, run_dir)
    yield made
    made.close()


@in_loop
async def test_what_was_accepted_survives_kill_nine(processes):
    broker = processes.serve()
    async with BrokerClient(processes.front) as client:
        ids = [f"job-{number}" for number in range(200)]
        await asyncio.gather(*(client.submit(a_job(job_id, body=job_id.encode())) for job_id in ids))
        broker.kill()
        broker.wait()
        processes.serve()
        found = await asyncio.gather(*(client.get(job_id) for job_id in ids))
        assert [(view.id, view.body, view.state) for view in found] == [(i, i.encode(), "queued") for i in ids]
        assert (await client.worker_requests.pool()).epoch == 2


@in_loop
async def test_sigterm_refuses_new_jobs_and_ends_well(processes):
    broker = processes.serve()
    async with BrokerClient(processes.front) as client:
        await client.submit(a_job("job-1"))
        broker.send_signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in broker.logged())
        with pytest.raises(ShuttingDown) as caught:
            await client.submit(a_job("job-2"))
        assert caught.value.retry_after_s > 0
        assert broker.wait(60) == 0
        assert (processes.home / "jobs.sqlite").exists()
        processes.serve()
        assert [job.id for job in (await client.list())[0]] == ["job-1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(processes, number):
    broker = processes.serve()
    broker.send_signal(number)
    wait_until(lambda: "stopping" in broker.logged())
    broker.send_signal(number)
    assert broker.wait(60) == 0
    assert "Traceback" not in broker.logged()


@pytest.mark.parametrize("below", ["", "new"])
def test_a_home_on_a_read_only_file_system_is_one_sentence_and_exit_code_4(tmp_path, below):
    home = tmp_path / "mount"
    home.mkdir()
    inside = f"mount -t tmpfs -o ro tmpfs {home} && exec {sys.executable} -m broker --home {home / below}"
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", inside], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts of one's own here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "Read-only file system" in done.stderr


def test_a_second_broker_of_the_same_home_is_refused(processes):
    first = processes.serve()
    code, said = processes.fails()
    assert code == 2
    assert said == f"broker: another broker (process {first.pid}) uses {processes.home}\n"
    first.kill()
    first.wait()
    processes.serve()


def test_a_second_broker_on_the_same_sockets_is_refused(processes, tmp_path):
    processes.serve()
    other = tmp_path / "other"
    other.mkdir()
    code, said = processes.fails("--home", str(other))
    assert code == 2
    assert "another broker" in said


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--queue-limit", "0"], ["--queue-limit", "'0'", "whole number from 1"]),
        (["--suspect-after-s", "7"], ["suspect_after_s (7) < lost_after_s (6)"]),
        (["--front", "tcp://0.0.0.0:5555"], ["front", "tcp", "CURVE"]),
        (["--front", "ipc:///tmp/x", "--back", "ipc:///tmp/x"], ["front and back", "differ"]),
        (["--home", "/proc/nowhere"], ["home", "/proc/nowhere"]),
        (["--config", "absent.toml"], ["absent.toml"]),
    ],
)
def test_a_bad_option_is_one_sentence_and_exit_code_2(processes, options, parts):
    code, said = processes.fails(*options)
    assert code == 2
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


def test_a_damaged_journal_is_one_sentence_and_exit_code_3(processes):
    (processes.home / "jobs.sqlite").write_bytes(b"rubbish" * 1000)
    code, said = processes.fails()
    assert code == 3
    assert said.count("\n") == 1
    assert "is damaged" in said


def test_a_journal_of_a_newer_version_is_one_sentence_and_exit_code_3(processes):
    broker = processes.serve()
    broker.send_signal(signal.SIGTERM)
    broker.wait()
    change = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version = 99'); c.commit()"
    subprocess.run([sys.executable, "-c", change, str(processes.home / "jobs.sqlite")], check=True)
    code, said = processes.fails()
    assert code == 3
    assert f"schema 99, this version reads up to {SCHEMA}" in said


def test_a_journal_that_is_removed_ends_it_with_code_4(processes):
    broker = processes.serve()
    (processes.home / "jobs.sqlite").unlink()
    assert broker.wait(60) == 4
    assert "removed or replaced" in broker.logged()
    assert "Traceback" not in broker.logged()


def test_help_is_worth_reading(processes):
    text = subprocess.run(
        [sys.executable, "-m", "broker", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    text = " ".join(text.split())
    for part in ("--queue-limit", "ZOETROPE_QUEUE_LIMIT", "default: 100000", "Exit codes", "zoetrope.toml"):
        assert part in text


def python_broker(*words: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "broker", *map(str, words)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@in_loop
async def test_a_copy_made_under_load_is_restored_and_what_came_later_is_gone(processes, tmp_path):
    broker, copy = processes.serve(), tmp_path / "copy.sqlite"
    async with BrokerClient(processes.front) as client:
        await asyncio.gather(*(client.submit(a_job(f"before-{number}")) for number in range(50)))
        making = asyncio.create_task(asyncio.to_thread(python_broker, "backup", copy, "--home", processes.home))
        later = 0
        while not making.done() and later < 900:  # a page of the list has room for these
            await client.submit(a_job(f"later-{later}"))
            later += 1
        code, said = await making
        assert (code, "checked" in said) == (0, True), said
        assert python_broker("restore", copy, "--home", processes.home) == (
            2,
            f"broker restore: another broker (process {broker.pid}) uses {processes.home}\n",
        )
        await client.submit(a_job("last"))
        broker.kill()
        broker.wait()
        code, said = python_broker("restore", copy, "--home", processes.home)
        assert (code, "replaced-" in said) == (0, True), said
        processes.serve()
        found = {view.id for view in (await client.list(limit=1000))[0]}
        assert {f"before-{number}" for number in range(50)} <= found
        assert "last" not in found
        # Those of meanwhile are there up to one moment.
        meanwhile = {view for view in found if view.startswith("later-")}
        assert meanwhile == {f"later-{number}" for number in range(len(meanwhile))}
        assert (await client.worker_requests.pool()).epoch > 1000
