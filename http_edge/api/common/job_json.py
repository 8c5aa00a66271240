"""A job and a worker as the native API's JSON: `_at` are Unix seconds, `_s` durations; null means not known."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from broker.wire.jobspec import Artefact, JobSpec
from broker.wire.messages import JobView, WorkerView
from http_edge.base.job_names import shown_id
from http_edge.jobs.job import Job
from http_edge.jobs.urls import urls
from http_edge.jobs.webhook_view import webhook_json

#: Fields of the spec that are the service's own business; `image` and `save_to` are shown as the client wrote them.
_HIDDEN = ("echo", "image", "save_to", "previews", "traceparent", "request_digest", "warnings")


def job_json(job: Job, progress: int, *, story: bool = False) -> dict[str, Any]:
    """Everything about a job; `story` adds its moves."""
    view = job.view
    body = {
        "id": shown_id(view.id),
        "object": "job",
        "state": view.state,
        "model": view.model,
        "output": job.spec.output if job.spec else None,
        **_motion(view, progress),
        **_steps_done(job),
        "priority": view.priority,
        "attempts": view.attempts,
        "crashes": view.crashes,
        "losses": view.losses,
        "cancel_requested": view.cancel_requested,
        "submitted_at": view.submitted_at,
        "started_at": view.started_at or None,
        "finished_at": view.finished_at or None,
        "deadline_at": view.deadline_at or None,
        "expires_at": job.expires_at or None,
        "timings": _timings(view),
        "set_aside": {"reason": view.set_aside.reason, "at": view.set_aside.at} if view.set_aside else None,
        "error": {"code": view.failure.kind, "message": view.failure.message} if view.failure else None,
        "spec": spec_json(job.spec) if job.spec else None,
        "artefacts": artefacts_json(view),
        "save_error": job.save_error or None,
        "warnings": list(warnings_of(job)),
        "webhook": webhook_json(job),
        "urls": urls(shown_id(view.id)),
    }
    if story:
        body["story"] = [
            {
                "at": move.at,
                "from": move.source or None,
                "to": move.target,
                "cause": move.cause,
                "attempt": move.attempt,
                "worker": move.worker or None,
                "note": move.note or None,
            }
            for move in view.story
        ]
    return body


def warnings_of(job: Job) -> tuple[str, ...]:
    """What of the request was changed or is ignored, and what was found while drawing, one sentence each."""
    asked = job.spec.warnings if job.spec else ()
    drawn = job.view.result.warnings if job.view.result else ()
    return (*asked, *drawn)


def _steps_done(job: Job) -> dict[str, int]:
    """All steps are done once it has succeeded, whatever was heard last."""
    if job.view.state != "succeeded" or job.spec is None:
        return {}
    return {"step": job.spec.num_inference_steps, "total": job.spec.num_inference_steps}


def step_json(view: JobView, progress: int) -> dict[str, Any]:
    """What changes while a job waits or runs: the data of a progress event."""
    return {"id": shown_id(view.id), "state": view.state, **_motion(view, progress)}


def _motion(view: JobView, progress: int) -> dict[str, Any]:
    return {
        "progress": progress,
        "phase": view.phase or None,
        # The counters are the phase's own, and the last phase does not report its end.
        "step": view.total if view.state == "succeeded" else view.step,
        "total": view.total,
        "position": view.position if view.position >= 0 else None,
        "eta_s": round(view.eta_s, 3) if view.eta_s >= 0 else None,
        "worker": view.worker or None,
    }


def _timings(view: JobView) -> dict[str, Any]:
    """Seconds: waiting before the last attempt began, running, from submission to the end, and by stage of the engine."""
    return {
        "queued_s": _span(view.submitted_at, view.started_at),
        "run_s": round(view.run_s, 6) if view.run_s else None,
        "total_s": _span(view.submitted_at, view.finished_at),
        "stages": view.result.stage_durations if view.result else {},
    }


def _span(start: float, end: float) -> float | None:
    return round(max(0.0, end - start), 6) if start and end else None


def spec_json(spec: JobSpec) -> dict[str, Any]:
    """What the job draws, every default filled in."""
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__ if name not in _HIDDEN}
    for name in ("image", "save_to"):
        if getattr(spec, name):
            fields[name] = spec.echo.get(name)
    return fields


def artefacts_json(view: JobView) -> list[dict[str, Any]]:
    """The files of a job that succeeded, with their URLs."""
    if view.state != "succeeded" or view.result is None:
        return []
    return [_artefact_json(shown_id(view.id), artefact) for artefact in view.result.artefacts]


def _artefact_json(job_id: str, artefact: Artefact) -> dict[str, Any]:
    return {**msgspec.structs.asdict(artefact), "url": f"/v1/jobs/{job_id}/result?name={quote(artefact.name)}"}


def worker_json(worker: WorkerView) -> dict[str, Any]:
    """A worker: its device, model, state, what it holds, and its counts since the broker started."""
    return {
        "name": worker.name,
        "object": "worker",
        "state": worker.state,
        "device": worker.device,
        "gpus": worker.gpus,
        "host": worker.host,
        "pid": worker.pid,
        "engine": worker.engine,
        "model": worker.model or None,
        "models": [card.name for card in worker.models],
        "job": shown_id(worker.jobs[0].job_id) if worker.jobs else None,
        "jobs": [
            {"id": shown_id(held.job_id), "phase": held.phase or None, "step": held.step, "total": held.total}
            for held in worker.jobs
        ],
        "free": worker.free,
        "heartbeat_age_s": round(worker.heartbeat_age_s, 3),
        "memory_used_mb": worker.memory_used_mb,
        "memory_total_mb": worker.memory_total_mb,
        "utilisation": worker.utilisation if worker.utilisation >= 0 else None,
        "temperature_c": worker.temperature_c if worker.temperature_c >= 0 else None,
        "succeeded": worker.succeeded,
        "failed": worker.failed,
        "cancelled": worker.cancelled,
        "benched_s": round(worker.benched_s, 3),
        "failed_in_a_row": worker.failed_in_a_row,
    }
