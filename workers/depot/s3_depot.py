"""Results and checkpoints in an object store, everything else at an edge: inputs are fetched there, drafts and previews are shown from
there. The edge lists which checkpoints there are: a worker's keys need not list the store."""

from __future__ import annotations

from pathlib import Path

from broker.depot.object_store import NotThere, ObjectStore, StoreError
from broker.depot.tokens import ARTEFACTS, checkpoint_at
from broker.wire.job_files import preview_number
from workers.depot.depot import Depot, DepotFile, NotNow, Revoked


class S3Depot:
    """A depot in two places."""

    def __init__(self, store: ObjectStore, edge: Depot) -> None:
        self._store = store
        self._edge = edge

    @property
    def key(self) -> str:
        """With which requests to the edge are signed."""
        return self._edge.key

    @key.setter
    def key(self, key: str) -> None:
        self._edge.key = key

    def put(self, file: DepotFile, revoked: Revoked, *, again: bool) -> None:
        """Put a file; `again`: it may be there already. Raises `NotNow`."""
        is_result = file.key.startswith(f"{ARTEFACTS}/") and not preview_number(Path(file.key).name)
        if not is_result and checkpoint_at(file.key) is None:
            self._edge.put(file, revoked, again=again)
            return
        try:
            self._store.put(file.key, file.path, file.size, file.sha256, again=again)
        except StoreError as error:
            raise NotNow(str(error)) from None

    def discard(self, job_id: str, fence: int) -> None:
        """Remove what was put of an attempt that does not count. Raises `NotNow`."""
        # The edge decides whether it counts, and removes it from the store as well.
        self._edge.discard(job_id, fence)

    def checkpoints(self, job_id: str, fence: int) -> list[str]:
        """The keys of a job's newest checkpoints, one of each output, for its attempt of this fence. Raises `NotNow`, `Refused`."""
        return self._edge.checkpoints(job_id, fence)

    def fetch_checkpoint(self, key: str, target: Path, revoked: Revoked) -> None:
        """Fetch a checkpoint to the path `target`, whole or not at all. Raises `NotNow`, `Refused`."""
        try:
            self._store.fetch(key, target)
        except NotThere:
            # It lies on the edge's disk: a worker of before put it there.
            self._edge.fetch_checkpoint(key, target, revoked)
        except StoreError as error:
            raise NotNow(str(error)) from None

    def fetch(self, name: str, target: Path, revoked: Revoked) -> None:
        """Fetch an input to the path `target`, whole and with the SHA-256 of its name, or not at all. Raises `NotNow`, `InputGone`."""
        self._edge.fetch(name, target, revoked)
