"""The page for everybody: screen readers, keyboard, contrast, a phone's width, and two languages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.testing.service import Service

VIEWS = ("create", "gallery", "workers")

#: What a checker of accessibility would find: a list of sentences.
CHECK = """() => {
  const found = [];
  const seen = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !node.closest('.unseen, .skip');
  const label = (node) => `${node.tagName.toLowerCase()}.${node.className} ${(node.textContent || '').slice(0, 40)}`;
  const name = (node) =>
    node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') || node.getAttribute('title') ||
    [...(node.labels || [])].map((one) => one.textContent).join('') || node.textContent.trim();
  const named = 'button, a[href], input, select, textarea, summary, [role=button], dialog, nav, [role=progressbar]';
  for (const node of document.querySelectorAll(named))
    if (seen(node) && !name(node).trim()) found.push(`no name: ${label(node)}`);
  for (const node of document.querySelectorAll('img')) if (!node.hasAttribute('alt')) found.push(`no alt: ${label(node)}`);
  for (const node of document.querySelectorAll('svg:not([aria-hidden], [aria-label])')) found.push('svg without a name');
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id twice: ${id}`);
  if (!document.documentElement.lang) found.push('no language');
  if (document.querySelectorAll('main').length !== 1) found.push('not one main');
  if (document.querySelectorAll('h1').length !== 1) found.push('not one h1');
  for (const node of document.querySelectorAll('[tabindex]')) if (node.tabIndex > 0) found.push(`order of focus: ${label(node)}`);

  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return rgba(getComputedStyle(document.documentElement).backgroundColor);
  };
  for (const node of document.querySelectorAll('body *')) {
    if (!seen(node) || node.closest('[disabled]') || ![...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim())) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)}: ${label(node)}`);
  }
  return found;
}"""


#: Elements that reach beyond a phone's width.
WIDE = """() => [...document.querySelectorAll('body *')]
  .filter((node) => node.getBoundingClientRect().right > 391 && !node.closest('.unseen, .skip'))
  .map((node) => `${node.tagName} ${node.className}`)"""


@pytest.fixture(scope="module")
def one(service: Service) -> str:
    """A finished job, so that no view is empty."""
    return service.finished(service.post(prompt="a red circle moving right")["id"])["id"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(open_page: Callable[..., Page], one: str, colours: str) -> None:
    page = open_page(color_scheme=colours)
    for view in VIEWS:
        page.goto(page.url.partition("#")[0] + f"#/{view}")
        page.locator(
            {"create": ".settings select", "gallery": ".cell img", "workers": ".worker"}[view]
        ).first.wait_for()
        for more in page.locator("details").all():
            more.evaluate("(node) => (node.open = true)")
        assert page.evaluate(CHECK) == [], view
    page.goto(page.url.partition("#")[0] + f"#/job/{one}")
    page.locator("dialog.sheet video").wait_for()
    assert page.evaluate(CHECK) == []


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_phone_needs_no_scrolling_sideways(open_page: Callable[..., Page], one: str, language: str) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, locale=language)
    for at in (*VIEWS, f"job/{one}"):
        page.goto(page.url.partition("#")[0] + f"#/{at}")
        page.locator("dialog.sheet dl" if "/" in at else "main h1").first.wait_for(state="attached")
        page.locator("details").evaluate_all("(all) => all.forEach((one) => (one.open = true))")
        assert (page.evaluate("document.documentElement.scrollWidth"), page.evaluate(WIDE)) == (390, []), at


def test_the_keyboard_reaches_everything(page: Page, one: str) -> None:
    page.locator(".settings select").first.wait_for()
    page.locator("#prompt").press("Escape")
    page.evaluate("document.activeElement.blur()")
    for key, title in (("g", "Gallery"), ("w", "Workers"), ("n", "Create")):
        page.keyboard.press(key)
        expect(page).to_have_title(f"{title} · Zoetrope")
        page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keys")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        # Of a date the browser marks the part of it.
        assert page.evaluate(
            "document.activeElement.type === 'date' || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        )
        if "bare card" in reached:
            break
    assert {"gallery-model", "gallery-state", "gallery-since", "bare card"} <= reached
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog.sheet")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.sheet")).to_have_count(0)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until what matches has the focus, which is seen at each place."""
    for _ in range(120):
        page.keyboard.press("Tab")
        # Of a date the browser marks the part of it.
        assert page.evaluate(
            """() => ['date', 'file'].includes(document.activeElement.type) || document.activeElement === document.body ||
              getComputedStyle(document.activeElement).outlineStyle !== 'none'"""
        ), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_the_keyboard_alone_draws_opens_and_deletes(page: Page, one: str, service: Service) -> None:
    page.locator(".settings select").first.wait_for()
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("drawn without a mouse")
    page.keyboard.press("Enter")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    job = page.locator(".stage").get_attribute("data-job")
    tab_to(page, ".primary")
    page.keyboard.press("g")
    expect(page.locator(f'.cell[data-job="{job}"]')).to_be_visible()
    tab_to(page, f'.cell[data-job="{job}"] button')
    page.keyboard.press("Enter")
    page.locator("dialog.sheet video").wait_for()
    tab_to(page, "dialog.sheet [data-act=delete]")
    page.keyboard.press("Enter")
    tab_to(page, "dialog.small .primary")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(f'.cell[data-job="{job}"]')).to_have_count(0)
    # From there it goes on.
    expect(page.locator(".cell button").first).to_be_focused()
    assert service.http.get(f"/v1/jobs/{job}").status_code == 404


def test_language_and_colours_are_chosen_and_kept(page: Page) -> None:
    page.get_by_role("button", name="中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    expect(page.get_by_role("button", name="生成", exact=True)).to_be_visible()
    page.get_by_role("button", name="浅色").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page).to_have_title("创作 · Zoetrope")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
