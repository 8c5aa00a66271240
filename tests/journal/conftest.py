"""Journals that are closed when their test is over."""

from __future__ import annotations

import pytest

from broker.shell.journal.sqlite_store import sqlite_journal


@pytest.fixture
def open_journal(tmp_path):
    """Opens `jobs.sqlite` in the test's directory; call it again after `close` for a restart."""
    opened = []

    def open_one(**options):
        journal = sqlite_journal(tmp_path / "jobs.sqlite", **options)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal):
    return open_journal()
