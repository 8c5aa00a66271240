import io

import msgspec
import pytest
from PIL import Image

from bench.report import plot, report
from bench.report.errors import BenchError
from bench.report.report import Grid, Metric, Report

ABOUT = {"cpu": "some processor", "cores": 2, "load_1min": 0.5}


def a_report(**changes):
    values = {
        "bench": "broker",
        "title": "a title",
        "settings": {"jobs": 10},
        "metrics": [
            Metric("jobs_per_s", "throughput", 21_345.6, "jobs/s", "window 256"),
            Metric("start_p50_ms", "submit to start", 0.3456, "ms"),
            Metric("commits", "commits", None),
        ],
        **changes,
    }
    return Report(**values)


def test_json_maps_names_to_values():
    document = msgspec.json.decode(report.as_json(a_report(repeats=[{"jobs_per_s": 1.0}]), ABOUT, at=0.0))
    assert document["bench"] == "broker"
    assert document["at"] == "1970-01-01T00:00:00Z"
    assert document["results"] == {"jobs_per_s": 21_345.6, "start_p50_ms": 0.3456, "commits": None}
    assert document["settings"] == {"jobs": 10}
    assert document["repeats"] == [{"jobs_per_s": 1.0}]
    assert document["machine"]["cores"] == 2


def test_table_aligns_labels_values_and_notes():
    lines = report.as_table(a_report(warnings=["mind this"]), ABOUT).splitlines()
    assert lines[0] == "a title"
    assert "some processor, 2 cores" in lines[1]
    assert "  throughput       21,346 jobs/s  window 256" in lines
    assert "  submit to start   0.346 ms" in lines
    assert "  commits               -" in lines
    assert lines[-1] == "note: mind this"


def test_a_grid_is_a_block_a_row_and_hides_its_figures():
    grid = Grid(head=["queue", "jobs/s", "start"], rows=[["ours", "9", "1 ms"], ["theirs", "3", "-"]])
    metrics = [Metric("ours_per_s", "hidden figure", 9.0, shown=False), Metric("ratio", "shown figure", 3.0, "x")]
    made = a_report(grid=grid, metrics=metrics)
    text = report.as_table(made, ABOUT)
    assert "ours\n  jobs/s  9\n  start   1 ms\n" in text
    assert "hidden figure" not in text
    assert "shown figure" in text
    assert msgspec.json.decode(report.as_json(made, ABOUT, at=0.0))["results"] == {"ours_per_s": 9.0, "ratio": 3.0}


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(BenchError, match="cannot be written"):
        report.write(str(tmp_path / "none" / "file"), b"")


def test_machine_names_its_versions():
    about = report.machine()
    assert {"cpu", "cores", "python", "libzmq", "sqlite", "load_1min"} <= set(about)
    assert about["cpu"]


def test_plot_is_a_picture_with_one_panel_a_drawing():
    panels = [
        plot.bars("rate", "jobs/s", {"run 1": 3.0, "run 2": 4.0}),
        plot.distribution("waits", "ms", {"wait": [3.0, 1.0, 2.0], "empty": []}, log_x=True),
    ]
    one = Image.open(io.BytesIO(plot.render(a_report(panels=panels[:1]), "somewhere")))
    two = Image.open(io.BytesIO(plot.render(a_report(panels=panels), "somewhere")))
    assert one.format == "PNG"
    assert two.width == 2 * one.width


def test_distribution_ascends_and_drops_empty_series():
    panel = plot.distribution("waits", "s", {"wait": [2.0, 1.0], "empty": []})
    xs, ys = panel.series["wait"]
    assert list(panel.series) == ["wait"]
    assert (xs[0], xs[-1]) == (1.0, 2.0)
    assert (ys[0], ys[-1]) == (0.0, 1.0)
    assert xs == sorted(xs)


def test_plot_without_panels_or_series_is_still_a_picture():
    empty = plot.distribution("waits", "s", {"wait": []})
    for panels in ([], [empty]):
        assert plot.render(a_report(panels=panels), "").startswith(b"\x89PNG")
