"""Look at the web page of a running service in Chromium, and measure it.

Reads a JSON object from stdin (`bench.suites.webpage.Order`), and prints what was seen as JSON (`Seen`). `python -m bench page` starts the
service, keeps its queue busy and prints the report.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import msgspec
from playwright.sync_api import Browser, CDPSession, Page, Request, sync_playwright

from bench.suites.webpage import Frames, Kept, Order, Seen

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_VIEWS = ("create", "gallery", "workers")
#: Requests of the start are over by then.
_SETTLE_MS = 2_500
#: What a view builds at its first turns is no growth.
_WARM_S = 8.0

#: Pixels a frame while it scrolls: a quick hand.
_FRAMES = """([seconds, scrolling]) => new Promise((done) => {
  const deltas = [], tasks = [];
  const watch = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)));
  watch.observe({ type: 'longtask' });
  let begun = 0, last = 0, down = 1, most = 0;
  const turn = (at) => {
    begun ||= at;
    if (last) deltas.push(at - last);
    last = at;
    most = Math.max(most, document.getElementsByTagName('*').length);
    if (at - begun > 1000 * seconds) {
      watch.disconnect();
      done({ deltas, tasks, most, took: (at - begun) / 1000 });
      return;
    }
    if (scrolling) {
      const bottom = document.documentElement.scrollHeight - innerHeight;
      if (scrollY >= bottom - 2) down = -1;
      else if (scrollY <= 2) down = 1;
      scrollBy(0, 28 * down);
    }
    requestAnimationFrame(turn);
  };
  requestAnimationFrame(turn);
})"""


def load(browser: Browser, url: str) -> tuple[float, float, int, int]:
    """(first paint, usable: ms; bytes sent, unpacked) of one load with nothing kept."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    page = context.new_page()
    page.goto(f"{url}/#/create")
    page.locator(".settings select").first.wait_for()
    usable = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()")
    sizes = page.evaluate(
        """() => [performance.getEntriesByType('navigation')[0], ...performance.getEntriesByType('resource')]
          .filter((one) => one.entryType === 'navigation' || one.name.includes('/page/'))
          .reduce(([sent, whole], one) => [sent + one.transferSize, whole + one.decodedBodySize], [0, 0])"""
    )
    context.close()
    return paint, usable, sizes[0], sizes[1]


def count_requests(browser: Browser, url: str, view: str, seconds: float) -> float:
    """Requests a minute of a view at rest."""
    page = browser.new_page()
    page.goto(f"{url}/#/{view}")
    page.wait_for_timeout(_SETTLE_MS)
    seen: list[str] = []

    def count(request: Request) -> None:
        seen.append(request.url)

    page.on("request", count)
    page.wait_for_timeout(1000 * seconds)
    page.remove_listener("request", count)
    page.close()
    return 60 * len(seen) / seconds


def figures(session: CDPSession) -> dict[str, float]:
    """Chromium's own counters of the page."""
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def frames(page: Page, session: CDPSession, seconds: float, scrolling: bool) -> tuple[Frames, int]:
    """Frames of some seconds, and the most elements at once."""
    before = figures(session)
    found: dict[str, Any] = page.evaluate(_FRAMES, [seconds, scrolling])
    after = figures(session)
    deltas = sorted(found["deltas"])
    took = found["took"]
    return (
        Frames(
            per_s=len(deltas) / took,
            p95_ms=deltas[int(0.95 * (len(deltas) - 1))],
            long_tasks=len(found["tasks"]),
            longest_task_ms=max(found["tasks"], default=0.0),
            own_share=(after["TaskDuration"] - before["TaskDuration"]) / (after["Timestamp"] - before["Timestamp"]),
            layouts_per_s=(after["LayoutCount"] - before["LayoutCount"]) / took,
        ),
        found["most"],
    )


def kept(session: CDPSession) -> Kept:
    """What is held after a collection."""
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    found = figures(session)
    return Kept(
        heap_mb=found["JSHeapUsedSize"] / 2**20, nodes=int(found["Nodes"]), listeners=int(found["JSEventListeners"])
    )


def idle(browser: Browser, order: Order) -> Seen:
    """The page of a service at which nothing happens."""
    loads = [load(browser, order.url) for _ in range(order.loads)]
    return Seen(
        sent=loads[0][2],
        bytes=loads[0][3],
        paints_ms=[one[0] for one in loads],
        usable_ms=[one[1] for one in loads],
        requests={view: count_requests(browser, order.url, view, order.idle_s) for view in _VIEWS},
    )


def busy(browser: Browser, order: Order) -> Seen:
    """The page of a service whose queue moves."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(f"{order.url}/#/gallery")
    page.locator(".cell img").first.wait_for()
    page.wait_for_timeout(_SETTLE_MS)
    still, at_rest = frames(page, session, order.frames_s, False)
    scrolling, moving = frames(page, session, order.frames_s, True)
    # All views, as of a tab that is left open; each half of the time, the one that changes most longest.
    page.goto(f"{order.url}/#/create")
    page.locator(".rows li").first.wait_for()
    tour(page, _WARM_S)
    before = kept(session)
    tour(page, order.watch_s)
    after = kept(session)
    context.close()
    return Seen(still=still, scrolling=scrolling, elements=max(at_rest, moving), before=before, after=after)


def tour(page: Page, seconds: float) -> None:
    """Be at each view for a while, and end where it began."""
    for view, share in (("workers", 0.3), ("gallery", 0.2), ("create", 0.5)):
        page.evaluate("(view) => (location.hash = `#/${view}`)", view)
        page.wait_for_timeout(1000 * seconds * share)


def main() -> int:
    """Measure what the JSON on stdin describes."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        print(f"no browser here ({', '.join(_BROWSERS)}): apt-get install chromium", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        # Its sandbox needs rights that root in a container has not.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        seen = busy(browser, order) if order.busy else idle(browser, order)
        browser.close()
    sys.stdout.buffer.write(msgspec.json.encode(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
