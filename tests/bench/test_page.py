import msgspec
import pytest

from bench import cli, run_all
from bench.commands import COMMANDS
from bench.report import bars, page
from bench.report.errors import BadPlan, BenchError
from bench.report.report import Grid, Metric, Report

ABOUT = {
    "zoetrope": "1.2.3 (0123abc)",
    "cpu": "some processor",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "load_1min": 0.5,
    "python": "3.11",
    "pyzmq": "27",
    "libzmq": "4.3",
    "msgspec": "0.2",
    "sqlite": "3",
}
FAST = {"jobs_per_s": 25_000.0, "cpu_us_per_job": 40.0, "echo_ratio": 5.0}


def bar(what):
    (found,) = [bar for bar in bars.BARS if what in bar.what]
    return found


def test_a_bar_is_met_or_missed_by_its_own_figures():
    met = bars.judge(bar("durable no-op job"), {"broker": FAST})
    assert met.met is True
    assert met.measured == "5.0 ×: 40 µs a job, 25,000 jobs/s"
    assert bars.judge(bar("durable no-op job"), {"broker": {**FAST, "echo_ratio": 5.6}}).met is False


def test_what_was_not_measured_is_neither():
    assert bars.judge(bar("durable no-op job"), {}).met is None
    assert bars.judge(bar("durable no-op job"), {"broker": {**FAST, "jobs_per_s": None}}).met is None


def test_latency_is_judged_by_the_disk_of_the_moment():
    slow_disk = {
        "submit_start_p50_ms": 9.0,
        "submit_start_p99_ms": 50.0,
        "fdatasync_p50_ms": 4.0,
        "fdatasync_p99_ms": 16.0,
    }
    judged = bars.judge(bar("submit →"), {"broker": slow_disk})
    assert judged.met is False
    assert judged.ceiling == "one flush and 5.00 ms"
    assert bars.judge(bar("submit →"), {"broker": {**slow_disk, "submit_start_p50_ms": 4.2}}).met


PEERS = {
    "zoetrope_durable_per_s": 9_000.0,
    "celery_durable_ratio": 18.0,
    "celery_durable_start_ratio": 5.0,
    "jetstream_default_ratio": 1.2,
    "fastest_durable": "Celery + Redis, durable",
    "fastest_durable_ratio": 18.0,
    "fastest": "NATS JetStream, default",
    "fastest_ratio": 1.2,
}


def test_peers_are_judged_by_the_fastest_of_all_beside_those_of_like_durability():
    judged = bars.judge(bar("other queues"), {"peers": PEERS})
    assert judged.met
    assert judged.measured == "9,000 jobs/s: 1.2 x the fastest of all (NATS JetStream, default)"
    assert judged.ceiling == (
        "18.0 x the fastest of like durability (Celery + Redis, durable); 18.0 x celery durable; 1.2 x jetstream default"
    )
    assert not bars.judge(bar("other queues"), {"peers": {**PEERS, "fastest_durable_ratio": 2.4}}).met
    assert not bars.judge(bar("other queues"), {"peers": {**PEERS, "fastest_ratio": 0.7}}).met


def test_peers_without_a_durable_one_or_without_any_are_said_so():
    alone = {**PEERS, "fastest_durable": None, "fastest_durable_ratio": None}
    assert bars.judge(bar("other queues"), {"peers": alone}).ceiling.startswith("none of like durability was measured")
    assert bars.judge(bar("other queues"), {"peers": {"zoetrope_durable_per_s": 9_000.0}}).met is None


def test_the_table_has_a_line_for_every_bar_and_says_what_was_missed():
    text = bars.table({"broker": {**FAST, "echo_ratio": 9.0}})
    assert sum(line.startswith("| ") for line in text.splitlines()) == 1 + len(bars.BARS)
    assert "**missed**" in text


def test_a_page_shows_reports_and_what_could_not_be_measured():
    made = Report(
        bench="broker",
        title="a title",
        settings={},
        metrics=[Metric("jobs_per_s", "a | label", 12_345.0, "jobs/s", "a note")],
        warnings=["mind this"],
    )
    sections = [
        page.Section(name="broker", report=made, picture="benchmarks/broker.png", took_s=3.0),
        page.Section(name="peers", report=None, problem="nothing is installed"),
    ]
    text = page.render(sections, ABOUT, 0.0, "| hot |", quick=True)
    assert "some processor, 2 cores" in text
    assert "1970-01-01 00:00 UTC" in text
    assert "| a \\| label | 12,345 jobs/s | a note |" in text
    assert "- mind this" in text
    assert "![broker](benchmarks/broker.png)" in text
    assert "Could not be measured: nothing is installed." in text
    assert "quick runs" in text
    assert "| hot |" in text
    assert "quick runs" not in page.render(sections, ABOUT, 0.0, "", quick=False)


def test_a_grid_is_a_table_of_the_page_and_its_figures_have_no_lines_of_their_own():
    made = Report(
        bench="peers",
        title="a title",
        settings={},
        metrics=[Metric("a_per_s", "hidden figure", 1.0, shown=False), Metric("best", "shown figure", 2.0)],
        grid=Grid(head=["queue", "jobs/s"], rows=[["ours | here", "9"]]),
    )
    text = page.render([page.Section(name="peers", report=made)], ABOUT, 0.0, "", quick=False)
    assert "| queue | jobs/s |\n| --- | --- |\n| ours \\| here | 9 |" in text
    assert "shown figure" in text
    assert "hidden figure" not in text


def test_the_page_names_the_code_that_was_measured():
    assert "zoetrope 1.2.3 (0123abc), python 3.11" in page.render([], ABOUT, 0.0, "", quick=False)


def test_a_busy_machine_is_said_so():
    assert "was busy" in page.render([], {**ABOUT, "load_1min": 3.0}, 0.0, "", quick=False)
    assert "was busy" not in page.render([], ABOUT, 0.0, "", quick=False)


def test_parts_are_chosen_by_name_in_their_own_order():
    assert [part.name for part in run_all.chosen("pool, broker")] == ["broker", "pool"]
    assert run_all.chosen("") == list(COMMANDS)
    with pytest.raises(BadPlan, match="'x' is not one of"):
        run_all.chosen("x")


def broken():
    raise BenchError("it has no disk")


def test_a_measurement_that_fails_at_the_end_is_named_on_the_page_and_in_no_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_all, "COMMANDS", (msgspec.structs.replace(COMMANDS[0], moderate=broken),))
    monkeypatch.setattr(run_all, "hot_spots", lambda *jobs: "| hot |")
    out = tmp_path / "page.md"
    assert cli.main(["all", "--out", str(out)]) == 0
    assert "Could not be measured: it has no disk." in out.read_text()
    assert "| hot |" in out.read_text()
    assert "0 pictures" in capsys.readouterr().out
