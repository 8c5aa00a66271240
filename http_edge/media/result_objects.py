"""Objects of this service's jobs in the store: the files of their attempts, their checkpoints, and the pins, for edges of all homes alike.

What lies there and no record names is removed only while the store is known to be this service's: another's results would look the same.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from broker.depot.object_store import ObjectStore, Stored, StoreError
from broker.depot.store_check import service_id
from broker.depot.tokens import ARTEFACTS, CHECKPOINTS, attempt_of, checkpoint_at, job_checkpoints_key, job_key
from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError
from broker.wire.job_files import checkpoint_of
from broker.wire.jobspec import is_job_id

log = logging.getLogger(__name__)

_PINS = "pins"

#: Checkpoints of each output that are kept of a job that goes on: a worker may be about to fetch the one that was the newest.
_KEPT = 2


class Checkpointed(Struct, frozen=True, kw_only=True):
    """Checkpoints of a job: the Unix time of the last one, and the keys of those in the object store that are of no use any more."""

    at: float
    old: tuple[str, ...] = ()


class ResultObjects:
    """The objects of one service. What the store does not answer is logged, unless a method raises."""

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

    # ------------------------------------------------------------ checkpoints

    def checkpoints(self, job_id: str) -> list[str]:
        """The keys of a job's newest checkpoints, one of each output. Raises `StoreError`."""
        return [keys[0] for _, keys in sorted(_by_output(self._store.below(job_checkpoints_key(job_id))).items())]

    def checkpointed(self, after: str, count: int) -> dict[str, Checkpointed]:
        """Up to `count` jobs that have checkpoints, those behind the job `after` ("": from the first). A request for each thousand."""
        found: dict[str, list[Stored]] = {}
        if not self.is_ours():
            return {}
        try:
            for one in self._store.below(CHECKPOINTS, f"{job_checkpoints_key(after)}0" if after else ""):
                job_id = one.key.split("/")[1]
                if job_id not in found and len(found) == count:
                    break
                if is_job_id(job_id):
                    found.setdefault(job_id, []).append(one)
        except StoreError as error:
            _warn("not looked at", str(error))
        return {
            job_id: Checkpointed(at=max(one.at for one in objects), old=_old(objects))
            for job_id, objects in found.items()
        }

    def remove_checkpoints(self, job_id: str) -> None:
        """Remove a job's checkpoints; what is not removed now is swept later."""
        try:
            self._store.remove([one.key for one in self._store.below(job_checkpoints_key(job_id))])
        except StoreError as error:
            _warn("left for a later sweep", str(error))

    def remove_old(self, keys: Sequence[str]) -> None:
        """Remove these checkpoints; what is not removed now is swept later."""
        try:
            self._store.remove(keys)
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


def _by_output(objects: Iterable[Stored]) -> dict[int, list[str]]:
    """The keys of each output's checkpoints, the newest first, before all others those of the last attempt that put any."""
    found: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for one in objects:
        if (there := checkpoint_at(one.key)) is not None and (place := checkpoint_of(there[2])) is not None:
            found[place[0]].append((there[1], place[1], one.key))
    return {output: [key for _, _, key in sorted(places, reverse=True)] for output, places in found.items()}


def _old(objects: Iterable[Stored]) -> tuple[str, ...]:
    """The keys of those that are of no use any more."""
    return tuple(key for keys in _by_output(objects).values() for key in keys[_KEPT:])


def _warn(what: str, why: str) -> None:
    log.warning(what, extra={"action": Action.DEPOT, "detail": why})
