"""Services of real processes, stopped and checked for leftovers after each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testing.service import Service


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A short path: those of unix sockets may have 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="zt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start_service(short_dir: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(workers: int = 2, **kwargs: Any) -> Service:
        service = Service(short_dir, **kwargs)
        services.append(service)
        service.start()
        service.ready(workers)
        return service

    yield start
    for service in services:
        service.close()
