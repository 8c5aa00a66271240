"""The files of a worker's attempts: their directories, and what goes to the depot and comes from it.

Where there is a depot, an attempt's files lie in the worker's spool until they are in the depot and its result is acknowledged. Of what an
agent before this one left there, results go on from where they were (`spooled_results`); the rest is of attempts that ended with it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from broker.depot.tokens import artefact_key, draft_key
from broker.runtime.job_paths import regular_names
from broker.runtime.log_actions import Action
from broker.wire.job_files import is_draft_name, newest_checkpoints, preview_number
from workers.agent import attempt_dirs, spooled_results
from workers.agent import effects as fx
from workers.agent.dirs import WorkerDirs
from workers.agent.spooled_results import SpooledResult
from workers.depot.depot import DepotFile
from workers.depot.orders import Discard, Fetch, Kept, Put, PutCheckpoints, PutExtra
from workers.depot.transfers import Transfers
from workers.supervisor.agent_policy import AgentPolicy

_CHECKPOINTS_KEPT_S = 86_400.0

logger = logging.getLogger(__name__)


class WorkerFiles:
    """Carries out the file effects of the agent's core."""

    def __init__(self, dirs: WorkerDirs, transfers: Transfers | None, *, yields: bool = False) -> None:
        """`yields`: another process may bear the worker's name, and use its spool."""
        self.dirs = dirs
        self.transfers = transfers
        self._out_root = Path(dirs.out_root)
        self._artefacts = Path(dirs.artefacts)
        #: Previews that were put, of attempts that are not over.
        self._shown: set[Path] = set()
        #: Of attempts that are not over: when their checkpoints were put last, or they were seen first, and which.
        self._kept: dict[int, tuple[float, dict[int, int]]] = {}
        #: Results that the agent before did not get into the depot.
        self.left: tuple[SpooledResult, ...] = ()
        if transfers is not None:
            if not yields:
                self.left = spooled_results.take_up(self._out_root, time.time())
            # No edge of this machine cleans them up, and their jobs may have ended elsewhere.
            attempt_dirs.remove_old_checkpoints(self._artefacts, time.time() - _CHECKPOINTS_KEPT_S)

    def make_dir(self, job_id: str, fence: int) -> None:
        """Make the directory of an attempt. Raises `OSError`, `ValueError`."""
        attempt_dirs.make(self._out_root, job_id, fence)

    def remove_dir(self, job_id: str, fence: int) -> None:
        """Remove the directory of an attempt; a failure is logged."""
        self._kept.pop(fence, None)
        self._removed(job_id, lambda: attempt_dirs.remove(self._out_root, job_id, fence))
        directory = attempt_dirs.attempt_dir(self._out_root, job_id, fence)
        self._shown = {path for path in self._shown if path.parent != directory}

    def remove_checkpoints(self, job_id: str) -> None:
        """Remove the checkpoints of a job; a failure is logged."""
        self._removed(job_id, lambda: attempt_dirs.remove_checkpoints(self._artefacts, job_id))

    def carry_out(self, effect: fx.DepotEffect, policy: AgentPolicy) -> None:
        """Give an order to the depot's threads."""
        if self.transfers is None:
            return
        match effect:
            case fx.KeepResult(message, age_s):
                try:
                    spooled_results.keep(self._out_root, message, time.time() - age_s)
                except (OSError, ValueError) as error:
                    extra = {"action": Action.DEPOT, "job_id": message.job_id, "detail": str(error)}
                    logger.warning("a result would be lost with this agent", extra=extra)
            case fx.PutFiles(job_id, fence, artefacts, again):
                files = tuple(
                    DepotFile(
                        key=artefact_key(job_id, fence, file.name),
                        path=attempt_dirs.attempt_dir(self._out_root, job_id, fence) / file.name,
                        size=file.size,
                        sha256=file.sha256,
                    )
                    for file in artefacts
                )
                budget_s = policy.put_budget_s
                self.transfers.order(Put(job_id=job_id, fence=fence, files=files, budget_s=budget_s, again=again))
            case fx.PutDraft(job_id, fence):
                self._put_draft(job_id, fence, policy.park_put_s)
            case fx.PutParked(job_id, fence, budget_s):
                self.transfers.order(PutCheckpoints(fence=fence, kept=self._kept_of(job_id, fence), budget_s=budget_s))
            case fx.FetchInputs(fence, names, job_id):
                kept = self._kept_of(job_id, fence) if job_id else None
                self.transfers.order(Fetch(fence=fence, names=names, budget_s=policy.fetch_budget_s, kept=kept))
            case fx.Revoke(fence):
                self.transfers.revoke(fence)
            case fx.DiscardFiles(job_id, fence):
                self.transfers.order(Discard(job_id=job_id, fence=fence))
            case fx.SetDepotKey(key):
                self.transfers.set_key(key)

    def show_previews(self, job_id: str, fence: int) -> None:
        """Put the previews that an attempt has drawn since this was called last."""
        if self.transfers is None:
            return
        for path in self._new_previews(job_id, fence):
            self._shown.add(path)
            key = artefact_key(job_id, fence, path.name)
            self.transfers.order(PutExtra(fence=fence, key=key, path=path))

    def _new_previews(self, job_id: str, fence: int) -> list[Path]:
        """The previews of an attempt that were not put yet."""
        directory = attempt_dirs.attempt_dir(self._out_root, job_id, fence)
        try:
            found = sorted(path for path in directory.iterdir() if preview_number(path.name))
        except OSError:
            return []
        return [path for path in found if path not in self._shown]

    def _put_draft(self, job_id: str, fence: int, budget_s: float) -> None:
        """Put the drafts of an attempt that is being parked, and the previews that it drew last."""
        assert self.transfers is not None
        directory = attempt_dirs.checkpoint_dir(self._artefacts, job_id)
        shown: list[tuple[str, Path]] = []
        for preview in self._new_previews(job_id, fence):
            kept = directory / preview.name
            with contextlib.suppress(OSError):
                # The attempt's directory is removed before the depot's thread comes to it.
                preview.rename(kept)
                shown.append((artefact_key(job_id, fence, preview.name), kept))
        with contextlib.suppress(OSError):
            drafts = sorted(path for path in directory.iterdir() if is_draft_name(path.name))
            shown += [(draft_key(job_id, fence, path.name), path) for path in drafts]
        for key, path in shown:
            self.transfers.order(PutExtra(fence=fence, key=key, path=path, parked=True, budget_s=budget_s))

    def put_checkpoints(self, job_id: str, fence: int, every_s: float, now: float) -> None:
        """Put the newest checkpoints of an attempt, `every_s` seconds after this was done last (0: never), if there are newer ones."""
        if self.transfers is None or not every_s:
            return
        since, before = self._kept.setdefault(fence, (now, {}))
        if now - since < every_s:
            return
        kept = self._kept_of(job_id, fence)
        newest = _newest(kept)
        if newest != before:
            self._kept[fence] = now, newest
            self.transfers.order(PutCheckpoints(fence=fence, kept=kept))

    def _kept_of(self, job_id: str, fence: int) -> Kept:
        return Kept(job_id=job_id, fence=fence, directory=attempt_dirs.checkpoint_dir(self._artefacts, job_id))

    def close(self) -> None:
        """End the depot's threads."""
        if self.transfers is not None:
            self.transfers.close()

    def _removed(self, job_id: str, remove: Callable[[], None]) -> None:
        try:
            remove()
        except (OSError, ValueError) as error:
            logger.warning(
                "cannot remove a job's files",
                extra={"action": Action.REMOVE_FAILED, "job_id": job_id, "detail": str(error)},
            )


def _newest(kept: Kept) -> dict[int, int]:
    """The latest step of each output among the checkpoints on this machine."""
    try:
        return newest_checkpoints(regular_names(kept.directory))
    except OSError:
        return {}
