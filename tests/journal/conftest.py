"""Journals that are closed when their test is over, and every archive that there is."""

from __future__ import annotations

import pytest

from broker.shell.journal import queries
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.testing import MemoryArchive

#: Rows of one answer of the journal, and rows looked at for it, which must not show in what a client gets.
BOUNDS = {"journal": (200, 2000), "journal, few rows": (3, 5), "journal, one row": (1, 1)}


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


@pytest.fixture(params=["memory", *BOUNDS])
def archive(request, monkeypatch):
    """Each in turn: in memory, and the journal with these bounds."""
    if request.param == "memory":
        return MemoryArchive()
    most, looked = BOUNDS[request.param]
    monkeypatch.setattr(queries, "MAX_ROWS", most)
    monkeypatch.setattr(queries, "MAX_LOOKED", looked)
    journal = request.getfixturevalue("journal")
    if request.param != "journal, few rows":
        journal.live()  # as a broker does at its start: live jobs are found by number then
    return journal
