"""Pools on a real cluster: they grow and shrink, and lose nodes, processes and their launcher, and no job.

The tests follow one another on one cluster, which the last of them ends.
"""

from __future__ import annotations

import time

import psutil
import pytest

pytest.importorskip("ray")

from tests.ray.stage import LIMIT_S, LOST_AFTER_S
from tests.support.waiting import wait_until

SCALES = ("--min-workers", "2", "--max-workers", "8", "--target-wait-s", "6", "--idle-s", "6")


def test_a_pool_begins_with_its_least(stage):
    done = stage.launch(*SCALES)
    assert (done.returncode, done.stderr) == (0, "")
    stage.until_workers(2, "idle")
    assert {worker["name"] for worker in stage.workers()} == {"ray.pool.w0.cpu-0", "ray.pool.w1.cpu-0"}
    shown = wait_until(lambda: (text := stage.launch("--status").stdout).count("idle") == 2 and text)
    assert "pool pool: 2 workers, 2 wanted (2 to 8)" in shown


def test_a_label_keeps_workers_to_its_machines(stage):
    assert stage.launch("--node-label", "gpu=h100", pool="labelled").returncode == 0
    wait_until(lambda: stage.log("labelled")[-1].get("phases") == {"placing": 1}, LIMIT_S, "a worker without a place")
    node = stage.add_node(gpu="h100")
    wait_until(lambda: stage.names_on(node) == ["labelled.w0"], LIMIT_S, "the worker on the machine with the label")
    assert stage.launch("--stop", pool="labelled").returncode == 0
    assert stage.names_on(node) == []
    stage.remove_node(node)


def test_from_two_to_eight_and_back(stage):
    # What jobs take is learned from those that have ended.
    stage.succeeded(*[stage.post(1.5) for _ in range(4)])
    # More than two workers do in the time that six others take to begin, on a machine that is busy.
    jobs = [stage.post(1.5) for _ in range(160)]
    wait_until(lambda: stage.log()[-1].get("phases", {}).get("placing") == 4, LIMIT_S, "four workers without a place")
    stage.add_node()
    stage.add_node()
    stage.until_workers(8, "busy", "idle")
    ended = stage.succeeded(*stage.without_waiting(jobs[40:]), *jobs[:40])
    assert {job["attempts"] for job in ended} == {1}
    stage.until_workers(2, "idle")
    assert len(stage.events("drain")) == 6
    assert not stage.events("failed")


def test_a_node_that_dies_takes_no_job_with_it(stage):
    jobs = [stage.post(2.0) for _ in range(10)]
    victim = next(node for node in stage.nodes if stage.names_on(node))
    wait_until(lambda: _jobs_on(stage, victim), LIMIT_S, "jobs on the node")
    held = _jobs_on(stage, victim)
    killed_at = time.time()
    stage.remove_node(victim)
    ended = {job["id"]: job for job in stage.succeeded(*jobs)}
    for job_id in held:
        moves = [move for move in ended[job_id]["history"] if move["to"] == "queued" and move["at"] > killed_at]
        assert moves, "it ran to its end on a node that was dead"
        assert moves[0]["at"] - killed_at < LOST_AFTER_S + 2
    assert [move["to"] for job in ended.values() for move in job["history"]].count("succeeded") == len(jobs)
    stage.add_node()
    stage.until_workers(2, "idle")


def test_a_launcher_that_dies_goes_on(stage):
    before = {worker["name"] for worker in stage.workers()}
    stage.kill_actor("pool.launcher")
    job = stage.post(0.1)
    stage.succeeded(job)
    wait_until(lambda: "2 wanted" in stage.launch("--status").stdout, LIMIT_S, "the launcher again")
    assert {worker["name"] for worker in stage.workers()} == before


def test_a_worker_whose_process_dies_comes_back_under_its_name(stage):
    name = stage.workers()[0]["name"].removesuffix(".cpu-0").removeprefix("ray.")
    boots = stage.boot(name)
    stage.kill_actor(name)
    wait_until(lambda: stage.boot(name) not in ("", boots), LIMIT_S, "another owner")
    stage.until_workers(2, "idle")


def test_a_notice_moves_work_in_time(stage):
    jobs = [stage.post(2.0) for _ in range(6)]
    node = next(node for node in stage.nodes if stage.names_on(node))
    wait_until(lambda: _jobs_on(stage, node), LIMIT_S, "jobs on the node")
    held = _jobs_on(stage, node)
    stage.give_notice(node, within_s=40)
    wait_until(lambda: not stage.names_on(node), LIMIT_S, "the node without workers")
    ended = {job["id"]: job for job in stage.succeeded(*jobs)}
    assert {(job["attempts"], job["losses"]) for job in ended.values()} == {(1, 0)}, "jobs were finished where they ran"
    assert held <= ended.keys()
    assert {event["detail"].split(",")[0] for event in stage.events("notice")} == {"finish"}
    stage.remove_node(node)
    stage.add_node()
    stage.until_workers(2, "idle")


def test_a_pool_without_work_can_have_no_worker_and_comes_back(stage):
    flags = ("--min-workers", "0", "--max-workers", "2", "--idle-s", "1")
    assert stage.launch(*flags).returncode == 0
    wait_until(lambda: stage.workers() == [], LIMIT_S, "the last worker to leave")
    (ended,) = stage.succeeded(stage.post(0.1))
    assert ended["attempts"] == 1
    assert stage.launch(*SCALES).returncode == 0
    stage.until_workers(2, "idle")


def test_an_option_that_is_wrong_on_the_machine_starts_no_worker_twice(stage):
    flags = ("--min-workers", "1", "--models", "/nowhere/model")
    assert stage.launch(*flags, pool="wrong").returncode == 0
    wait_until(lambda: stage.events("failed", "wrong"), LIMIT_S, "the end of the worker")
    shown = stage.launch("--status", pool="wrong").stdout
    assert "exit code 2: workers: model: '/nowhere/model' is not there" in shown
    assert "0 workers, 1 wanted" in shown
    assert len(stage.events("start", "wrong")) == 1
    assert "agent_started" not in (stage.home / "w" / "launcher" / "wrong.w0.log").read_text()
    assert stage.launch("--stop", pool="wrong").returncode == 0


def test_of_two_of_one_name_the_newer_stays(stage):
    """Ray gives a machine up whose raylet has died; what runs there goes on, and its actors begin again elsewhere."""
    node = next(node for node in stage.nodes if stage.names_on(node))
    name = stage.names_on(node)[0]
    old = stage.report(name)
    stage.kill_raylet(node)
    new = wait_until(
        lambda: (report := stage.report(name)) and report.boot != old.boot and report, LIMIT_S, "its second owner"
    )
    wait_until(lambda: not psutil.pid_exists(old.pid), LIMIT_S, "the end of the first")
    assert stage.boot(name) == new.boot
    assert psutil.pid_exists(new.pid)
    stage.remove_node(node)
    stage.add_node()
    stage.until_workers(2, "idle")


def test_a_stop_leaves_nothing(stage):
    jobs = [stage.post(2.0) for _ in range(2)]
    wait_until(lambda: len(stage.workers("busy")) == 2, LIMIT_S, "busy workers")
    done = stage.launch("--stop")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "pool pool has stopped", "")
    assert {job["attempts"] for job in stage.succeeded(*jobs)} == {1}
    assert stage.workers() == []
    wait_until(lambda: not stage.worker_processes(), LIMIT_S, "no process of a worker")
    again = stage.launch("--stop")
    assert again.returncode == 1
    assert "no launcher of a pool 'pool' runs in the Ray cluster" in again.stderr


def test_without_its_head_a_cluster_loses_no_job(stage):
    assert stage.launch(*SCALES).returncode == 0
    stage.until_workers(2, "idle")
    jobs = [stage.post(60.0) for _ in range(2)]
    wait_until(lambda: len(stage.workers("busy")) == 2, LIMIT_S, "busy workers")
    stage.kill_head()
    wait_until(lambda: not stage.worker_processes(), LIMIT_S, "the end of all workers")
    wait_until(lambda: {stage.job(job)["state"] for job in jobs} == {"queued"}, LIMIT_S, "the jobs in the queue")
    told = stage.launch("--status")
    assert told.returncode == 1
    assert "ray_address: no Ray cluster answers at" in told.stderr
    assert "their jobs go back to the queue" in told.stderr


def _jobs_on(stage, node) -> set[str]:
    names = {f"ray.{name}.cpu-0" for name in stage.names_on(node)}
    return {job["id"] for worker in stage.workers() if worker["name"] in names for job in worker["jobs"]}
