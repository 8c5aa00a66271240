"""Waits for what a page shows."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.support.waiting import wait_until


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript; not by `wait_for_function`, whose way of looking the page's policy forbids."""
    wait_until(lambda: page.evaluate(condition), 60, condition)
