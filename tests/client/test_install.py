"""What the base install holds: the library, and a sentence where the service would be."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Put where Python looks first: what the base install does not bring is not found.
BLOCK = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def found(name, path=None, target=None):
    return None if name.split(".")[0] in {blocked!r} else find(name, path, target)
PathFinder.find_spec = found
"""


def plain(requirement):
    return re.split(r"[ \[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def closure(requirements):
    """Distributions that these bring along, without extras."""
    found, left = set(), [plain(one) for one in requirements if "extra ==" not in one]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            more = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        left += [plain(one) for one in more if "extra ==" not in one]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this source, without the demo model's weights."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("broker", "workers", "http_edge", "bench", "zoetrope"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "demo_model"))
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(built)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=240)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs Python where only the base install is to be found."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        metadata = archive.read(
            next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        ).decode()
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    kept = closure(required)
    blocked = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not {name.lower().replace("_", "-") for name in names} & (kept | {"zoetrope"})
    }
    assert {"torch", "zmq", "starlette", "honcho", "PIL", "numpy", "psutil"} <= blocked
    (site / "sitecustomize.py").write_text(BLOCK.format(blocked=blocked))

    def start(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=site,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return start


def test_the_library_needs_nothing_of_the_service(run):
    done = run("-c", "import zoetrope; zoetrope.Client().close(); print(zoetrope.__file__)")
    assert done.returncode == 0, done.stderr
    assert "site" in done.stdout


@pytest.mark.parametrize("program", ["broker", "workers", "http_edge", "bench"])
def test_a_program_of_the_service_says_what_to_install(run, program):
    done = run("-m", program)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"{program}: \w+ is not installed: install .* pip install 'zoetrope\[serve\]' .*\n", done.stderr
    )


def test_the_command_is_there_and_says_what_serving_needs(run):
    assert "generate" in run("-m", "zoetrope", "--help").stdout
    asked = run("-m", "zoetrope", "ps", "--url", "http://127.0.0.1:9")
    assert (asked.returncode, len(asked.stderr.splitlines())) == (3, 1)
    served = run("-m", "zoetrope", "serve")
    assert served.returncode == 2
    assert re.fullmatch(r"zoetrope serve: \w+ is not installed: install .*\n", served.stderr)


def test_doctor_says_what_is_not_installed(run):
    done = run("-m", "zoetrope", "doctor")
    assert done.returncode == 1, done.stderr
    assert "fail packages not installed: zmq, starlette" in " ".join(done.stdout.split())
