"""Take the pictures of the web page in docs/images: a service with the demo model, some jobs, and Chromium. `make screenshots`."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.testing.service import Service  # noqa: E402  the repository's root must be on the path first

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 200_000

_COLOURS = ("red", "blue", "green", "yellow", "white")
_SHAPES = ("circle", "square", "triangle")
_WAYS = ("moving right", "moving up", "growing")

#: Long enough to be seen while it is drawn.
_SLOW = {"num_inference_steps": 160, "num_frames": 17, "width": 96, "height": 96, "previews": 8}


def prompts() -> list[str]:
    """What the demo model was trained on."""
    return [
        f"a {colour} {shape} {way} on a black background" for way in _WAYS for shape in _SHAPES for colour in _COLOURS
    ]


@contextmanager
def running() -> Iterator[Service]:
    """A service with something in its gallery."""
    home = Path(tempfile.mkdtemp(prefix="zt-"))
    service = Service(home, gpus="cpu:2", model=str(ROOT / "workers" / "demo_model"))
    service.start()
    try:
        service.ready(2)
        ids = [service.post(prompt=prompt, seed=number)["id"] for number, prompt in enumerate(prompts()[:24])]
        for job_id in ids:
            service.finished(job_id)
        yield service
    finally:
        service.close()
        shutil.rmtree(home, ignore_errors=True)


def save(page: Page, name: str) -> None:
    """Take a picture of what is seen. Raises `ValueError` for one that is too large."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        path = IMAGES / f"{name}.webp"
        shot.convert("RGB").save(path, "WEBP", quality=82, method=6)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
    print(path.relative_to(ROOT), path.stat().st_size)


def while_drawn(page: Page) -> None:
    """Wait until a preview is seen."""
    page.locator("img.preview").wait_for()
    page.wait_for_timeout(1500)


def shots(service: Service, browser: Any) -> None:
    """Take all pictures."""
    address = f"http://127.0.0.1:{service.port}/"

    def page_at(at: str, **options: Any) -> Page:
        page: Page = browser.new_context(
            **{"viewport": {"width": 1360, "height": 860}, "locale": "en-US", **options}
        ).new_page()
        page.goto(address + at)
        return page

    for number in range(3):
        service.post(prompt=f"a {_COLOURS[number]} {_SHAPES[number]} growing on a white background", **_SLOW)
    page = page_at("#/create")
    page.locator("#prompt").fill("a red circle growing on a white background")
    while_drawn(page)
    save(page, "page-create")
    page.goto(address + "#/workers")
    page.locator(".chart").first.wait_for()
    save(page, "page-workers")
    dark = page_at("#/gallery", color_scheme="dark")
    dark.locator(".cell img").nth(8).wait_for()
    dark.wait_for_timeout(2000)
    save(dark, "page-gallery-dark")
    chinese = page_at("#/gallery", locale="zh-CN")
    chinese.locator(".card").first.click()
    chinese.locator(".sheet video").wait_for()
    chinese.wait_for_timeout(1500)
    save(chinese, "page-result-zh")
    phone = page_at(
        "#/gallery", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2
    )
    phone.locator(".cell img").nth(3).wait_for()
    phone.wait_for_timeout(1500)
    save(phone, "page-phone")


def main() -> int:
    """Write the pictures."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium here: apt-get install chromium", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with running() as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shots(service, browser)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
