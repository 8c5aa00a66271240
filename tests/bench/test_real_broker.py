"""The broker bench against a real broker process, small."""

import msgspec

from bench import cli


def test_it_measures_a_real_broker_and_leaves_nothing_behind(tmp_path, capsys):
    home, json_file, plot_file = tmp_path / "home", tmp_path / "out.json", tmp_path / "out.png"
    home.mkdir()
    small = [
        "--jobs",
        "50",
        "--latency-jobs",
        "10",
        "--repeats",
        "1",
        "--window",
        "8",
        "--workers",
        "2",
        "--credit",
        "2",
        "--sweep-jobs",
        "8",
        "--ceiling-s",
        "0.1",
    ]
    files = ["--directory", str(home), "--json", str(json_file), "--plot", str(plot_file)]
    assert cli.main(["broker", *small, *files, "--watch"]) == 0
    results = msgspec.json.decode(json_file.read_bytes())["results"]
    assert results["jobs_per_s"] > 0
    assert results["cpu_us_per_job"] > 0
    assert 0 < results["submit_accepted_p50_ms"] <= results["submit_result_p50_ms"]
    assert 0 < results["submit_start_p50_ms"] <= results["submit_result_p50_ms"]
    # Submit, Accepted, Run, Finished, ResultAck, and the watcher's events.
    assert results["messages_per_job"] > 5
    assert results["window_1_workers_2_per_s"] > 0
    assert results["window_8_workers_64_per_s"] > 0
    assert results["router_per_s"] > 0
    assert results["proxy_per_s"] > 0
    assert plot_file.read_bytes().startswith(b"\x89PNG")
    assert "throughput" in capsys.readouterr().out
    assert list(home.iterdir()) == []


def test_a_directory_that_is_not_there_is_one_sentence(capsys):
    assert cli.main(["broker", "--directory", "/nonexistent"]) == 1
    printed = capsys.readouterr()
    said = "bench: --directory: '/nonexistent' cannot hold a temporary home: No such file or directory"
    assert printed.err.splitlines()[-1] == said


def test_a_broker_that_does_not_start_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.harness.process.sys.executable", "/bin/false")
    assert cli.main(["broker", "--directory", str(tmp_path), "--repeats", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "bench: the broker ended with status 1: it logged nothing"
    assert list(tmp_path.iterdir()) == []
