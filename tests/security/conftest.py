"""Keys made as an operator makes them, and brokers that listen on tcp with them."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.harness.process import free_port
from broker.keys_cli import main as keys


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Processes that are started meanwhile may open few files unless they ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class KeyDesk:
    """One `curve_dir`, changed by the command alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *argv: str) -> int:
        return keys([*argv, "--curve-dir", str(self.directory)], {})

    def add(self, name: str, role: str) -> Path:
        """A new peer; returns the file that goes to its machine."""
        assert self("add", name, "--role", role) == 0
        return self.directory / "issued" / f"{name}.key"


@pytest.fixture
def harness(tmp_path: Path) -> KeyDesk:
    made = KeyDesk(tmp_path / "curve")
    assert made("init") == 0
    return made


@pytest.fixture
def short_dir() -> Iterator[str]:
    """A private directory with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="zs-") as path:
        yield path


@pytest.fixture
def ports() -> Callable[[], int]:
    return free_port
