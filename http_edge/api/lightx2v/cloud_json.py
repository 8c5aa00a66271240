"""Tasks and models as LightX2V's cloud API shows them. `_t` are Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.wire.jobspec import ModelCard
from broker.wire.messages import JobStateName
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.views import failure_text, warnings_member
from http_edge.jobs.job import Job
from http_edge.media.exports import SUFFIXES

#: Its name of each state.
_STATUS: dict[JobStateName, lx.CloudStatus] = {
    "queued": "PENDING",
    "delayed": "PENDING",
    "parked": "PENDING",
    "assigned": "PENDING",
    "running": "RUNNING",
    "succeeded": "SUCCEED",
    "failed": "FAILED",
    "cancelled": "CANCEL",
}
#: The states that each of its words stands for. A task here is never merely CREATED: it is queued when it is accepted.
STATUSES: dict[str, tuple[JobStateName, ...]] = {
    status: tuple(state for state in _STATUS if _STATUS[state] == status)
    for status in ("CREATED", *dict.fromkeys(_STATUS.values()))
}

_STAGE = "single_stage"

#: Parts of the spec that its parameters name as they are.
_PARAMS = ("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale", "num_frames", "fps")


def cloud_models(cards: Iterable[ModelCard]) -> list[lx.CloudModel]:
    """One entry a kind of task that a model can do."""
    return [
        lx.CloudModel(task=task, model_cls=card.name, stage=_STAGE, supported_plans=[])
        for card in cards
        for task in _tasks_of(card)
    ]


def _tasks_of(card: ModelCard) -> list[str]:
    tasks = []
    for output, letter in (("video", "v"), ("image", "i")):
        if card.makes(output):
            tasks += [f"t2{letter}"] if not card.needs_image else []
            tasks += [f"i2{letter}"] if card.draws_from_image(output) else []
    return tasks


def output_name(job: Job) -> str:
    """Return the name of a task's only output."""
    return f"output_{job.spec.output if job.spec else 'video'}"


def params_of(job: Job) -> dict[str, Any]:
    """Build a task's `params` from its spec."""
    spec = job.spec
    if spec is None:
        return {}
    params = {name: getattr(spec, name) for name in _PARAMS}
    if spec.output == "image":
        del params["num_frames"], params["fps"]
    params["custom_shape"] = [spec.height, spec.width]
    if spec.echo.get("aspect_ratio"):
        params["aspect_ratio"] = spec.echo["aspect_ratio"]
    return params


def worker_of(job: Job) -> dict[str, Any]:
    """The one stage that a task has here."""
    inputs = ["input_image"] if job.spec and job.spec.image else []
    return {"inputs": inputs, "outputs": [output_name(job)], "queue": job.view.submission.model, "previous": []}


def cloud_task(job: Job) -> lx.CloudTask:
    """A task with its only subtask."""
    view, spec = job.view, job.spec
    output = spec.output if spec else "video"
    echo = spec.echo if spec else {}
    inputs = {"input_image": f"{view.submission.alias}-input_image"} if spec and spec.image else {}
    outputs = {output_name(job): f"{view.submission.alias}{SUFFIXES[output]}"}
    failed = {"fail_msg": failure_text(view)} if view.state == "failed" else {}
    times = {"create_t": view.submitted_at, "update_t": view.finished_at or view.started_at or view.submitted_at}
    status = _STATUS[view.state]
    subtask: dict[str, Any] = {
        "task_id": view.submission.alias,
        "worker_name": "pipeline",
        "status": status,
        "inputs": inputs,
        "outputs": outputs,
        "queue": view.submission.model,
        "previous": [],
        "worker_identity": view.worker,
        "fail_time": view.crashes + view.losses,
        "extra_info": failed,
        **times,
        "infer_cost": view.run_s or -1.0,
        "estimated_pending_order": view.position + 1 if view.position >= 0 else None,
        "estimated_pending_secs": view.eta_s if view.eta_s >= 0 else None,
        **failed,
    }
    return lx.CloudTask(
        task_id=view.submission.alias,
        task_type=str(echo.get("task") or ("t2v" if output == "video" else "t2i")),
        model_cls=view.submission.model,
        stage=str(echo.get("stage") or _STAGE),
        params=params_of(job),
        status=status,
        create_t=times["create_t"],
        update_t=times["update_t"],
        inputs=inputs,
        outputs=outputs,
        extra_info=failed,
        tag="",
        warnings=warnings_member(job),
        subtasks=[subtask],
    )
