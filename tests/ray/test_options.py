"""Orders that a cluster or a machine refuses."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from tests.ray.stage import until


def test_a_cluster_with_a_token_takes_no_order_without_it(stage):
    refused = stage.launch("--stop", token="f" * 32)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"workers: ray_address: {stage.address} answers, but not as a Ray cluster of this Ray" in refused.stderr
    assert "and token (RAY_AUTH_TOKEN" in refused.stderr


def test_an_option_that_is_wrong_on_the_machine_starts_no_worker_twice(stage):
    flags = ("--min-workers", "1", "--models", "/nowhere/model")
    assert stage.ask(*flags, pool="wrong")[0] == 0
    until(lambda: stage.events("failed", "wrong"), "the end of the worker")
    status = until(lambda: (reported := stage.status("wrong")) and reported.fault and reported, "a word of it")
    assert "exit code 2: workers: model: '/nowhere/model' is not there" in status.fault
    assert status.wanted == 1
    until(lambda: not stage.status("wrong").members, "its owner's end")
    assert len(stage.events("start", "wrong")) == 1
    assert "agent_started" not in (stage.home / "w" / "launcher" / "wrong.w0.log").read_text()
    assert stage.ask("--stop", pool="wrong") == (0, "pool wrong has stopped\n", "")
