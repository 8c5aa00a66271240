"""What holds for every test: a clean environment, hypothesis without a stopwatch, and which tests are run once more when they fail."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; a test that fails for that says nothing. CI draws the same examples each time, developers new ones.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


#: Tests of real processes and sockets over real time: a machine that stands still can fail them, so one that fails is run once more. The
#: summary lists reruns, and each is a fault to be mended, in the test or in what it tests. No other test is run again.
_REAL_TIME = (
    "acceptance",
    "agent/test_procs.py",
    "bench/test_real_broker.py",
    "bench/test_small_runs.py",
    "chaos/test_proxy.py",
    "scripts/test_start_scripts.py",
    "security",
    "sockets",
)


def pytest_configure() -> None:
    """Let the processes that tests start hear SIGINT, where the tests are a shell's background job, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are run once more."""
    real_time = [Path(__file__).parent / place for place in _REAL_TIME]
    for item in items:
        if any(item.path.is_relative_to(place) for place in real_time):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_unconfigure() -> None:
    """End with the code that the tests earned: see `broker.runtime.signals.leave`."""
    gc.freeze()


@pytest.fixture(autouse=True)
def scrub_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith("ZOETROPE_") or name == "PORT":
            monkeypatch.delenv(name)
