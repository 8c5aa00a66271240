"""A real service with the engine fake, and a real browser. One service and one browser for all tests; a page for each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.testing.service import Service

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    pytest.skip("playwright is not installed: pip install -e '.[dev]'", allow_module_level=True)

#: A shared machine can stand still for a while.
DEADLINE_MS = 60_000

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium of the system. Not for longer than these tests: its event loop runs in the thread of all."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here ({', '.join(_NAMES)}): apt-get install chromium")
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        # Its sandbox needs rights that root in a container has not.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """Broker, two workers, edge. Tests leave no job alive in it, and no process of it killed."""
    home = Path(tempfile.mkdtemp(prefix="zt-"))
    service = Service(home)
    service.start()
    try:
        service.ready(2)
        yield service
    finally:
        service.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Callable[..., Page]]:
    """Opens a page of the service. At the end of the test: no error in any console, and no request went to another host."""
    errors: list[str] = []
    hosts: set[str] = set()
    contexts = []

    def open_one(at: str = "", port: int = 0, **options: object) -> Page:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # What the network says of a refused or broken request is no error of the page's.
        page.on(
            "console",
            lambda said: (
                errors.append(said.text)
                if said.type in ("error", "warning") and "Failed to load resource" not in said.text
                else None
            ),
        )
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        origin = f"127.0.0.1:{port or service.port}"
        page.goto(f"http://{origin}/{at}")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []
    # "": of data: and blob:, which are no requests.
    assert {host.partition(":")[0] for host in hosts} <= {"127.0.0.1", ""}


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()
