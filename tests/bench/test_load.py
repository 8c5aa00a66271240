import asyncio

import httpx
import msgspec
import pytest

from bench.suites import load
from bench.suites.load import LoadPlan, Runner
from bench.suites.loadrun import Outcome
from bench.suites.workload import Arrival


class FakeService:
    """A service that ends every job at once, but for those that a test wants otherwise."""

    def __init__(self, *, reject=(), break_streams=0, final="succeeded", too_late=False):
        self.too_late = too_late
        self.bodies = []
        self.reject = set(reject)
        self.break_streams = break_streams
        self.final = final
        self.last = {"state": final, "timings": {"queued_s": 2.0, "run_s": 0.5}, "artefacts": [{}, {}]}
        if final == "failed":
            self.last |= {"artefacts": [], "error": {"code": "hung", "message": "no step for 30 s"}}

    def __call__(self, request):
        path = request.url.path
        if request.method == "POST":
            self.bodies.append(msgspec.json.decode(request.content))
            number = len(self.bodies)
            if number in self.reject:
                return httpx.Response(429, json={"detail": "full"}, headers={"Retry-After": "1"})
            return httpx.Response(200, json={"id": f"j{number}", "state": "queued"})
        if path.endswith("/events"):
            if self.break_streams:
                self.break_streams -= 1
                raise httpx.ReadError("broken")
            if self.too_late:
                return httpx.Response(204)
            events = [{"state": "running", "step": 1}, {**self.last, "step": 2}]
            text = "".join(f"id: {n}\ndata: {msgspec.json.encode(e).decode()}\n\n" for n, e in enumerate(events))
            return httpx.Response(200, text=": hello\n\n" + text, headers={"Content-Type": "text/event-stream"})
        return httpx.Response(200, json=self.last)


def drive(service, **changes):
    plan = LoadPlan(**{"url": "http://service", "rate": 1000.0, "jobs": 4, **changes})

    async def go():
        async with httpx.AsyncClient(base_url=plan.url, transport=httpx.MockTransport(service)) as client:
            return await Runner(plan, client).run()

    outcomes = asyncio.run(go())
    return outcomes, load.report_of(plan, outcomes, workers=2)


def results(report):
    return {metric.key: metric.value for metric in report.metrics}


def test_every_job_is_followed_to_its_end():
    outcomes, report = drive(FakeService())
    assert [outcome.status for outcome in outcomes] == ["succeeded"] * 4
    figures = results(report)
    assert (figures["succeeded"], figures["rejected"], figures["errors"]) == (4, 0, 0)
    assert figures["wait_p50_s"] == 2.0
    assert figures["outputs_per_s"] == pytest.approx(2 * figures["jobs_per_s"])
    assert figures["busy_share_pct"] == pytest.approx(100 * 4 * 0.5 / (2 * figures["duration_s"]))
    assert figures["first_progress_p50_s"] <= figures["end_to_end_p50_s"]


def moves(*steps):
    """A history: (at, state) from its first move to its last."""
    return [{"at": at, "from": None, "to": state, "cause": "x"} for at, state in steps]


RETRIED = moves(
    (10.0, "queued"), (11.0, "assigned"), (12.0, "running"), (15.0, "queued"), (16.5, "running"), (18.0, "succeeded")
)


def test_waits_and_busy_time_are_those_of_the_jobs_story_with_every_attempt():
    service = FakeService()
    service.last |= {"history": RETRIED, "attempts": 2}
    outcomes, report = drive(service)
    # Queued and assigned 2 s, and 1.5 s more after its worker died; it ran 3 s for nothing, then 1.5 s.
    assert {(outcome.wait_s, outcome.busy_s) for outcome in outcomes} == {(3.5, 4.5)}
    figures = results(report)
    assert figures["wait_p90_s"] == 3.5
    assert figures["busy_share_pct"] == pytest.approx(100 * 4 * 4.5 / (2 * figures["duration_s"]))
    assert figures["lost_share_pct"] == pytest.approx(100 * 3.0 / 4.5)


def test_time_in_which_two_jobs_overlap_in_one_worker_counts_once():
    spans = [[("gpu-0", 0.0, 6.0)], [("gpu-0", 4.0, 10.0), ("gpu-1", 4.0, 5.0)], [("gpu-0", 20.0, 21.0)]]
    outcomes = [Outcome(Arrival(at_s=0.0, prompt="p", seed=1), spans=of_one) for of_one in spans]
    assert load.covered_s(outcomes) == 12.0


def test_a_job_that_failed_or_was_cancelled_kept_a_worker_busy_too():
    service = FakeService(final="failed")
    service.last["history"] = moves((1.0, "queued"), (2.0, "running"), (4.0, "failed"))
    _, report = drive(service)
    figures = results(report)
    assert figures["busy_share_pct"] == pytest.approx(100 * 4 * 2.0 / (2 * figures["duration_s"]))
    assert figures["wait_mean_s"] is None
    assert figures["lost_share_pct"] == 100.0


def test_refusals_are_counted_apart():
    _, report = drive(FakeService(reject={2, 3}))
    assert (results(report)["succeeded"], results(report)["rejected"]) == (2, 2)


def test_a_broken_stream_is_opened_again():
    outcomes, _ = drive(FakeService(break_streams=2), jobs=1)
    assert outcomes[0].status == "succeeded"


def test_a_job_that_ended_before_its_stream_was_opened_is_asked_for():
    outcomes, _ = drive(FakeService(too_late=True), jobs=1)
    assert (outcomes[0].status, outcomes[0].wait_s, outcomes[0].progressed) == ("succeeded", 2.0, None)


def test_failures_are_named_with_their_reason():
    _, report = drive(FakeService(final="failed"))
    assert results(report)["failed"] == 4
    assert results(report)["end_to_end_mean_s"] is None
    assert "4 x failed: no step for 30 s" in report.warnings


def test_an_unusable_answer_is_an_error():
    outcomes, report = drive(lambda request: httpx.Response(500, text="oops"))
    assert {outcome.status for outcome in outcomes} == {"error"}
    assert "4 x error: BadAnswer: status 500: oops" in report.warnings


def test_jobs_that_never_end_are_unfinished():
    def service(request):
        if request.method == "POST":
            return httpx.Response(200, json={"id": "j", "state": "queued"})
        raise httpx.ReadError("never")

    outcomes, report = drive(service, jobs=2, timeout_s=0.05)
    assert [outcome.status for outcome in outcomes] == ["unfinished"] * 2
    # The run lasted until they were given up, and not until the last that ended.
    assert results(report)["duration_s"] >= 0.05
    assert results(report)["goodput_per_s"] == 0.0
    assert any("had not ended" in warning for warning in report.warnings)


def test_the_request_says_only_what_was_asked():
    service = FakeService()
    drive(service, jobs=1, prompts=("p",))
    assert service.bodies[0].keys() == {"prompt", "seed"}
    drive(service, jobs=1, model="wan", shapes=(load.Shape(64, 32, 17),), steps=(8,))
    assert (
        service.bodies[1].items()
        >= {"model": "wan", "width": 64, "height": 32, "num_frames": 17, "num_inference_steps": 8}.items()
    )


def test_a_service_without_workers_is_warned_of():
    plan = LoadPlan(url="http://service", rate=1.0, jobs=1)
    report = load.report_of(plan, [load.Outcome(load.draw(1.0, 1, 0)[0])], workers=0)
    assert results(report)["busy_share_pct"] is None
    assert "the service had no workers" in report.warnings


def test_goodput_counts_what_came_in_time_and_what_was_done_again():
    service = FakeService()
    service.last["attempts"] = 3
    outcomes, report = drive(service, slo_s=60.0)
    figures = results(report)
    assert figures["slo_attainment_pct"] == 100.0
    assert figures["goodput_per_s"] == pytest.approx(figures["jobs_per_s"])
    assert figures["attempts_again"] == 8
    assert {outcome.attempts for outcome in outcomes} == {3}
    late = load.report_of(LoadPlan(url="http://service", rate=1.0, jobs=4, slo_s=1e-9), outcomes, workers=1, kills=2)
    assert (results(late)["slo_attainment_pct"], results(late)["goodput_per_s"], results(late)["kills"]) == (
        0.0,
        0.0,
        2,
    )


def test_a_trace_says_what_is_sent(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 5, "prompt": "from the trace", "steps": 3}\n')
    service = FakeService()
    outcomes, report = drive(service, rate=None, jobs=None, trace=str(path))
    assert [body["prompt"] for body in service.bodies] == ["from the trace"]
    assert service.bodies[0]["num_inference_steps"] == 3
    assert len(outcomes) == 1
    assert results(report)["succeeded"] == 1
