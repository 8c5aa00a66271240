import os
import shutil
import subprocess

import pytest
from honcho.environ import parse_procfile

from tests.scripts.support import ROOT, clean_environ


def make(directory, *arguments, **environ):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=directory,
        env=clean_environ(**environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def checkout(tmp_path):
    """A repository with an installed environment whose interpreter prints what it is told."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nenv | grep ^ZOETROPE_ | sort\n')
    python.chmod(0o755)
    demo = tmp_path / "workers/demo_model/model_index.json"
    demo.parent.mkdir(parents=True)
    demo.touch()
    for stamp in (".installed", ".installed-dev"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def test_procfile_starts_the_three_processes_and_nothing_else():
    processes = parse_procfile((ROOT / "Procfile").read_text()).processes
    assert (ROOT / "Procfile").read_text().count("\n") == 3
    assert list(processes) == ["broker", "workers", "edge"]
    # exec: without it a shell would stand between the signal and the process.
    assert [command.split() for command in processes.values()] == [
        ["exec", "python", "-m", module] for module in ("broker", "workers", "http_edge")
    ]


def test_make_run_passes_its_variables_on(checkout):
    done = make(checkout, "run", "PORT=9000", "GPUS=cpu:2", "MODEL=/models/wan")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "-m zoetrope serve",
        "ZOETROPE_GPUS=cpu:2",
        "ZOETROPE_MODEL=/models/wan",
        "ZOETROPE_PORT=9000",
    ]


def test_make_run_leaves_what_was_not_said_to_the_settings(checkout):
    done = make(checkout, "run", ZOETROPE_PORT="9001")
    # An empty variable counts as none.
    assert done.stdout.splitlines()[1:] == ["ZOETROPE_GPUS=", "ZOETROPE_MODEL=", "ZOETROPE_PORT=9001"]


def test_make_run_misses_the_demo_model(checkout):
    (checkout / "workers/demo_model/model_index.json").unlink()
    done = make(checkout, "run")
    assert done.returncode != 0
    assert "workers/demo_model/model_index.json is missing" in done.stderr


def test_an_installed_environment_is_not_installed_again(checkout):
    assert "pip" not in make(checkout, "run").stdout


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again(checkout, changed):
    later = (checkout / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout / changed, (later, later))
    done = make(checkout, "setup")
    assert "-m pip install --disable-pip-version-check --constraint constraints.txt --editable .[serve]" in done.stdout


def test_an_install_that_fails_says_so_last(checkout):
    python = checkout / ".venv/bin/python"
    python.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    (checkout / ".venv/.installed").unlink()
    done = make(checkout, "run", PYTHON="/bin/true")
    assert done.returncode != 0
    assert done.stdout.splitlines() == ["installing what the service needs into .venv"]
    assert done.stderr.splitlines()[0] == "no space left"
    assert "the install failed: the lines above say why; the same command goes on from here" in done.stderr
    assert not (checkout / ".venv/.installed").exists()


def test_an_old_interpreter_is_refused_in_one_sentence(checkout):
    (checkout / ".venv/.installed").unlink()
    done = make(checkout, "run", "PYTHON=/bin/false")
    assert done.returncode != 0
    assert 'Zoetrope needs Python 3.11 or newer and "/bin/false" is not' in done.stderr
    assert "Traceback" not in done.stderr


def test_make_alone_names_the_targets(checkout):
    shown = make(checkout).stdout
    for target in ("run", "test", "lint", "bench", "clean"):
        assert f"make {target} " in shown


def test_clean_keeps_jobs_and_videos(checkout):
    kept = checkout / ".zoetrope/jobs.sqlite"
    kept.parent.mkdir()
    kept.touch()
    assert make(checkout, "clean").returncode == 0
    assert kept.exists()
    assert not (checkout / ".venv").exists()


def test_torch_is_pinned_exactly():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_ci_runs_what_a_developer_types():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-3:] == ["make lint", "make test", "make chaos"]
