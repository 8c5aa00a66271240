"""What holds for every test: a clean environment, loggers as they were, the same examples each time, and which tests are of real time."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

# Machines are shared and slow at times; a test that fails for that says nothing. The examples are the same each time, so that a change is
# judged by what it changes; `--hypothesis-profile explore` draws new ones, and more.
settings.register_profile("same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", parent=settings.get_profile("same"), derandomize=False, max_examples=1000)
settings.load_profile("same")


#: Tests of real processes and sockets over real time: they mostly wait, and a processor that is busy for long can fail them. `make test`
#: runs them apart from all others, which compute.
_REAL_TIME = (
    "acceptance",
    "agent/test_procs.py",
    "bench/test_peers.py",
    "bench/test_real_broker.py",
    "bench/test_small_runs.py",
    "chaos/test_proxy.py",
    "client/test_command.py",
    "client/test_live.py",
    "page",
    "ray",
    "scripts/test_start_scripts.py",
    "security",
    "sockets",
)


#: The longest files, the longest first: they come before all others, so that no processor has one left when the other has no more to do.
_LONG = (
    "sockets/test_supervisor_process.py",
    "sockets/test_process.py",
    "page/test_page.py",
    "engine/families/test_families.py",
    "edge/test_schemathesis.py",
    "simulation/test_simulation.py",
)

#: Of the module `logging`: what `setup_logging` turns off.
_LOGGING_SWITCHES = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a choice between the tests of real time and all others; both, unless it is given."""
    parser.addoption("--real-time", choices=("only", "without"), help="only the tests of real time, or only all others")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that `--real-time` does not ask for, before they are imported."""
    asked = config.getoption("--real-time")
    if asked is None:
        return None
    if asked == "without":
        return _of_real_time(collection_path) or None
    leads_there = any(place.is_relative_to(collection_path) for place in _real_time_places())
    return None if leads_there or _of_real_time(collection_path) else True


def _real_time_places() -> list[Path]:
    return [Path(__file__).parent / place for place in _REAL_TIME]


def _of_real_time(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in _real_time_places())


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes that tests start receive SIGINT, where the tests are a shell's background job, which ignores it.

    Of several test processes, give each a directory with a short name: paths of unix sockets may have 107 characters.

    Keep the constants of imported modules out of the examples, but of new ones: a test would draw others alone than among all.
    """
    if not config.getoption("--hypothesis-profile"):
        providers._get_local_constants = lambda: providers._local_constants
    if hasattr(config, "workerinput"):
        place = Path(config.option.basetemp)
        config.option.basetemp = str(place.with_name(place.name.removeprefix("popen-gw")))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    place = {Path(__file__).parent / file: number for number, file in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_unconfigure() -> None:
    """End with the code that the tests earned: see `broker.runtime.signals.leave`."""
    gc.freeze()


@pytest.fixture(autouse=True)
def scrub_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith("ZOETROPE_") or name == "PORT":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Undo what `broker.runtime.logs.setup_logging` set in a test that ran a program's `main` here: its handler writes to a captured
    stream, which is closed when the test is over, and its level hides records from later tests."""
    root = logging.getLogger()
    handlers, level, module = root.handlers[:], root.level, {name: getattr(logging, name) for name in _LOGGING_SWITCHES}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in module.items():
        setattr(logging, name, value)
