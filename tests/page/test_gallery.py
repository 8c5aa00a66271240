"""The gallery of the web page: searched, paged, played, pinned and deleted."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.waiting import until
from tests.testing.service import Service


@pytest.fixture(scope="module")
def many(service: Service) -> list[str]:
    """Enough pictures for several pages and many rows."""
    ids = [service.post(prompt=f"picture number {number}", output="image")["id"] for number in range(130)]
    for job_id in ids:
        service.finished(job_id)
    return ids


def test_the_gallery_is_searched_and_paged_and_holds_what_is_seen(
    open_page: Callable[..., Page], service: Service, many: list[str]
) -> None:
    page = open_page("#/gallery")
    expect(page.locator(".cell").first).to_be_visible()
    count = page.locator("main [role=status]").first
    seen = set()
    for _ in range(40):
        # Not by the wheel: a browser that is behind moves by several turns at once, past tiles that nobody has then seen.
        page.evaluate("scrollBy({ top: 700, behavior: 'instant' })")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        until(page, "!document.querySelector('main [role=status]').textContent.includes('Looking')")
        cells = page.locator(".cell").evaluate_all("cells => cells.map((cell) => cell.dataset.job)")
        assert len(cells) < 90
        seen.update(cells)
        if seen >= set(many):
            break
    assert seen >= set(many)
    # Some leave the document and come back; the keyboard still goes through them as they are seen.
    places = "[...document.querySelectorAll('.cell')].map((cell) => Number(cell.getAttribute('aria-posinset')))"
    for top, condition in ((1500, "> 1"), (700, "=== 1")):
        page.evaluate(f"scrollTo({{ top: {top} }})")
        until(page, f"Math.min(...{places}) {condition}")
    shown = page.evaluate(places)
    assert shown == sorted(shown)
    page.get_by_role("searchbox").fill("NUMBER 12")
    expect(count).to_have_text("11 shown")
    page.get_by_role("searchbox").fill("of no prompt")
    expect(page.locator(".empty")).to_contain_text("Nothing matches")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(".cell").first).to_be_visible()


def test_a_clip_plays_under_the_pointer_and_with_the_focus(open_page: Callable[..., Page], service: Service) -> None:
    job = service.finished(service.post(prompt="to be pointed at")["id"])["id"]
    page = open_page("#/gallery")
    cell = page.locator(f'.cell[data-job="{job}"]')
    expect(cell.locator("img")).to_be_visible()
    expect(page.locator(".cell video")).to_have_count(0)
    cell.hover()
    expect(cell.locator("video")).to_be_visible()
    until(page, f"document.querySelector('.cell[data-job=\"{job}\"] video')?.currentTime > 0")
    assert page.locator(".cell video").count() == 1
    page.mouse.move(2, 2)
    expect(page.locator(".cell video")).to_have_count(0)
    cell.locator("button").focus()
    until(page, f"document.querySelector('.cell[data-job=\"{job}\"] video')?.currentTime > 0")
    page.locator("#gallery-search").focus()
    expect(page.locator(".cell video")).to_have_count(0)


def test_a_search_says_how_far_it_went_and_goes_on_when_asked(open_page: Callable[..., Page], service: Service) -> None:
    job = service.finished(service.post(prompt="of long ago", output="image")["id"])
    asked: list[str] = []

    def history(route: Route) -> None:
        """Seven pages in which nothing is found; then a job."""
        after = parse_qs(urlsplit(route.request.url).query).get("after", [""])[0]
        asked.append(after)
        at = len(asked)
        short = {"data": [], "has_more": True, "last_id": f"~{at}", "searched_to": 1_767_225_600 - 86_400 * at}
        whole = {"data": [job], "has_more": False, "last_id": job["id"], "searched_to": None}
        route.fulfill(json={"object": "list", "first_id": None, **(short if at < 8 else whole)})

    page = open_page("#/gallery")
    expect(page.locator(".cell").first).to_be_visible()
    page.route(re.compile(r"/v1/jobs\?.*prompt=long"), history)
    page.get_by_role("searchbox").fill("long")
    expect(page.get_by_role("button", name="Search further back")).to_be_visible()
    expect(page.locator(".further [role=status]")).to_contain_text("searched back to Dec 27, 2025")
    assert asked == ["", "~1", "~2", "~3", "~4"]
    expect(page.locator(".empty")).to_be_hidden()
    page.get_by_role("button", name="Search further back").click()
    expect(page.locator(".cell")).to_have_count(1)
    expect(page.locator(".further")).to_be_hidden()
    assert asked[5:8] == ["~5", "~6", "~7"]


def test_one_is_pinned_and_deleted(open_page: Callable[..., Page], service: Service) -> None:
    job = service.finished(service.post(prompt="to be kept, then not", output="image")["id"])["id"]
    page = open_page(f"#/job/{job}")
    sheet = page.locator("dialog.sheet")
    sheet.get_by_role("button", name="Pin", exact=True).click()
    expect(sheet.get_by_role("button", name="Unpin")).to_be_visible()
    assert service.http.get(f"/v1/jobs/{job}/pin").json()["pinned"]
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Pinned").click()
    expect(page.locator(".cell")).to_have_count(1)
    page.locator(".cell button").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.locator(".cell")).to_have_count(0)
    assert service.http.get(f"/v1/jobs/{job}").status_code == 404
