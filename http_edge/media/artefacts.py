"""Artefacts of jobs: finding one by name or index, its path, and its file name in downloads."""

from __future__ import annotations

from pathlib import Path

from broker.wire.jobspec import Artefact
from broker.wire.messages import JobView
from http_edge.base.errors import EdgeError, shown
from http_edge.base.job_names import shown_id


def artefact_path(artefacts: Path, view: JobView, artefact: Artefact) -> Path:
    """Return the path of an artefact of a finished job."""
    return artefacts / view.id / str(view.fence) / artefact.name


def find_artefact(view: JobView, *, name: str | None = None, index: int = 0) -> tuple[int, Artefact]:
    """An artefact of a job by name or index. Raises `EdgeError` `not_ready` while there are none, `not_found` for a wrong one."""
    if view.state != "succeeded" or view.result is None:
        if view.state in ("failed", "cancelled"):
            why = f": {view.failure.message}" if view.failure and view.failure.message else ""
            raise EdgeError(
                "not_ready",
                f"job {shown_id(view.id)} is {view.state} and has no result{why}",
                param="id",
                value=shown_id(view.id),
            )
        step = f" at step {view.step} of {view.total}" if view.total else ""
        raise EdgeError(
            "not_ready",
            f"job {shown_id(view.id)} is {view.state}{step}; it has no result yet",
            param="id",
            value=shown_id(view.id),
        )
    artefacts = view.result.artefacts
    if name is not None:
        for position, artefact in enumerate(artefacts):
            if artefact.name == name:
                return position, artefact
        known = ", ".join(artefact.name for artefact in artefacts) or "none"
        raise EdgeError(
            "not_found", f"name: {shown(name)} is not an artefact of this job; there are: {known}", param="name"
        )
    if not 0 <= index < len(artefacts):
        raise EdgeError(
            "not_found",
            f"index: {index} is not an artefact of this job; there are {len(artefacts)}, from 0",
            param="index",
        )
    return index, artefacts[index]


def file_name(view: JobView, index: int, artefact: Artefact) -> str:
    """Return the file name of a download: by its job, as every job's first file has the same name."""
    suffix = Path(artefact.name).suffix
    job_id = shown_id(view.id)
    return f"{job_id}{suffix}" if index == 0 else f"{job_id}-{index}{suffix}"
