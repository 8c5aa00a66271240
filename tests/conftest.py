"""What holds for every test: a clean environment, and hypothesis without a stopwatch."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; a test that fails for that says nothing. CI draws the same examples each time, developers new ones.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_unconfigure() -> None:
    """End with the code that the tests earned: see `broker.wire.stopping.leave`."""
    gc.freeze()


@pytest.fixture(autouse=True)
def scrub_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith("ZOETROPE_") or name == "PORT":
            monkeypatch.delenv(name)
