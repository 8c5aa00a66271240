"""Identity of the journal, the number of its starts, and the check that nothing of it is missing: its table `meta`, and the mark beside it.

The epoch is raised, on disk, with every start; fences and revisions are numbered within it, so one that fell would give some of them again.
It is kept twice in the file and once in the mark.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from broker.runtime.errors import JournalBroken, JournalShort
from broker.runtime.log_actions import Action
from broker.shell.journal import rows, statements
from broker.shell.journal.mark import Facts, Mark

logger = logging.getLogger(__name__)

#: More starts than any journal has.
_MOST_EPOCHS = 2**31 - 2

#: A start reads so many rows in 20 ms.
_FIRST_LIVE_STEP = 10_000


class Epochs:
    """The store decides when to write. Raises `JournalBroken` when the mark cannot be written."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        try:
            self._mark = Mark(path)
        except OSError as error:
            connection.close()
            raise JournalBroken(f"the journal's mark {path}-mark cannot be opened: {error.strerror}") from None
        #: As in `Facts`.
        self._identity = self._epoch = self._n = self._revision = self._deletions = 0
        #: No job with a lower number is live: at start those are not looked at.
        self.first_live = 0
        #: `_deletions` once the open transaction is committed.
        self._deletions_then = 0

    def close(self) -> None:
        self._mark.close()

    def begin(self, accept_loss: bool, guarded: Callable[[Callable[[], None]], None]) -> int:
        """Compare with the mark and raise the epoch; `guarded` runs a write. Raises `JournalShort` unless that is accepted."""
        kept = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        epoch = self._last(kept)
        identity = kept.get("identity")
        if not isinstance(identity, int):
            identity = secrets.randbits(62)
        known = self._read()
        deletions = kept.get("deletions")
        self._deletions = deletions if isinstance(deletions, int) else 0
        first_live = kept.get("first_live")
        # A damaged one would hide live jobs: in doubt all are looked at.
        if isinstance(first_live, int) and first_live == kept.get("first_live_again"):
            self.first_live = first_live
        if known is not None and known.identity == identity:
            missing = self._missing(known, epoch, kept.get("deleted"))
            if missing and not accept_loss:
                raise JournalShort(
                    f"the journal {self._path} is shorter than it was: {missing}. What was acknowledged is gone from it;"
                    f" was {self._path.name}-wal removed or damaged? Put it back, or a copy of both, or go on without what is gone:"
                    " --accept-journal-loss"
                )
            if missing:
                logger.error(
                    "going on with a journal that is shorter", extra={"action": Action.LOSS, "reason": missing}
                )
            else:
                self._n, self._revision = known.n, known.revision
            epoch = max(epoch, known.epoch)
        elif known is not None:
            logger.warning(
                "this is another journal than the last", extra={"action": Action.MARK, "journal": str(self._path)}
            )
        self._identity, self._epoch = identity, epoch
        return self.raise_again(guarded)

    def raise_again(self, guarded: Callable[[Callable[[], None]], None]) -> int:
        """One more, on disk when this returns; nothing else is in the transaction."""
        epoch = self._epoch + 1
        self._deletions_then = self._deletions

        def write() -> None:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            pairs = (("epoch", epoch), ("epoch_again", epoch), ("identity", self._identity))
            for pair in pairs:
                self._connection.execute(statements.PUT_META, pair)
            self._connection.execute("COMMIT")

        guarded(write)
        self._epoch = epoch
        self._mark.write(self._identity, epoch, self._n, self._revision, self._deletions)
        return epoch

    def note_first_live(self, n: int, guarded: Callable[[Callable[[], None]], None]) -> None:
        """Keep that no job below this number is live, now and then; nothing may be staged."""
        if n - self.first_live < _FIRST_LIVE_STEP:
            return

        def write() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            for pair in (("first_live", n), ("first_live_again", n)):
                self._connection.execute(statements.PUT_META, pair)
            self._connection.execute("COMMIT")

        guarded(write)
        self.first_live = n

    def deletion(self, written: int) -> tuple[str, list[tuple[str, int]]]:
        """Statements to write beside the deletion of rows: the one that the mark names, or will name after this commit, may be among them.

        `written`: highest revision written since the last commit; 0: nothing was.
        """
        self._deletions_then = self._deletions + 1
        deleted = max(self._revision, written, self._epoch << 32)
        return statements.PUT_META, [("deleted", deleted), ("deletions", self._deletions_then)]

    def committed(self, n: int, revision: int) -> None:
        """This row is on disk (0: none was written), and so are deletions that were noted."""
        newer = n and revision >= self._revision
        if newer:
            self._n, self._revision = n, revision
        if newer or self._deletions_then != self._deletions:
            self._deletions = self._deletions_then
            self._mark.write(self._identity, self._epoch, self._n, self._revision, self._deletions)

    def _read(self) -> Facts | None:
        try:
            return self._mark.read()
        except OSError as error:
            raise JournalBroken(f"the journal's mark {self._path}-mark cannot be read: {error.strerror}") from None

    def _last(self, kept: dict[object, object]) -> int:
        found = [kept.get("epoch"), kept.get("epoch_again", kept.get("epoch"))]
        sound = [value for value in found if isinstance(value, int) and 0 <= value <= _MOST_EPOCHS]
        if len(sound) < len(found) or len(set(sound)) > 1:
            logger.error("the epoch is damaged", extra={"action": Action.DAMAGED, "epoch": str(found)})
        if not sound:
            fence = 0
            for table in ("job", "outcome"):
                query = f"SELECT max(fence) FROM {table} WHERE typeof(fence) = 'integer'"
                fence = max(fence, self._connection.execute(query).fetchone()[0] or 0)
            sound = [min(_MOST_EPOCHS, fence >> 32)]
        return max(sound)

    def _missing(self, known: Facts, epoch: int, deleted: object) -> str:
        """Rows that the mark has and the journal has not, as a text; "" when there are none."""
        if known.epoch > epoch:
            return f"it was opened {known.epoch} times, and knows of {epoch}"
        if known.deletions > self._deletions:
            return "jobs that were deleted last are in it again"
        if not known.n:
            return ""
        row = self._connection.execute(statements.SELECT_EVICTED + " WHERE job.n = ?", (known.n,)).fetchone()
        if row is None:
            # Deletions have the revision that the journal had reached then.
            gone = isinstance(deleted, int) and deleted >= known.revision
            return "" if gone else f"the job that was written last, number {known.n}, is gone"
        try:
            job = rows.decode(row)
        except (ValueError, TypeError, RecursionError):
            return ""  # damaged, which is reported where it is read
        return "" if job.revision >= known.revision else f"job {job.id} is not as it was written last"
