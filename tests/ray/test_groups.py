"""A worker over several machines: all of it or nothing, and nothing of it is left."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from tests.ray.stage import until

#: With a process on each, whose engines draw with a network in earnest.
TWO_MACHINES = (
    *("--min-workers", "1", "--max-workers", "1", "--machines-per-worker", "2"),
    *("--node-label", "room=one", "--model", "demo"),
)

CLIP = {"prompt": "a red ball", "num_inference_steps": 4, "gpus": 2}


def test_a_worker_over_two_machines_draws_and_is_made_anew_when_one_of_them_dies(stage):
    assert stage.ask(*TWO_MACHINES, pool="wide")[0] == 0
    [worker] = until(lambda: stage.workers("idle"), f"the worker; {stage.tail()}")
    assert (worker["name"], worker["gpus"]) == ("ray.wide.w0.cpu-0", 2)
    first, second = stage.report("wide.w0"), stage.report("wide.w0.1")
    assert {*first.nodes, *second.nodes} == {node.node_id for node in stage.nodes}
    [clip] = stage.succeeded(stage.submit(**CLIP))
    assert clip["worker"] == worker["name"]

    processes = stage.worker_processes()
    victim = next(node for node in stage.nodes if node.node_id in second.nodes)
    stage.remove_node(victim)
    until(lambda: stage.lacking("wide"), "a worker without its machines")
    assert stage.lacking("wide") == [
        "a worker takes 1 GPU of each of 2 machines, and of 1 machine with room=one 1 has as many"
    ]
    stage.until_gone(processes)
    fresh = stage.add_node(room="one")
    until(lambda: stage.boot("wide.w0") not in ("", first.boot) and stage.boot("wide.w0.1"), "the worker, anew")
    assert fresh.node_id in {*stage.report("wide.w0").nodes, *stage.report("wide.w0.1").nodes}
    until(lambda: stage.workers("starting", "idle"), "the worker, at the broker")


def test_a_stop_leaves_neither_processes_nor_placement_groups(stage):
    processes = until(
        lambda: len(found := stage.worker_processes()) == 5 and found,
        "a worker, its agent, another machine's host of ranks, and an engine on each",
    )
    assert stage.placement_groups() == ["zoetrope.wide.w0"]
    assert stage.ask("--stop", pool="wide") == (0, "pool wide has stopped\n", "")
    assert stage.actors() == []
    assert stage.placement_groups() == []
    assert stage.events("left", "wide")
    stage.until_gone(processes)
