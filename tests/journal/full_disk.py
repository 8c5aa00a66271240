"""A disk that is full for a journal, and jobs that fill it."""

from __future__ import annotations

from broker.shell.journal.journal import Journal
from tests.journal.jobs import new_job


class Reserve:
    """Stands for a disk: the journal may grow to so many pages, and `release` adds some."""

    def __init__(self, more_pages: int) -> None:
        self.more_pages = more_pages
        self.released = 0
        self.journal: Journal | None = None

    def fill(self, journal: Journal) -> None:
        """From now on there is no free page."""
        self.journal = journal
        self._limit(journal.store.connection.execute("PRAGMA page_count").fetchone()[0])

    def _limit(self, pages: int) -> None:
        assert self.journal is not None
        self.journal.store.connection.execute(f"PRAGMA max_page_count = {pages}")

    def release(self) -> bool:
        self.released += 1
        if self.released > 1 or self.journal is None:
            return False
        self._limit(self.journal.store.connection.execute("PRAGMA page_count").fetchone()[0] + self.more_pages)
        return True


def large(n: int):
    return new_job(f"large-{n}", body=bytes(20_000))
