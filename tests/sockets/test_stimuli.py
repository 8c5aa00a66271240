"""A rule that the core breaks leaves a file that shows it again."""

from __future__ import annotations

import time

import pytest

from broker.core.jobs import TABLE, Cause
from broker.shell.router import Router
from broker.shell.stimuli import Stimuli
from broker.testing import holding
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import JobState
from tests.sockets.router_bench import Bench
from tests.support.replay import replay
from tests.testing.in_process import a_job

SECRET = "https://hooks.example.com/secret-token"


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    parts = (bench.core, bench.journal, bench.wires, bench.disk, bench.metrics, bench.limiter, time.perf_counter)
    bench.router = Router(*parts, stimuli=Stimuli(tmp_path), check_invariants=True)
    yield bench
    bench.journal.close()


def one_job(bench: Bench, repeat: int = 1) -> None:
    bench.join()
    bench.edge(a_job("job-1", webhook=SECRET, body=b"a prompt that is nobody's business" * repeat))
    bench.run()
    (run,) = bench.sent(m.Run)
    bench.agent(holding("job-1", run.fence))
    bench.run()
    bench.agent(m.Finished(job_id="job-1", fence=run.fence, free=1, body=codec.encode_body(Result())))
    bench.run()


def test_an_illegal_move_is_written_down_and_raised_again_by_its_replay(bench, tmp_path, monkeypatch):
    allowed = {cause: target for cause, target in TABLE[JobState.RUNNING].items() if cause is not Cause.FINISHED}
    monkeypatch.setitem(TABLE, JobState.RUNNING, allowed)
    one_job(bench)
    (path,) = tmp_path.glob("stimuli-*.msgpack")
    raised = replay(path)
    assert raised.startswith("IllegalMove: job job-1 is running, cannot move by finished")
    assert path.stat().st_mode & 0o077 == 0
    monkeypatch.undo()
    assert replay(path) == ""


@pytest.mark.parametrize("repeat", [1, 1000])
def test_neither_spec_nor_webhook_is_written(bench, tmp_path, monkeypatch, repeat):
    monkeypatch.setitem(TABLE, JobState.RUNNING, {})
    one_job(bench, repeat)
    (path,) = tmp_path.glob("stimuli-*.msgpack")
    written = path.read_bytes()
    assert b"job-1" in written
    assert b"secret-token" not in written
    assert b"nobody" not in written
    # Long ones are not even kept.
    kept = [message for _, _, message in bench.router._stimuli.ring if isinstance(message, m.Submit)]
    assert [bool(message.body) for message in kept] == [repeat == 1]


def test_a_broken_invariant_is_found_before_the_commit(bench, tmp_path):
    bench.join()
    bench.core.state.counts[JobState.QUEUED] += 1
    bench.edge(a_job("job-1"))
    bench.run()
    assert bench.metrics.failures == 1
    assert bench.journal.find("job-1") is None
    assert not bench.sent(m.Accepted)
    assert len([*tmp_path.glob("stimuli-*.msgpack")]) == 1


def test_nothing_is_written_while_all_rules_hold(bench, tmp_path):
    one_job(bench)
    assert not [*tmp_path.glob("stimuli-*.msgpack")]
    assert bench.metrics.failures == 0
