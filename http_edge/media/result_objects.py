"""Objects of this service's jobs in the store: the files of their attempts, and the pins, for edges of all homes alike.

What lies there and no record names is removed only while the store is known to be this service's: another's results would look the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from broker.depot.object_store import ObjectStore, StoreError
from broker.depot.store_check import service_id
from broker.depot.tokens import ARTEFACTS, attempt_of, job_key
from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError
from broker.wire.jobspec import is_job_id

log = logging.getLogger(__name__)

_PINS = "pins"


class ResultObjects:
    """The objects of one service. What the store does not answer is logged, unless a method says otherwise."""

    def __init__(self, store: ObjectStore, home: Path) -> None:
        self._store = store
        self._home = home
        self._is_ours = False

    def is_ours(self) -> bool:
        """Whether the prefix is known to be this service's: once it is, it stays so."""
        if self._is_ours:
            return True
        try:
            owner, own = self._store.claim(service_id(self._home)), service_id(self._home)
        except (StoreError, SettingsError) as error:
            _warn("not looked at", str(error))
            return False
        if owner != own:
            _warn("not looked at", f"results_store has the results of another service, {owner!r}; this one is {own!r}")
        self._is_ours = owner == own
        return self._is_ours

    def attempts(self, after: str, count: int) -> Iterator[tuple[str, int, float]]:
        """Job, fence, and Unix time of each file of up to `count` jobs, those behind the job `after` ("": from the first), in the order
        of their keys. One request for each thousand files of these jobs."""
        if not self.is_ours():
            return
        seen: set[str] = set()
        try:
            # "0" is what comes behind "/".
            for one in self._store.below(ARTEFACTS, f"{job_key(after)}0" if after else ""):
                attempt = attempt_of(one.key)
                if attempt is None or not is_job_id(attempt[0]):
                    continue
                seen.add(attempt[0])
                if len(seen) > count:
                    return
                yield (*attempt, one.at)
        except StoreError as error:
            _warn("not looked at", str(error))

    def remove(self, prefix: str, fence: int) -> None:
        """Remove of what lies below the prefix the attempts up to this fence; what is not removed now is swept later."""
        try:
            found = [(one.key, attempt_of(one.key)) for one in self._store.below(prefix)]
            self._store.remove([key for key, attempt in found if attempt is not None and attempt[1] <= fence])
        except StoreError as error:
            _warn("left for a later sweep", str(error))

    # ------------------------------------------------------------ pins

    def pin(self, job_id: str) -> None:
        """Keep this job. Raises `StoreError`."""
        self._store.note(f"{_PINS}/{job_id}")

    def unpin(self, job_id: str) -> None:
        """Let this job go when its time has come. Raises `StoreError`."""
        self._store.remove([f"{_PINS}/{job_id}"])

    def is_pinned(self, job_id: str) -> bool:
        """Whether this job is kept. Raises `StoreError`."""
        return self._store.has(f"{_PINS}/{job_id}")

    def pins(self) -> list[str]:
        """The pinned jobs, as far as they may be looked at."""
        try:
            return self._store.names(_PINS) if self.is_ours() else []
        except StoreError as error:
            _warn("not looked at", str(error))
            return []


def _warn(what: str, why: str) -> None:
    log.warning(what, extra={"action": Action.DEPOT, "detail": why})
