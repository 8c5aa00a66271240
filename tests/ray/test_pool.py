"""Pools on a real cluster: they grow and shrink, and lose nodes, processes and their launcher, and no job.

The tests follow one another on one cluster, which the last of them ends.
"""

from __future__ import annotations

import time

import psutil
import pytest

pytest.importorskip("ray")

from tests.ray.stage import JOB_S, LOST_AFTER_S, until

SCALES = ("--min-workers", "2", "--max-workers", "8", "--target-wait-s", "1", "--idle-s", "4")

#: Of one worker, however much waits.
ONE = ("--min-workers", "1", "--max-workers", "1", "--stop-grace-s", "0")

#: Seconds from a machine's start until a pool that lacked it is whole: the least that is asked of a pool.
WHOLE_AFTER_S = 30.0


def test_a_pool_begins_with_its_least(stage):
    done = stage.launch(*SCALES)
    assert (done.returncode, done.stderr) == (0, "")
    stage.until_workers(2, "idle")
    assert {worker["name"] for worker in stage.workers()} == {"ray.pool.w0.cpu-0", "ray.pool.w1.cpu-0"}
    until(lambda: [member.phase for member in stage.status().members] == ["idle", "idle"])
    code, shown, _ = stage.ask("--status")
    assert code == 0
    assert "pool pool: 2 workers, 2 wanted (2 to 8)" in shown
    assert shown.count("idle") == 2


def test_a_label_keeps_a_group_to_its_machines(stage):
    assert stage.ask("--node-label", "gpu=h100", "--gpus-per-worker", "2", pool="labelled")[0] == 0
    until(lambda: stage.phases("labelled") == {"placing": 1}, "a worker without a place")
    assert until(lambda: stage.lacking("labelled")) == ["no machine has gpu=h100 (3 are there)"]
    node = stage.add_node(gpu="h100")
    until(lambda: stage.names_on(node) == ["labelled.w0"], "the worker on the machine with the label")
    name = "ray.labelled.w0.cpu-0-1"
    until(lambda: name in [worker["name"] for worker in stage.workers("idle")], "the group of two")
    until(lambda: [member.phase for member in stage.status("labelled").members] == ["idle"], "the launcher to see it")
    [job] = stage.succeeded(stage.post(0.1, gpus=2))
    assert job["worker"] == name
    assert stage.ask("--stop", pool="labelled") == (0, "pool labelled has stopped\n", "")
    assert stage.names_on(node) == []


def test_it_grows_to_eight_with_what_waits(stage):
    # What jobs take is learned from those that have ended.
    stage.succeeded(*[stage.post(JOB_S) for _ in range(2)])
    stage.under_load(
        lambda: stage.lacking() == ["of 4 machines, 6 GPUs in all, none has one free"] * 2, "no place for two"
    )
    added_at = time.time()
    stage.add_node()
    stage.under_load(lambda: _serving(stage) == 8, "eight workers")
    assert time.time() - added_at < WHOLE_AFTER_S


def test_a_node_that_dies_under_load_takes_no_job_with_it(stage):
    victim = stage.nodes[-1]
    stage.under_load(lambda: len(_jobs_on(stage, victim)) == 2, "jobs on the node")
    held = _jobs_on(stage, victim)
    killed_at = time.time()
    stage.remove_node(victim)
    dead_at = time.time()
    stage.under_load(lambda: stage.phases().get("placing") == 2, "two workers without a place")
    added_at = time.time()
    stage.add_node()
    stage.under_load(lambda: _serving(stage) == 8, "eight workers again")
    assert time.time() - added_at < WHOLE_AFTER_S
    ended = {job["id"]: job for job in stage.succeeded(*stage.load)}
    assert len(ended) >= 20
    for job_id in held:
        moves = [move for move in ended[job_id]["history"] if move["to"] == "queued" and move["at"] > killed_at]
        assert moves or ended[job_id]["history"][-1]["at"] < dead_at, "it ran to its end on a node that was dead"
        assert not moves or moves[0]["at"] - killed_at < LOST_AFTER_S + 2
    assert all([move["to"] for move in job["history"]].count("succeeded") == 1 for job in ended.values())
    assert {job["attempts"] for job in ended.values()} <= {1, 2}


def test_it_shrinks_to_two_and_those_that_left_stay_away(stage):
    stage.until_workers(2, "idle")
    assert len(stage.events("drain")) == 6
    assert not stage.events("failed")
    left_at = until(lambda: len(stage.events("left")) == 6 and time.time(), "the end of six owners")
    until(lambda: len(stage.actors()) == 2, "the end of their actors")
    stage.succeeded(stage.post(0.1), stage.post(0.1))
    assert not [event for event in stage.events("start") if event["at"] > left_at]
    assert len(stage.workers()) == 2


def test_a_launcher_that_dies_goes_on(stage):
    before = {worker["name"] for worker in stage.workers()}
    stage.kill_actor("pool.launcher")
    stage.succeeded(stage.post(0.1))
    until(lambda: (status := stage.status()) and status.wanted == 2, "the launcher again")
    assert {worker["name"] for worker in stage.workers()} == before


def test_a_worker_whose_owner_dies_ends_and_comes_back_under_its_name(stage):
    name = stage.workers()[0]["name"].removesuffix(".cpu-0").removeprefix("ray.")
    old = stage.report(name)
    stage.kill_actor(name)
    until(lambda: stage.boot(name) not in ("", old.boot), "another owner")
    until(lambda: not psutil.pid_exists(old.pid), "the end of the first process")
    stage.until_workers(2, "idle")


def test_a_notice_moves_work_in_time(stage):
    jobs = [stage.post(JOB_S) for _ in range(2)]
    node = next(node for node in stage.nodes if stage.names_on(node))
    until(lambda: _jobs_on(stage, node), "jobs on the node")
    held = _jobs_on(stage, node)
    stage.give_notice(node, within_s=40)
    until(lambda: not stage.names_on(node), "the node without workers")
    ended = {job["id"]: job for job in stage.succeeded(*jobs)}
    assert {(job["attempts"], job["losses"]) for job in ended.values()} == {(1, 0)}, "jobs were finished where they ran"
    assert held <= ended.keys()
    assert {event["detail"].split(",")[0] for event in stage.events("notice")} == {"finish"}
    stage.remove_node(node)
    stage.until_workers(2, "idle")


def test_of_two_of_one_name_the_newer_stays(stage):
    """Ray gives a machine up whose raylet has died; what runs there goes on, and its actors begin again elsewhere."""
    node = next(node for node in stage.nodes if stage.names_on(node))
    name = stage.names_on(node)[0]
    old = stage.report(name)
    # No more than two workers take at once: a third would make one of them spare.
    jobs = [stage.post(JOB_S) for _ in range(2)]
    stage.kill_raylet(node)
    new = until(lambda: (report := stage.report(name)) and report.boot != old.boot and report, "its second owner")
    until(lambda: not psutil.pid_exists(old.pid), "the end of the first")
    assert stage.boot(name) == new.boot
    assert psutil.pid_exists(new.pid)
    ended = stage.succeeded(*jobs)
    assert all([move["to"] for move in job["history"]].count("succeeded") == 1 for job in ended)
    stage.remove_node(node)
    stage.until_workers(2, "idle")


def test_a_pool_without_work_can_have_no_worker_and_comes_back(stage):
    flags = ("--min-workers", "0", "--max-workers", "2", "--idle-s", "2")
    assert stage.ask(*flags)[0] == 0
    until(lambda: stage.workers() == [], "the last worker to leave")
    (ended,) = stage.succeeded(stage.post(0.1))
    assert ended["attempts"] == 1


def test_a_stop_leaves_nothing(stage):
    jobs = [stage.post(JOB_S) for _ in range(2)]
    until(lambda: stage.workers("busy"), "a busy worker")
    processes = stage.worker_processes()
    assert len(processes) >= 3, "a worker, its agent and its engine"
    assert stage.ask("--stop") == (0, "pool pool has stopped\n", "")
    assert stage.workers() == []
    stage.until_gone(processes)
    code, _, again = stage.ask("--stop")
    assert code == 1
    assert "no launcher of a pool 'pool' runs in the Ray cluster" in again
    assert {stage.job(job)["state"] for job in jobs} <= {"succeeded", "queued"}


def test_without_its_head_a_cluster_loses_no_job(stage):
    assert stage.ask(*ONE)[0] == 0
    stage.until_workers(1, "idle", "busy")
    job = stage.post(60.0)
    until(lambda: stage.job(job)["state"] == "running", "the job to run")
    processes = stage.worker_processes()
    stage.kill_head()
    stage.until_gone(processes)
    until(lambda: stage.job(job)["state"] == "queued", "the job in the queue")
    reported = stage.launch("--status")
    assert reported.returncode == 1
    assert "ray_address: no Ray cluster answers at" in reported.stderr
    assert "their jobs go back to the queue" in reported.stderr


def _serving(stage) -> int:
    return len(stage.workers("busy", "idle"))


def _jobs_on(stage, node) -> set[str]:
    names = {f"ray.{name}.cpu-0" for name in stage.names_on(node)}
    return {job["id"] for worker in stage.workers() if worker["name"] in names for job in worker["jobs"]}
