"""Finished jobs as traces: whose they are, what they tell, and that each is exported once, whatever is down meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker.runtime.settings import SettingsError
from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, Result, decode_spec
from broker.wire.messages import Failure, HistoryEntry, JobView
from broker.wire.submission import Submission
from http_edge.background.trace_spans import spans_of
from http_edge.background.traces import NotTaken, Traces, otlp_exporter
from tests.edge.conftest import World
from tests.testing.receiver import receiving

TRACE, CLIENT, OWN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "1234567890abcdef"
SPEC = JobSpec(
    model="demo", output="video", prompt="a cat", width=64, height=48, num_frames=5, num_inference_steps=4, seed=7,
    traceparent=f"00-{TRACE}-{OWN}-01", parent_span=CLIENT,
)  # fmt: skip
#: Waits, dies on one worker, waits, is parked, and is drawn by another.
HISTORY = (
    HistoryEntry(100.0, "", "queued", "submitted"),
    HistoryEntry(101.0, "queued", "assigned", "dispatched", 0, "gpu-0"),
    HistoryEntry(101.5, "assigned", "running", "started", 1, "gpu-0"),
    HistoryEntry(103.0, "running", "delayed", "retry", 1, "gpu-0", "the engine crashed"),
    HistoryEntry(104.0, "delayed", "queued", "due"),
    HistoryEntry(105.0, "queued", "assigned", "dispatched", 1, "gpu-1"),
    HistoryEntry(105.5, "assigned", "running", "started", 2, "gpu-1"),
    HistoryEntry(110.0, "running", "succeeded", "finished", 2, "gpu-1"),
)
RESULT = Result(artefacts=(), stage_durations={"denoise": 2.0, "load": 1.0, "save": 0.5})


def view(**more: Any) -> JobView:
    given = {
        "state": "succeeded", "attempts": 2, "submitted_at": 100.0, "started_at": 105.5, "finished_at": 110.0,
        "history": HISTORY, "result": RESULT, **more,
    }  # fmt: skip
    return JobView(id="job-1", submission=Submission(model="demo", tenant="studio"), revision=1, **given)


def test_a_job_is_its_waits_attempts_phases_and_publication() -> None:
    root, *below = spans_of(view(), SPEC)
    assert (root.trace_id, root.span_id, root.parent_id) == (TRACE, OWN, CLIENT)
    assert (root.name, root.start_at, root.end_at, root.error) == ("generate_content demo", 100.0, 110.0, "")
    assert root.attributes["gen_ai.request.model"] == "demo"
    assert root.attributes["zoetrope.tenant"] == "studio"
    named = {span.span_id: span.name for span in (root, *below)}
    assert [(named[span.parent_id], span.name, span.start_at, span.end_at) for span in below] == [
        (root.name, "wait", 100.0, 101.0),
        (root.name, "attempt 1", 101.0, 103.0),
        (root.name, "wait before a retry", 103.0, 104.0),
        (root.name, "wait", 104.0, 105.0),
        (root.name, "attempt 2", 105.0, 110.0),
        ("attempt 2", "load", 105.5, 106.5),
        ("attempt 2", "denoise", 106.5, 108.5),
        ("attempt 2", "save", 108.5, 109.0),
        ("attempt 2", "publish", 109.0, 110.0),
    ]
    first, second = below[1], below[4]
    assert (first.error, first.attributes["zoetrope.worker"]) == ("the engine crashed", "gpu-0")
    assert (second.error, second.attributes["zoetrope.worker"]) == ("", "gpu-1")
    assert len(named) == 10
    assert spans_of(view(), SPEC) == [root, *below]


def test_a_failure_is_an_error_with_its_type_and_a_cancel_is_none() -> None:
    failure = Failure(FailureKind.OUT_OF_MEMORY, "40 GB are needed")
    root = spans_of(view(state="failed", failure=failure, result=None), SPEC)[0]
    assert (root.error, root.attributes["error.type"]) == ("40 GB are needed", "out_of_memory")
    assert spans_of(view(state="cancelled", result=None), SPEC)[0].error == ""


def test_what_is_not_sampled_or_of_no_trace_is_not_told() -> None:
    for traceparent in ("", "nonsense", f"00-{TRACE}-{OWN}-00"):
        assert spans_of(view(), msgspec.structs.replace(SPEC, traceparent=traceparent)) == []


class Collector(InMemorySpanExporter):
    """A collector that can be down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = ""

    def export(self, spans: Any) -> SpanExportResult:
        if self.down == "raises":
            raise ConnectionError("refused")
        if self.down == "silent":
            super().export(spans)
            raise TimeoutError("no answer")
        return SpanExportResult.FAILURE if self.down else super().export(spans)

    def jobs(self) -> list[str]:
        return [ids for span in self.get_finished_spans() if (ids := span.attributes.get("zoetrope.job.id"))]


@pytest.fixture
def collector() -> Collector:
    return Collector()


def exporting(world: World, collector: Collector) -> Traces:
    """The part of this edge, watching events; its turns are the test's to take."""
    traces = Traces(world.edge.calls, collector, wall_clock=lambda: world.fake.now)

    def listen() -> None:
        for task in traces.start():
            task.cancel()

    world.do(listen)
    return traces


def turn(world: World, traces: Traces) -> None:
    assert world.http.portal is not None
    world.http.portal.call(traces.turn)


def test_the_span_of_the_request_is_the_jobs_below_the_clients(world: World, collector: Collector) -> None:
    traces = exporting(world, collector)
    turn(world, traces)
    headers = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
    answer = world.http.post("/v1/jobs", json={"prompt": "a cat", "seed": 7}, headers=headers)
    job_id = answer.json()["id"]
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)
    turn(world, traces)
    spans = collector.get_finished_spans()
    job = next(span for span in spans if span.parent.is_remote)
    assert f"{job.context.trace_id:032x}" == TRACE
    assert f"{job.parent.span_id:016x}" == CLIENT
    assert answer.headers["traceparent"] == f"00-{TRACE}-{job.context.span_id:016x}-01"
    assert job.attributes["zoetrope.job.id"] == job_id
    assert job.attributes["gen_ai.request.seed"] == 7
    assert job.resource.attributes["service.name"] == "zoetrope"
    assert {span.context.trace_id for span in spans} == {job.context.trace_id}
    assert len(spans) > 1


def test_each_job_is_exported_once_by_one_of_several_edges_and_after_a_restart(
    open_edge: Any, collector: Collector
) -> None:
    # Events come to the edge that was opened last.
    two, one = open_edge(), open_edge()
    before = one.finished()["id"]
    first, second = exporting(one, collector), exporting(two, collector)
    turn(one, first)
    turn(two, second)
    assert collector.jobs() == [], "what had ended before was told"
    ids = [one.finished()["id"] for _ in range(3)]
    for _ in range(2):
        turn(two, second)
        turn(one, first)
    assert collector.jobs() == ids
    # It ends; what ends before another takes its place is found in the list.
    assert one.http.portal is not None
    one.http.portal.call(first.close)
    missed = one.finished()["id"]
    third = exporting(one, collector)
    turn(one, third)
    turn(two, second)
    assert collector.jobs() == [*ids, missed]
    assert before not in collector.jobs()


@pytest.mark.parametrize("down", ["fails", "raises"])
def test_a_collector_that_is_down_delays_traces_and_no_job(world: World, collector: Collector, down: str) -> None:
    traces = exporting(world, collector)
    turn(world, traces)
    collector.down = down
    job = world.finished()
    assert job["state"] == "succeeded"
    for _ in range(2):
        with pytest.raises(NotTaken):
            turn(world, traces)
    collector.down = ""
    turn(world, traces)
    turn(world, traces)
    assert collector.jobs() == [job["id"]]


def test_a_trace_that_is_told_twice_is_the_same_spans(world: World, collector: Collector) -> None:
    """Where the collector's answer is lost it has a job twice; by the ids of the spans it knows that they are the same."""
    traces = exporting(world, collector)
    turn(world, traces)
    collector.down = "silent"
    job = world.finished()
    with pytest.raises(NotTaken):
        turn(world, traces)
    collector.down = ""
    turn(world, traces)
    assert collector.jobs() == [job["id"]] * 2
    reported = [span.to_json() for span in collector.get_finished_spans()]
    once = len(reported) // 2
    assert reported[:once] == reported[once:]
    ids = {(span.context.trace_id, span.context.span_id) for span in collector.get_finished_spans()}
    assert len(ids) == once > 1


def test_events_that_were_lost_lose_no_trace(world: World, collector: Collector) -> None:
    traces = exporting(world, collector)
    turn(world, traces)
    listeners = world.fake.on_event
    world.fake.on_event = lambda view: None
    job = world.finished()
    world.fake.on_event = listeners
    turn(world, traces)
    assert collector.jobs() == []
    world.do(world.fake.on_gap)
    turn(world, traces)
    assert collector.jobs() == [job["id"]]


def test_a_client_that_does_not_sample_is_obeyed(world: World, collector: Collector) -> None:
    traces = exporting(world, collector)
    turn(world, traces)
    headers = {"traceparent": f"00-{TRACE}-{CLIENT}-00"}
    job_id = world.http.post("/v1/jobs", json={"prompt": "a cat"}, headers=headers).json()["id"]
    spec = decode_spec(world.fake.jobs[job_id].body)
    assert (spec.traceparent[-3:], spec.parent_span) == ("-00", CLIENT)
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)
    turn(world, traces)
    assert collector.jobs() == []


def test_without_the_package_the_setting_is_an_error_that_names_it(open_edge: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"traces: true needs .*pip install 'zoetrope\[otel\]'"):
        open_edge(traces=True)


def test_a_collector_gets_them_by_otlp_at_the_usual_address(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.removesuffix("/hook?key=1"))
        monkeypatch.setenv("OTEL_SERVICE_NAME", "studio-video")
        traces = Traces(world.edge.calls, otlp_exporter(), wall_clock=lambda: world.fake.now)
        turn(world, traces)
        job = world.finished()
        traces.look_again()
        turn(world, traces)
        received = receiver.next()
    assert received.path == "/v1/traces"
    sent = ExportTraceServiceRequest.FromString(received.body)
    (resource,) = sent.resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "studio-video"
    (scope,) = resource.scope_spans
    attributes = {one.key: one.value.string_value for span in scope.spans for one in span.attributes}
    assert attributes["zoetrope.job.id"] == job["id"]
