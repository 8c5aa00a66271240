import pytest

from bench import cli
from bench.commands import COMMANDS


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["broker", "--workers", "0"], "bench: --workers: 0 must be 1 to 1000"),
        (["broker", "--window", "5000"], "bench: --window: 5000 must be 1 to 4096"),
        (["load", "--rate", "0", "--jobs", "1"], "bench: --rate: 0 must be above 0 and at most 100,000"),
        (["load", "--rate", "1", "--jobs", "0"], "bench: --jobs: 0 must be 1 to 1,000,000"),
        (["load", "--rate", "1", "--jobs", "1", "--url", "localhost"], "bench: --url: 'localhost' must begin with"),
        (["load", "--rate", "1", "--jobs", "1", "--size", "big"], "bench: --size: 'big' must be"),
        (["load", "--rate", "1", "--jobs", "1", "--steps", "x"], "bench: --steps: 'x' must be"),
        (["load", "--rate", "1", "--jobs", "1", "--timeout", "0"], "bench: --timeout: 0 must be above 0"),
        (["load", "--trace", "/nonexistent"], "bench: --trace: '/nonexistent' cannot be read"),
        (["load", "--trace", "x", "--jobs", "1"], "bench: --trace: it says when"),
        (["load", "--rate", "1"], "bench: --rate and --jobs, or --trace"),
        (["load", "--rate", "1", "--jobs", "1", "--kill-every", "1"], "bench: --kill-every: it must be 0 or more"),
        (["load", "--rate", "1", "--jobs", "1", "--slo", "-1"], "bench: --slo: -1 must be 0 or more"),
        (["cancel", "--samples", "0"], "bench: --samples: 0 must be 1 to 1000"),
        (["pool", "--load", "1.5"], "bench: --load: 1.5 must be 0.05 to 0.98"),
        (["engine", "--random", "wan-1.3b"], "bench: --random: 'wan-1.3b' is for GPUs"),
        (["peers", "--only", "kafka"], "bench: --only: 'kafka' is not one of"),
        (["peers", "--parts", "a,z"], "bench: --parts: 'z' is not one of"),
        (["peers", "--patience", "0"], "bench: --patience: 0"),
        (["all", "--only", "nothing"], "bench: --only: 'nothing' is not one of"),
        (["all", "--out", "/nonexistent/page.md"], "bench: --out: '/nonexistent/page.md' cannot be written"),
        (["broker", "--json", "/nonexistent/file"], "bench: '/nonexistent/file' cannot be written"),
        (["broker", "--plot", "/"], "bench: '/' cannot be written"),
    ],
)
def test_nonsense_is_one_sentence_and_status_2(argv, sentence, capsys):
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(sentence)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["load", "--rate"], ["broker", "--workers", "many"], ["broker", "--work", "1"]]
)
def test_bad_usage_ends_with_2(argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2


def test_no_service_is_one_sentence_and_status_1(capsys):
    # Port 9 is the discard service's, which nobody runs.
    assert cli.main(["load", "--rate", "1", "--jobs", "1", "--url", "http://127.0.0.1:9"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("bench: no service answers at http://127.0.0.1:9")
    assert printed.err.count("\n") == 1


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            cli.main([command.name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert "--json" in shown
        assert f"python -m bench {command.name}" in shown
