import pytest

from bench import bars, everything, page
from bench.errors import BadPlan
from bench.report import Metric, Report

ABOUT = {
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
FAST = {"jobs_per_s": 25_000.0, "cpu_us_per_job": 40.0, "router_cpu_us": 8.0}


def bar(what):
    (found,) = [bar for bar in bars.BARS if what in bar.what]
    return found


def test_a_bar_is_met_or_missed_with_its_reason():
    met = bars.judge(bar("durable no-op jobs"), {"broker": FAST})
    assert (met.met, met.reason) == (True, "")
    assert met.measured == "25,000 jobs/s, 40 µs"
    assert met.ceiling == "5.0 x a bare ROUTER echo's processor time"
    missed = bars.judge(bar("durable no-op jobs"), {"broker": {**FAST, "cpu_us_per_job": 90.0}})
    assert missed.met is False
    assert missed.reason


def test_what_was_not_measured_is_neither():
    assert bars.judge(bar("durable no-op jobs"), {}).met is None
    assert bars.judge(bar("durable no-op jobs"), {"broker": {**FAST, "jobs_per_s": None}}).met is None


def test_latency_is_judged_by_the_disk_of_the_moment():
    slow_disk = {
        "submit_start_p50_ms": 9.0,
        "submit_start_p99_ms": 50.0,
        "fdatasync_p50_ms": 4.0,
        "fdatasync_p99_ms": 16.0,
    }
    judged = bars.judge(bar("submit →"), {"broker": slow_disk})
    assert judged.met is False
    assert judged.ceiling == "p50 is 2.2 x one flush"
    quick = {**slow_disk, "submit_start_p50_ms": 0.4, "submit_start_p99_ms": 20.0}
    assert bars.judge(bar("submit →"), {"broker": quick}).met
    fast_disk = {**quick, "fdatasync_p50_ms": 0.1, "fdatasync_p99_ms": 0.3}
    assert not bars.judge(bar("submit →"), {"broker": fast_disk}).met


def test_peers_are_judged_by_the_fastest():
    ratios = {"zoetrope_durable_per_s": 9_000.0, "celery_durable_ratio": 18.0, "jetstream_default_ratio": 1.2}
    judged = bars.judge(bar("other queues"), {"peers": ratios})
    assert judged.met is False
    assert judged.ceiling == "18.0 x celery durable; 1.2 x jetstream default"
    assert not bars.judge(bar("other queues"), {"peers": {"zoetrope_durable_per_s": 9_000.0}}).met


def test_the_table_has_a_line_for_every_bar_and_says_what_was_missed():
    text = bars.table({"broker": {**FAST, "cpu_us_per_job": 90.0}})
    assert sum(line.startswith("| ") for line in text.splitlines()) == 1 + len(bars.BARS)
    assert "**missed**" in text
    assert "Missed, and why:" in text


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


def test_a_busy_machine_is_said_so():
    assert "was busy" in page.render([], {**ABOUT, "load_1min": 3.0}, 0.0, "", quick=False)
    assert "was busy" not in page.render([], ABOUT, 0.0, "", quick=False)


def test_parts_are_chosen_by_name_in_their_own_order():
    assert [part.name for part in everything.chosen("pool, broker")] == ["broker", "pool"]
    assert everything.chosen("") == list(everything.PARTS)
    with pytest.raises(BadPlan, match="'x' is not one of"):
        everything.chosen("x")
