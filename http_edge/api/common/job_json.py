"""A job and a worker as the native API's JSON: `_at` are Unix seconds, `_s` durations; null means not known."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

import msgspec
import msgspec.inspect
from msgspec import UNSET

from broker.wire.jobspec import Artefact, JobSpec
from broker.wire.messages import DeliveryView, HistoryEntry, JobView, Parking, WorkerView
from broker.wire.promises import Promise
from broker.wire.submission import Submission
from http_edge.api.common import schema_jobs as schema
from http_edge.api.common import schema_service
from http_edge.base.job_names import shown_id
from http_edge.jobs.job import Job
from http_edge.jobs.urls import urls
from http_edge.jobs.webhook_fields import EVENTS

#: Members that a job has only where its client gave them, shown as it wrote them; all others are the spec's.
_AS_WRITTEN = ("image", "save_to")
_SPEC = tuple(
    name
    for name in schema.JobSpecView.__struct_fields__
    if name not in (*_AS_WRITTEN, "enhanced_prompt", "inputs", "loras")
)
#: Members of a job that are what the broker's view, or what its client fixed, has under that name; those not listed here are made of it.
_MADE = frozenset(
    (
        "id",
        "phase",
        "step",
        "total",
        "position",
        "eta_s",
        "worker",
        "parking",
        "ready_by",
        "promise",
        "set_aside",
        "history",
        "webhook",
    )
)
_OF_VIEW = tuple(
    name for name in schema.Job.__struct_fields__ if name in JobView.__struct_fields__ and name not in _MADE
)
_OF_SUBMISSION = tuple(
    name
    for name in schema.Job.__struct_fields__
    if name in Submission.__struct_fields__ and name not in (*_MADE, *_OF_VIEW)
)
#: Those that are null where the view has 0 or "".
_NULLABLE = frozenset(
    one.name
    for one in cast("msgspec.inspect.StructType", msgspec.inspect.type_info(schema.Job)).fields
    if isinstance(one.type, msgspec.inspect.UnionType) and one.type.includes_none
)


def job_json(job: Job, progress: int, *, preview: int = 0, with_moves: bool = False) -> schema.Job:
    """A job with all its fields; `preview`: number of its newest one; `with_moves` adds its history."""
    view, spec = job.view, job.spec
    now = step_json(view, progress, preview)
    # All steps are done once it has succeeded, whatever step was reported last.
    steps = spec.num_inference_steps if spec and view.state == "succeeded" else None
    moves = [_move_json(move) for move in view.history] if with_moves else UNSET
    return schema.Job(
        **_own(view, _OF_VIEW),
        **_own(view.submission, _OF_SUBMISSION) | {"draft_steps": _draft_steps(job)},
        id=now.id,
        object="job",
        output=spec.output if spec else None,
        progress=progress,
        phase=now.phase,
        step=now.step if steps is None else steps,
        total=now.total if steps is None else steps,
        position=now.position,
        eta_s=now.eta_s,
        worker=now.worker,
        parking=_parking_json(view.parking) if view.parking else None,
        ready_by=round(view.ready_by, 3) if view.ready_by else None,
        promise=_promise_json(view.promise) if view.promise else None,
        expires_at=job.expires_at or None,
        timings=_timings(view),
        set_aside=schema.JobSetAside(reason=view.set_aside.reason, at=view.set_aside.at) if view.set_aside else None,
        error=schema.JobError(code=view.failure.kind, message=view.failure.message) if view.failure else None,
        spec=_spec_json(spec) if spec else None,
        artefacts=artefacts_json(view),
        save_error=job.save_error or None,
        warnings=list(warnings_of(job)),
        used=view.result.used if view.result else {},
        webhook=_webhook_json(job),
        preview=now.preview,
        urls=schema.JobUrls(**urls(now.id)),
        history=moves,
        story=moves,
    )


def _draft_steps(job: Job) -> int | None:
    """Steps of a draft, as they were requested: of each output."""
    outputs = job.spec.num_outputs if job.spec else 1
    return job.view.submission.draft_steps // outputs or None


def _own(source: JobView | Submission, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: (getattr(source, name) or None) if name in _NULLABLE else getattr(source, name) for name in names}


def taken_json(job: schema.Job, *, duplicate: bool) -> schema.JobTaken:
    """The answer to the submission of a job; `duplicate`: it was there before."""
    return schema.JobTaken(**{name: getattr(job, name) for name in job.__struct_fields__}, duplicate=duplicate)


def step_json(view: JobView, progress: int, preview: int = 0) -> schema.JobStep:
    """Build the data of a progress event: the fields that change while a job waits or runs. `preview`: number of the newest one."""
    job_id = shown_id(view.id)
    return schema.JobStep(
        id=job_id,
        state=view.state,
        progress=progress,
        phase=view.phase or None,
        # The counters are the phase's own, and the last phase does not report its end.
        step=view.total if view.state == "succeeded" else view.step,
        total=view.total,
        position=view.position if view.position >= 0 else None,
        eta_s=round(view.eta_s, 3) if view.eta_s >= 0 else None,
        worker=view.worker or None,
        # Of another attempt the same number is another picture.
        preview=f"{urls(job_id)['self']}/preview?number={preview}&attempt={view.attempts}" if preview else None,
    )


def warnings_of(job: Job) -> tuple[str, ...]:
    """Return the job's warnings, one sentence each: of its request, then of the engine."""
    of_request = job.spec.warnings if job.spec else ()
    drawn = job.view.result.warnings if job.view.result else ()
    return (*of_request, *drawn)


def encoded(member: bytes) -> Any:
    """A member of an answer that is JSON already, in place of its struct."""
    return msgspec.Raw(member)


def _move_json(move: HistoryEntry) -> schema.JobMove:
    return schema.JobMove(
        at=move.at,
        source=move.source or None,
        to=move.target,
        cause=move.cause,
        attempt=move.attempt,
        worker=move.worker or None,
        note=move.note or None,
    )


def _parking_json(parking: Parking) -> schema.JobParking:
    return schema.JobParking(
        reason=parking.reason or None,
        at=parking.at or None,
        requested=parking.requested,
        committed=parking.committed,
        draft_expires_at=parking.draft_expires_at or None,
        preemptions=parking.preemptions,
    )


def _promise_json(promise: Promise) -> schema.JobPromise:
    return schema.JobPromise(
        ready_by=round(promise.ready_by, 3),
        ready_confidence=promise.confidence,
        first_ready_by=round(promise.first_ready_by, 3) if promise.first_ready_by else None,
        broken_at=promise.broken_at or None,
    )


def _timings(view: JobView) -> schema.JobTimings:
    """Seconds: waiting before the last attempt began, running, from submission to the end, and by stage of the engine."""
    return schema.JobTimings(
        queued_s=_span(view.submitted_at, view.started_at),
        run_s=round(view.run_s, 6) if view.run_s else None,
        total_s=_span(view.submitted_at, view.finished_at),
        stages=view.result.stage_durations if view.result else {},
    )


def _span(start: float, end: float) -> float | None:
    return round(max(0.0, end - start), 6) if start and end else None


def _spec_json(spec: JobSpec) -> schema.JobSpecView:
    """Build the view of the job's spec."""
    fields: dict[str, Any] = {name: getattr(spec, name) for name in _SPEC}
    fields |= {name: spec.echo.get(name) for name in _AS_WRITTEN if getattr(spec, name)}
    fields |= {"prompt": spec.requested_prompt, "enhanced_prompt": spec.enhanced_prompt or UNSET}
    inputs = {role: len(paths) for role, paths in spec.inputs.items()}
    loras = [schema.JobLora(name=use.name, scale=use.scale, components=use.components) for use in spec.loras]
    return schema.JobSpecView(**fields, inputs=inputs or UNSET, loras=loras)


def artefacts_json(view: JobView) -> list[schema.JobFile]:
    """The files of a job that succeeded, with their URLs."""
    if view.state != "succeeded" or view.result is None:
        return []
    return [_artefact_json(shown_id(view.id), artefact) for artefact in view.result.artefacts]


def _artefact_json(job_id: str, artefact: Artefact) -> schema.JobFile:
    url = f"/v1/jobs/{job_id}/result?name={quote(artefact.name)}"
    return schema.JobFile(**msgspec.structs.asdict(artefact), url=url)


def _webhook_json(job: Job) -> schema.JobWebhook | None:
    """A job's webhook and what became of its deliveries; None when it has none."""
    view = job.view
    if not view.submission.webhook:
        return None
    return schema.JobWebhook(
        url=view.submission.webhook,
        wanted=[f"job.{event}" for event in view.submission.webhook_events or EVENTS],
        events=[_delivery_json(job, delivery) for delivery in view.deliveries],
    )


def _delivery_json(job: Job, delivery: DeliveryView) -> schema.HookDelivery:
    return schema.HookDelivery(
        type=job.event_type(delivery.event),
        state="sending" if delivery.sending else delivery.state,
        attempts=delivery.attempts,
        last_status=delivery.status or None,
        last_error=delivery.note or None,
        next_at=delivery.next_at or None,
    )


def _or_none(value: float) -> float | None:
    return value if value >= 0 else None


def _loading_json(worker: WorkerView) -> schema_service.WorkerLoading | None:
    now = worker.loading
    if now is None:
        return None
    return schema_service.WorkerLoading(
        phase=now.phase, step=now.step, total=now.total, seconds=round(now.age_s, 3), error=now.error or None
    )


def _depot_json(worker: WorkerView) -> schema_service.WorkerDepot | None:
    now = worker.depot
    if now is None:
        return None
    return schema_service.WorkerDepot(
        results=now.results,
        size_mb=round(now.size_mb, 3),
        inputs=now.inputs,
        seconds=round(now.age_s, 3),
        fault=now.fault or None,
        full=now.full,
    )


def worker_json(worker: WorkerView) -> schema_service.Worker:
    """A worker: its device, model, state, what it holds, and its counts since the broker started."""
    return schema_service.Worker(
        name=worker.name,
        object="worker",
        state=worker.state,
        device=worker.device,
        gpus=worker.gpus,
        host=worker.host,
        pid=worker.pid,
        engine=worker.engine,
        model=worker.model or None,
        models=[card.name for card in worker.models],
        job=shown_id(worker.jobs[0].job_id) if worker.jobs else None,
        jobs=[
            schema_service.WorkerJob(
                id=shown_id(held.job_id), phase=held.phase or None, step=held.step, total=held.total
            )
            for held in worker.jobs
        ],
        free=worker.free,
        heartbeat_age_s=round(worker.heartbeat_age_s, 3),
        memory_used_mb=worker.memory_used_mb,
        memory_total_mb=worker.memory_total_mb,
        utilisation=_or_none(worker.utilisation),
        temperature_c=_or_none(worker.temperature_c),
        succeeded=worker.succeeded,
        failed=worker.failed,
        cancelled=worker.cancelled,
        tripped_s=round(worker.tripped_s, 3),
        benched_s=round(worker.tripped_s, 3),
        failed_in_a_row=worker.failed_in_a_row,
        power_w=_or_none(worker.health.power_w),
        power_limit_w=_or_none(worker.health.power_limit_w),
        clock_mhz=_or_none(worker.health.clock_mhz),
        clock_max_mhz=_or_none(worker.health.clock_max_mhz),
        throttled=list(worker.health.throttled),
        ecc_uncorrected=worker.health.ecc_uncorrected if worker.health.ecc_uncorrected >= 0 else None,
        xids={str(xid): count for xid, count in worker.health.xids.items()},
        fault=worker.health.fault or None,
        loaded_loras=list(worker.loaded_loras),
        lora_memory=worker.lora_memory,
        versions=worker.versions,
        loading=_loading_json(worker),
        depot=_depot_json(worker),
    )
