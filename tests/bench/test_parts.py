"""The pure parts of single measurements."""

import cProfile
import pstats

import msgspec
import pytest

from bench import on_gpu
from bench.harness import flood
from bench.report.errors import BadPlan, BenchError
from bench.report.report import Flush
from bench.report.stats import summarise
from bench.suites import cancel, engine, idle, parking, profile, recover, renders, resume, speed, workload
from broker.wire import messages as m
from broker.wire.jobspec import Result

FLUSH = Flush(times=summarise([0.001]), filesystem="ext4")
DURATIONS = {"encode": 0.5, "denoise": 4.0, "decode": 2.0, "save": 1.0}


def values(report):
    return {metric.key: metric.value for metric in report.metrics}


# ---------------------------------------------------------------- cancel


@pytest.mark.parametrize(
    ("phase", "begin", "end"), [("encode", 0.0, 0.5), ("denoise", 0.5, 4.5), ("decode", 4.5, 6.5), ("save", 6.5, 7.5)]
)
def test_phases_follow_one_another(phase, begin, end):
    where = cancel.timeline(DURATIONS, phase, 8)
    assert (where.begin, where.end, where.step_s) == (begin, end, 0.5)


def test_a_load_pushes_the_phases_behind_it():
    assert cancel.timeline({**DURATIONS, "load": 3.0}, "encode", 8).begin == 3.0
    assert cancel.timeline(DURATIONS, "load", 8).end == 0.0


def test_cancels_are_reported_by_phase_beside_their_bar():
    outcomes = [
        cancel.Outcome(name="queued", label="queued", latencies=[0.001, 0.003]),
        cancel.Outcome(name="decode", label="VAE decode", latencies=[0.02], late=2, step_s=0.1),
        cancel.Outcome(name="saving", label="saving", latencies=[], late=3, step_s=0.1),
    ]
    report = cancel.report_of(cancel.CancelPlan(), outcomes, FLUSH)
    found = values(report)
    assert found["queued_p50_ms"] == pytest.approx(2.0)
    assert found["decode_bar_ms"] == pytest.approx(150.0)
    assert "queued_bar_ms" not in found
    assert found["saving_p99_ms"] is None
    assert found["fdatasync_p50_ms"] == 1.0
    assert any("2 more came after" in metric.note for metric in report.metrics)


# ---------------------------------------------------------------- engine


def view(number, started, finished, durations):
    return m.JobView(
        id=f"j{number}",
        state="succeeded",
        submission=m.Submission(model="demo"),
        revision=number,
        started_at=started,
        finished_at=finished,
        result=Result(stage_durations=durations),
    )


def test_gaps_and_hidden_work_follow_from_the_jobs_times():
    stages = {"denoise": 4.0, "decode": 1.0, "save": 1.0}
    apart = engine.served([view(1, 0.0, 6.0, stages), view(2, 6.5, 12.5, stages)])
    assert (apart.gaps, apart.hidden, apart.took_s) == ([0.5], 0.0, 12.5)
    assert apart.stages["denoise"] == 4.0
    # The second begins one second before the first has ended: half of the first one's tail was hidden.
    over = engine.served([view(2, 5.0, 11.0, stages), view(1, 0.0, 6.0, stages)])
    assert (over.gaps, over.hidden) == ([0.0], 0.5)
    assert over.hand_overs == [1.0], "four seconds of denoising, and one until the next job began"


def test_the_engines_report_is_a_ratio():
    runs = [
        (
            engine.Served(took_s=took_s, gaps=[0.001, 0.003], hand_overs=[0.002], hidden=0.25, stages={"denoise": 1.0}),
            10.0,
        )
        for took_s in (8.0, 8.0, 20.0)
    ]
    found = values(engine.report_of(engine.EnginePlan(jobs=8), runs, FLUSH))
    assert found["ratio"] == pytest.approx(1.25)
    assert found["gap_p50_ms"] == pytest.approx(2.0)
    assert found["hidden_pct"] == 25.0


def test_a_device_is_idle_where_no_model_computes():
    spans = [
        idle.Span("denoiser", 0.0, 1.0),
        idle.Span("denoiser", 1.5, 2.0),  # within a job, a pause is not of the hand-over
        idle.Span("vae", 2.002, 2.010),
        idle.Span("text encoder", 2.008, 2.020),
        idle.Span("vae", 2.019, 2.040),
        idle.Span("denoiser", 2.021, 3.0),
        idle.Span("denoiser", 3.0, 4.0),
        idle.Span("denoiser", 4.003, 5.0),
        idle.Span("denoiser", 5.0, 6.0),
    ]
    assert idle.idle_ms(spans, 2) == pytest.approx([2.0, 3.0])


def test_ways_to_be_quicker_stand_beside_the_plain_model():
    rows = [
        speed.Row(variant="plain", steps=12, step_s=1.0, decode_s=3.0, whole_s=15.0, ratio=1.0),
        speed.Row(
            variant="cache-fast",
            steps=12,
            step_s=0.5,
            decode_s=3.0,
            whole_s=9.0,
            ratio=1.667,
            mean_pixel=2.5,
            worst_pixel=40,
        ),
        speed.Row(variant="fp8", error="needs torchao"),
    ]
    report = speed.report_of("all", rows, engine.EnginePlan(speed="all"))
    assert values(report) == {"ratio_plain": 1.0, "ratio_cache_fast": 1.667}
    assert [row[0] for row in report.grid.rows] == ["plain", "cache-fast", "fp8"]
    assert len({len(row) for row in (report.grid.head, *report.grid.rows)}) == 1
    assert report.warnings == ["fp8: needs torchao"]


@pytest.mark.parametrize("size", ["832x480", "a", "1x2x3x4"])
def test_a_size_of_variants_is_width_height_and_frames(tmp_path, size):
    with pytest.raises(BadPlan, match="must be WIDTHxHEIGHTxFRAMES"):
        speed.run(tmp_path, "all", size, 0, on_gpu=False)


# ---------------------------------------------------------------- on a GPU that is lent


def test_sections_end_at_their_limit_and_what_no_longer_fits_is_told(tmp_path):
    def python(name, text, limit_s=60.0):
        return on_gpu.Section(name=name, command=("-c", text), limit_s=limit_s)

    kept = []
    reported = on_gpu.run(
        [
            python("good", 'print("noise"); print(\'{"step_s": 1.5}\')'),
            python("hung", 'print("begun", flush=True); import threading; threading.Event().wait()', limit_s=1.0),
            python("wrong", "raise SystemExit(3)"),
        ],
        budget_s=600.0,
        keep=lambda so_far: kept.append(len(so_far)),
    )
    assert [one.ending for one in reported] == ["done", "stopped after 1 s", "exit code 3"]
    assert [one.said for one in reported] == [{"step_s": 1.5}, ["begun"], []]
    assert kept == [1, 2, 3]
    assert "step_s=1.5" in on_gpu.table(reported)
    (late,) = on_gpu.run([python("late", "")], budget_s=5.0, keep=lambda so_far: None)
    assert late.ending == "skipped: 5 s were left"


def test_a_gpu_and_a_cpu_go_through_the_same_list(tmp_path):
    cpu, gpu = ([section.name for section in on_gpu.sections(device, tmp_path)] for device in ("cpu", "cuda"))
    assert gpu == [
        "gpu tests",
        "draw wan-1.3b",
        "variants",
        "killed clip",
        "step wan-14b-i2v",
        "step wan-1.3b",
        "step flux",
        "hand-over",
        "respawn",
    ]
    assert cpu == ["gpu tests", "draw tiny", "variants", "killed clip", "step tiny", "hand-over", "respawn"]


# ---------------------------------------------------------------- flood


def test_an_answer_is_measured_when_its_head_is_there():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
    assert flood.answer_bytes(answer[:20]) is None
    assert flood.answer_bytes(answer) == len(answer)
    assert flood.answer_bytes(answer[:-3]) == len(answer)
    assert flood.answer_bytes(answer + b"HTTP/1.1 200") == len(answer)


@pytest.mark.parametrize("data", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_is_no_use_ends_the_flood(data):
    with pytest.raises(BenchError):
        flood.answer_bytes(data)


# ---------------------------------------------------------------- recover, profile


def test_recoveries_show_median_and_worst():
    plan = recover.RecoverPlan(queued=0)
    report = recover.report_of(plan, {"engine": [1.0, 3.0, 2.0]}, None, FLUSH)
    assert values(report)["engine_p50_s"] == 2.0
    assert "worst of 3: 3.00 s" in report.metrics[0].note


NOTHING_DRAWN = renders.Drawn(renders=[], pairs=[])


#: Seven steps of 0.1 s from second 10 on: the beginning of the loop, then each step.
STEADY = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7]


def test_what_parking_takes_is_told_by_part():
    def park(read: float) -> parking.Park:
        return parking.Park(
            kept=10, step=0.1, copied=0.001, written=0.002, left=0.001, flushed=0.05, read=read, begun=0.01, passed=0.02, stepped=0.1
        )  # fmt: skip

    shown = {metric.key: metric.value for metric in parking.metrics_of([park(0.001), park(0.003), park(0.002)])}
    assert (shown["parks"], shown["park_out_ms"]) == (3, pytest.approx(4.0)), "the disk is waited for beside"
    assert (shown["park_again_ms"], shown["park_passed_step_ms"]) == (pytest.approx(32.0), pytest.approx(2.0))
    assert parking.metrics_of([]) == []


@pytest.mark.parametrize(
    ("times", "at", "resumed", "expected"),
    [
        pytest.param([0.0] * 8, 10.0, 0, (0, 0.0, 0.0, False), id="before its loop"),
        pytest.param([*STEADY[:4], 0, 0, 0, 0], 10.35, 2, (3, 0.15, 0.0, False), id="on from a checkpoint"),
        pytest.param([*STEADY[:4], 0, 0, 0, 0], 10.35, 0, (3, 0.35, 0.0, False), id="anew, as one had just fallen due"),
        pytest.param([*STEADY[:6], 0, 0], 10.55, 0, (5, 0.55, 0.0, True), id="anew, as the disk was slow"),
        pytest.param(STEADY, 11.2, 7, (7, 0.0, 0.5, False), id="in its decoding"),
        pytest.param(STEADY, 11.2, 6, (7, 0.1, 0.5, False), id="in its decoding, before the last was written"),
        pytest.param([10.0, 0, 0, 10.3, 0, 0, 0, 0], 10.35, 2, (3, 0.35, 0.0, False), id="killed for the second time"),
        pytest.param([10.0, 10.1, 0, 0, 0, 0, 0, 0], 10.15, 2, (1, 0.0, 0.0, False), id="written, not shown yet"),
    ],
)
def test_denoising_and_decoding_that_is_done_twice_is_counted_apart(times, at, resumed, expected):
    kill = renders.kill_of(times, at, resumed, checkpoint_s=0.25)
    assert (kill.step, round(kill.denoise_s, 6), round(kill.decode_s, 6), kill.overdue) == expected
    assert kill.resumed == resumed


def test_kills_are_shown_with_what_they_cost():
    kills = [
        renders.Kill(step=9, resumed=5, denoise_s=0.2, decode_s=0.1),
        renders.Kill(step=9, resumed=0, denoise_s=0.4, overdue=True),
    ]
    found = [renders.Render(kills=kills, same=True), renders.Render(kills=[], same=False, error="it ended")]
    plan = resume.ResumePlan(checkpoint_s=0.25)
    report = resume.report_of(plan, None, [], renders.Drawn(renders=found, pairs=[]))
    shown = values(report)
    assert (shown["renders"], shown["renders_not_final"], shown["renders_different"]) == (2, 1, 1)
    assert (shown["renders_steps"], shown["renders_repeated"], shown["renders_resumed"]) == (18, 13, 1)
    assert (shown["over_interval"], shown["overdue"], shown["lost_max_ms"]) == (1, 1, 400)
    assert (shown["decodes"], shown["decode_max_ms"]) == (1, 100)
    assert "it ended" in report.warnings


def test_the_price_of_checkpoints_is_counted_by_their_interval():
    pair = renders.Pair(
        with_s=10.1, without_s=10.0, step_s=0.5, checkpoints=2, bytes=9, copy_ms=4.0, write_ms=30.0, write_cpu_ms=6.0
    )
    shown = values(resume.report_of(resume.ResumePlan(), None, [], renders.Drawn(renders=[], pairs=[pair])))
    assert (round(shown["price_pct"], 3), round(shown["cpu_ratio"], 3)) == (0.2, 1.01)


def test_steps_count_as_drawn_twice_from_the_checkpoint_on():
    usual = {"number": 7, "state": "succeeded", "same": True, "denoising": True, "kept_bytes": 9, "took_s": 2.0}

    def shown(*steps: int) -> tuple[tuple[float, int], ...]:
        return tuple((0.03 * step, step) for step in steps)

    found = [
        resume.Interrupted(victim="engine", step=30, shown=shown(0, 10, 26, 30), attempts=2, resumed=25, **usual),
        resume.Interrupted(victim="agent", step=10, shown=shown(0, 5, 10), attempts=2, resumed=0, **usual),
        resume.Interrupted(victim="broker", step=50, shown=shown(0, 50), attempts=1, resumed=0, **usual),
        resume.Interrupted(victim="engine", step=0, attempts=2, resumed=90, **{**usual, "denoising": False}),
        resume.Interrupted(victim="engine", step=3, attempts=2, resumed=5, **{**usual, "same": False, "kept_bytes": 0}),
    ]
    calm = resume.Undisturbed(with_s=[2.2, 3.0], without_s=[2.0, 3.0], usual_s=3.0, pixels={})
    report = resume.report_of(resume.ResumePlan(), calm, found, NOTHING_DRAWN)
    told = values(report)
    assert [text.partition(":")[0] for text in report.warnings if text.startswith("kill ")] == ["kill 7, of the agent"]
    assert (told["kills"], told["different"], told["not_succeeded"]) == (5, 1, 0)
    assert (told["begun_again"], told["resumed"]) == (3, 2)
    assert (told["steps_drawn"], told["steps_repeated"]) == (43, 15)
    assert (told["served_over_interval"], round(told["repeated_max_s"], 2)) == (1, 0.3), "ten steps of 30 ms, and four"
    assert told["left_out"] == 1
    assert (told["checkpoint_bytes"], round(told["overhead_ratio"], 3)) == (9, 1.05)


def test_a_profile_is_a_table_of_shares():
    profiler = cProfile.Profile()
    profiler.enable()
    sorted(range(1000), key=lambda number: -number)
    profiler.disable()
    text = profile.table(pstats.Stats(profiler), jobs=10)
    assert text.startswith("| function | calls a job |")
    assert "<lambda>` | 100.0 |" in text


# ---------------------------------------------------------------- traces


def trace(tmp_path, *lines):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_a_trace_is_read_in_order_of_time_from_its_first(tmp_path):
    path = trace(
        tmp_path,
        msgspec.json.encode({"at_s": 12.5, "prompt": "b", "width": 64, "height": 32, "steps": 4}).decode(),
        "",
        msgspec.json.encode({"at_s": 10.0, "prompt": "a", "seed": 7}).decode(),
    )
    first, second = workload.read_trace(path)
    assert (first.at_s, first.prompt, first.seed, first.shape) == (0.0, "a", 7, None)
    assert (second.at_s, second.shape, second.steps) == (2.5, workload.Shape(64, 32), 4)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "x"}', "line 1: .*at_s"),
        ('{"at_s": 1, "size": 3}', "line 1: .*size"),
        ('{"at_s": 1, "width": 64}', "line 1: width and height"),
        ("", "has no lines"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path, line, words):
    with pytest.raises(BadPlan, match=words):
        workload.read_trace(trace(tmp_path, line))
